"""The laws of SweepStore that concern the queue: whose turn it is, and what is passed over; for every store."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text
from store_values import SPEC, START, TTL, FakeClock, claimed, events_of, new_attempt, new_sweep, new_trial

from sweep_service.domain.errors import SweepNotFoundError
from sweep_service.domain.events import EventKind
from sweep_service.domain.resources import Resources
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, Verb
from sweep_service.domain.trial import Lease
from sweep_service.ports import SweepStore
from sweep_service.storage.sql import SqlSweepStore

S = SweepState
IDS = [new_sweep(index).id for index in range(6)]


def of_priority(priority: int) -> SweepSpec:
    return SPEC.model_copy(update={"priority": priority})


def add(store: SweepStore, *priorities: int, waited: timedelta = timedelta(0)) -> None:
    """Sweeps 0, 1, 2, … with these priorities."""
    for index, priority in enumerate(priorities):
        store.add_sweep(new_sweep(index, spec=of_priority(priority), queued_at=START - waited))


def claim(store: SweepStore, *, queued: Collection[str] | None = None) -> Lease | None:
    return store.claim_sweep(owner="dispatcher", ttl=TTL, queued=queued)


def claimed_in_order(store: SweepStore) -> list[int]:
    return [IDS.index(lease.sweep_id) for lease in iter(lambda: claim(store), None)]


def test_a_higher_priority_is_sooner_and_of_equal_ones_who_was_there_first(store: SweepStore) -> None:
    add(store, 0, 5, -3, 5, 100, -100)
    assert claimed_in_order(store) == [4, 1, 3, 0, 2, 5]


def test_who_has_waited_longest_comes_first_whatever_its_id(store: SweepStore) -> None:
    for index, minutes in ((0, 1), (1, 3), (2, 2)):
        store.add_sweep(new_sweep(index, queued_at=START - timedelta(minutes=minutes)))
    assert claimed_in_order(store) == [1, 2, 0]


def test_a_sweep_that_is_resumed_goes_behind_those_that_wait_already(store: SweepStore) -> None:
    lease = claimed(store)
    for state in (S.RUNNING, S.PAUSING, S.PAUSED):
        store.move_sweep(lease, state)
    store.release_lease(lease)
    store.add_sweep(new_sweep(1))
    assert store.get_sweep(IDS[0]).queued_at is None
    assert store.control_sweep(IDS[0], Verb.RESUME).queued_at is not None
    assert claimed_in_order(store) == [1, 0]


def test_a_sweep_that_is_opened_again_goes_behind_those_that_wait_already(store: SweepStore) -> None:
    lease = claimed(store)
    store.move_sweep(lease, S.FAILED)
    store.release_lease(lease)
    store.add_sweep(new_sweep(1))
    store.control_sweep(IDS[0], Verb.RETRY)
    assert claimed_in_order(store) == [1, 0]


def test_another_priority_is_another_place_and_keeps_the_time_that_was_waited(store: SweepStore) -> None:
    add(store, 0, 0, 0)
    amended = store.amend_sweep(IDS[2], of_priority(1), revision=0)
    assert amended.queued_at == START
    store.amend_sweep(IDS[0], of_priority(-1), revision=0)
    assert claimed_in_order(store) == [2, 1, 0]


@pytest.mark.parametrize("state", [S.STARTING, S.RUNNING, S.STOPPING, S.CANCELLING])
def test_what_a_dead_conductor_has_left_comes_before_all_that_is_queued(store: SweepStore, state: SweepState) -> None:
    lease = claimed(store, new_sweep(1, spec=of_priority(-100)))
    if state is not S.STARTING:
        store.move_sweep(lease, state)
    store.release_lease(lease)
    store.add_sweep(new_sweep(0, spec=of_priority(100)))
    assert claimed_in_order(store) == [1, 0]


def test_of_several_that_are_left_the_one_with_the_highest_priority_goes_on_first(store: SweepStore) -> None:
    add(store, 0, 7, 3)
    for lease in [claim(store) for _ in range(3)]:
        assert lease is not None
        store.release_lease(lease)
    assert claimed_in_order(store) == [1, 2, 0]


def test_of_those_that_are_queued_only_named_ones_are_claimed(store: SweepStore) -> None:
    add(store, 5, 0, 3)
    assert claim(store, queued=[]) is None
    lease = claim(store, queued={IDS[1], IDS[2]})
    assert lease is not None
    assert lease.sweep_id == IDS[2]
    store.release_lease(lease)
    again = claim(store, queued=[IDS[0]])
    assert again is not None
    assert again.sweep_id == IDS[2], "what is left is not of the queue"


def test_places_are_counted_in_the_order_of_claims(store: SweepStore) -> None:
    add(store, 0, 5, 0, -1)
    assert store.queue_places(IDS) == {IDS[1]: 1, IDS[0]: 2, IDS[2]: 3, IDS[3]: 4}
    assert store.queue_places([IDS[2], IDS[5]]) == {IDS[2]: 3}
    assert store.queue_places([]) == {}
    for index in (1, 0):
        lease = claim(store)
        assert lease is not None
        assert lease.sweep_id == IDS[index]
    assert store.queue_places(IDS) == {IDS[2]: 1, IDS[3]: 2}
    store.control_sweep(IDS[2], Verb.CANCEL)
    assert store.queue_places(IDS) == {IDS[3]: 1}


def test_a_sweep_is_queued_since_the_time_of_the_store(clocked_store: SweepStore, fake_clock: FakeClock) -> None:
    lease = claimed(clocked_store)
    clocked_store.move_sweep(lease, S.FAILED)
    fake_clock.advance(timedelta(minutes=5))
    assert clocked_store.control_sweep(IDS[0], Verb.RETRY).queued_at == START + timedelta(minutes=5)


def test_a_spec_from_before_there_were_priorities_has_none_above_others() -> None:
    document = SPEC.canonical()
    del document["priority"]
    assert SweepSpec.trusted(document).priority == 0


# --- what is passed over ----------------------------------------------------------------------------------------------


def notices(store: SweepStore) -> list[str]:
    return [event.message for event in events_of(store, IDS[0]) if event.kind is EventKind.SWEEP_NOTICE]


@pytest.mark.parametrize("reason", [SweepReason.UNSCHEDULABLE, SweepReason.LIMITED])
def test_a_sweep_that_is_passed_over_says_why_and_has_no_place(store: SweepStore, reason: SweepReason) -> None:
    add(store, 1, 0)
    store.explain_wait(IDS[0], reason, "8 GPUs")
    told = store.get_sweep(IDS[0])
    assert (told.state, told.reason, told.message, told.queued_at) == (S.QUEUED, reason, "8 GPUs", START)
    assert store.queue_places(IDS) == {IDS[1]: 1}
    assert notices(store) == ["8 GPUs"]


def test_the_same_reason_is_told_once_and_shown_as_it_is_now(store: SweepStore) -> None:
    add(store, 0)
    for message in ("8 GPUs, of 2", "8 GPUs, of 2", "8 GPUs, of 4"):
        store.explain_wait(IDS[0], SweepReason.UNSCHEDULABLE, message)
    assert store.get_sweep(IDS[0]).message == "8 GPUs, of 4"
    assert notices(store) == ["8 GPUs, of 2"]
    store.explain_wait(IDS[0], SweepReason.LIMITED, "no packs")
    assert notices(store) == ["8 GPUs, of 2", "no packs"]


def test_a_sweep_that_is_passed_over_no_more_waits_where_it_did(store: SweepStore) -> None:
    add(store, 1, 0)
    store.explain_wait(IDS[0], SweepReason.UNSCHEDULABLE, "8 GPUs")
    for _ in range(2):
        store.explain_wait(IDS[0], None)
    sweep = store.get_sweep(IDS[0])
    assert (sweep.reason, sweep.message) == (None, "")
    assert store.queue_places(IDS) == {IDS[0]: 1, IDS[1]: 2}
    assert notices(store) == ["8 GPUs", "It waits its turn again."]


def test_what_a_user_has_led_to_is_not_wiped_out(store: SweepStore) -> None:
    lease = claimed(store)
    store.move_sweep(lease, S.FAILED)
    before = store.control_sweep(IDS[0], Verb.RETRY)
    store.explain_wait(IDS[0], None)
    assert store.get_sweep(IDS[0]) == before
    assert before.reason is SweepReason.USER


def test_a_claim_ends_the_reason_of_the_wait(store: SweepStore) -> None:
    add(store, 0)
    store.explain_wait(IDS[0], SweepReason.LIMITED, "no packs")
    assert claim(store) is not None
    before = store.get_sweep(IDS[0])
    assert (before.state, before.reason, before.message) == (S.STARTING, None, "")
    store.explain_wait(IDS[0], SweepReason.LIMITED, "no packs")
    assert store.get_sweep(IDS[0]) == before, "it is not in the queue any more"


def test_a_sweep_is_passed_over_for_reasons_of_the_queue_alone(store: SweepStore) -> None:
    add(store, 0)
    with pytest.raises(ValueError, match="user"):
        store.explain_wait(IDS[0], SweepReason.USER)
    with pytest.raises(SweepNotFoundError):
        store.explain_wait(IDS[1], None)


# --- demands ----------------------------------------------------------------------------------------------------------


def test_demands_are_what_sweeps_ask_for_in_the_order_of_claims(store: SweepStore) -> None:
    add(store, 0, 5)
    store.explain_wait(IDS[0], SweepReason.LIMITED, "no packs")
    first, second = store.list_demands([S.QUEUED])
    assert (first.id, first.priority, first.reason, first.num_packs) == (IDS[1], 5, None, 0)
    assert (second.id, second.reason, second.message) == (IDS[0], SweepReason.LIMITED, "no packs")
    assert (second.project, second.labels, second.state) == ("default", {"team": "ads"}, S.QUEUED)
    assert second.resources == SPEC.resources
    assert store.list_demands([S.RUNNING]) == []
    assert store.list_demands([]) == []


def test_the_packs_of_a_sweep_are_counted_while_an_attempt_of_theirs_runs(store: SweepStore) -> None:
    store.add_sweep(new_sweep(1))
    lease = claimed(store)
    other = store.claim_sweep(owner="dispatcher", ttl=TTL)
    assert other is not None
    trials = [new_trial(lease.sweep_id, number) for number in range(4)]
    store.add_trials(lease, trials)
    for trial, pack in zip(trials, ("a", "a", "b", ""), strict=True):
        store.start_attempt(lease, new_attempt(trial, pack=pack))

    def counts() -> dict[str, int]:
        return {demand.id: demand.num_packs for demand in store.list_demands([S.STARTING])}

    assert counts() == {IDS[0]: 3, IDS[1]: 0}
    store.end_attempt(lease, new_attempt(trials[0]).id, AttemptState.PREEMPTED)
    assert counts() == {IDS[0]: 3, IDS[1]: 0}
    store.end_attempt(lease, new_attempt(trials[1]).id, AttemptState.PREEMPTED)
    assert counts() == {IDS[0]: 2, IDS[1]: 0}


def test_a_spec_from_before_there_were_resources_asks_for_the_defaults(emptied_postgres: Engine) -> None:
    store = SqlSweepStore(emptied_postgres)
    add(store, 0)
    with emptied_postgres.begin() as connection:
        connection.execute(text("UPDATE sweeps SET spec = CAST(spec AS jsonb) - 'resources' - 'labels'"))
    (demand,) = store.list_demands([S.QUEUED])
    assert (demand.resources, demand.labels) == (Resources(), {})


def test_a_sweep_that_has_ended_asks_for_nothing(store: SweepStore) -> None:
    lease = claimed(store)
    assert [demand.id for demand in store.list_demands(SweepState)] == [lease.sweep_id]
    store.move_sweep(lease, S.FAILED)
    assert store.list_demands(SweepState) == []
