"""The laws of SweepStore that concern the queue: whose turn it is, and what is passed over; for every store."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

import pytest
from store_values import SPEC, START, TTL, FakeClock, claimed, new_sweep

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepState, Verb
from sweep_service.domain.trial import Lease
from sweep_service.ports import SweepStore

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
