"""The laws of SweepStore that concern claims, leases and the fence: for every store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from store_values import TTL, FakeClock, claimed, events_of, new_attempt, new_end, new_report, new_sweep, new_trial

from sweep_service.domain.errors import LeaseLostError
from sweep_service.domain.events import EventKind
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, Verb
from sweep_service.domain.trial import Lease
from sweep_service.ports import SweepStore

S = SweepState
NOTHING = timedelta(0)


def test_a_claim_starts_the_sweep_and_its_first_generation(store: SweepStore) -> None:
    store.add_sweep(new_sweep())
    lease = store.claim_sweep(owner="dispatcher-1", ttl=TTL)
    assert lease is not None
    assert (lease.sweep_id, lease.owner, lease.generation) == (new_sweep().id, "dispatcher-1", 1)
    sweep = store.get_sweep(lease.sweep_id)
    assert (sweep.state, sweep.generation, sweep.reason) == (S.STARTING, 1, None)
    submitted, told, moved = events_of(store, lease.sweep_id)
    assert submitted.kind is EventKind.SWEEP_SUBMITTED
    assert (told.kind, told.data) == (EventKind.SWEEP_CLAIMED, {"owner": "dispatcher-1", "generation": 1})
    assert (moved.kind, moved.data) == (
        EventKind.SWEEP_MOVED,
        {"from": "queued", "to": "starting", "reason": None},
    )


def test_the_oldest_sweep_is_claimed_first(store: SweepStore) -> None:
    for index in (2, 0, 1):
        store.add_sweep(new_sweep(index))
    leases = [store.claim_sweep(owner="dispatcher", ttl=TTL) for _ in range(4)]
    assert [lease and lease.sweep_id for lease in leases] == [*(new_sweep(i).id for i in range(3)), None]


def test_nothing_waits_in_an_empty_store(store: SweepStore) -> None:
    assert store.claim_sweep(owner="dispatcher", ttl=TTL) is None


@pytest.mark.parametrize("state", [S.STARTING, S.RUNNING, S.PAUSING, S.STOPPING, S.CANCELLING])
def test_a_sweep_whose_lease_ran_out_goes_to_the_next_generation_as_it_stands(
    store: SweepStore, state: SweepState
) -> None:
    dead = claimed(store)
    for step in {S.STARTING: ()}.get(state, (state,)):
        store.move_sweep(dead, step, reason=SweepReason.USER, message="as it was")
    before = store.get_sweep(dead.sweep_id)
    assert store.claim_sweep(owner="too early", ttl=TTL) is None
    store.renew_lease(dead, ttl=NOTHING)
    lease = store.claim_sweep(owner="successor", ttl=TTL)
    assert lease is not None
    assert (lease.generation, lease.owner) == (2, "successor")
    assert lease.token != dead.token
    after = store.get_sweep(dead.sweep_id)
    assert replace(after, generation=1, updated_at=before.updated_at) == before
    assert events_of(store, dead.sweep_id)[-1].kind is EventKind.SWEEP_CLAIMED
    assert store.claim_sweep(owner="third", ttl=TTL) is None


@pytest.mark.parametrize("path", [(S.PAUSING, S.PAUSED), (S.FAILED,), (S.RUNNING, S.COMPLETED)], ids=str)
def test_a_sweep_that_rests_or_has_ended_waits_for_nobody(store: SweepStore, path: tuple[SweepState, ...]) -> None:
    lease = claimed(store)
    for step in path:
        store.move_sweep(lease, step)
    store.release_lease(lease)
    assert store.claim_sweep(owner="dispatcher", ttl=TTL) is None


def test_a_queued_sweep_is_claimed_even_while_its_last_lease_lives(store: SweepStore) -> None:
    old = claimed(store)
    for step in (S.PAUSING, S.PAUSED, S.QUEUED):
        store.move_sweep(old, step)
    assert store.claim_sweep(owner="dispatcher", ttl=TTL) is not None
    with pytest.raises(LeaseLostError):
        store.add_notice(old, "still here")


def test_a_released_lease_frees_the_sweep_at_once(store: SweepStore) -> None:
    lease = claimed(store)
    store.release_lease(lease)
    with pytest.raises(LeaseLostError):
        store.renew_lease(lease, ttl=TTL)
    again = store.claim_sweep(owner="dispatcher", ttl=TTL)
    assert again is not None
    assert again.generation == 2


def test_releasing_a_lost_lease_does_not_touch_the_next_one(store: SweepStore) -> None:
    lost = claimed(store)
    store.renew_lease(lost, ttl=NOTHING)
    current = store.claim_sweep(owner="successor", ttl=TTL)
    assert current is not None
    store.release_lease(lost)
    store.release_lease(lost)
    store.add_notice(current, "mine")


def test_a_renewed_lease_is_the_same_right_for_longer(store: SweepStore) -> None:
    lease = claimed(store)
    before = events_of(store, lease.sweep_id)
    renewed = store.renew_lease(lease, ttl=2 * TTL)
    assert renewed.expires_at > lease.expires_at
    assert replace(renewed, expires_at=lease.expires_at) == lease
    for held in (lease, renewed):  # the token counts, not the copy's expiry
        store.add_notice(held, "mine")
    assert len(events_of(store, lease.sweep_id)) == len(before) + 2


def test_a_lease_ends_exactly_at_its_time(clocked_store: SweepStore, fake_clock: FakeClock) -> None:
    lease = claimed(clocked_store)
    assert lease.expires_at == fake_clock.now() + TTL
    fake_clock.advance(TTL - timedelta(microseconds=1))
    clocked_store.add_notice(lease, "in time")
    assert clocked_store.claim_sweep(owner="too early", ttl=TTL) is None
    fake_clock.advance(timedelta(microseconds=1))
    with pytest.raises(LeaseLostError):
        clocked_store.add_notice(lease, "too late")
    with pytest.raises(LeaseLostError):
        clocked_store.renew_lease(lease, ttl=TTL)
    successor = clocked_store.claim_sweep(owner="successor", ttl=TTL)
    assert successor is not None
    assert successor.expires_at == fake_clock.now() + TTL


def test_a_renewal_counts_from_now(clocked_store: SweepStore, fake_clock: FakeClock) -> None:
    lease = claimed(clocked_store)
    fake_clock.advance(TTL / 2)
    renewed = clocked_store.renew_lease(lease, ttl=TTL)
    assert renewed.expires_at == lease.expires_at + TTL / 2
    fake_clock.advance(TTL * 3 / 4)
    clocked_store.add_notice(renewed, "would have been too late")


# --- the fence --------------------------------------------------------------------------------------------------------

_TRIAL = new_trial(new_sweep().id)
_NEW_TRIAL = new_trial(new_sweep().id, 1)
_ATTEMPT = new_attempt(_TRIAL)

WRITES: dict[str, Callable[[SweepStore, Lease], Any]] = {
    "renew_lease": lambda store, lease: store.renew_lease(lease, ttl=TTL),
    "move_sweep": lambda store, lease: store.move_sweep(lease, S.STOPPING),
    "move_sweep to where it is": lambda store, lease: store.move_sweep(lease, S.RUNNING),
    "add_notice": lambda store, lease: store.add_notice(lease, "hello"),
    "set_results": lambda store, lease: store.set_results(lease, {"verdict": {}}),
    "set_tracking_ref": lambda store, lease: store.set_tracking_ref(lease, "run"),
    "set_tracking_ref of a trial": lambda store, lease: store.set_tracking_ref(lease, "run", trial_id=_TRIAL.id),
    "add_trials": lambda store, lease: store.add_trials(lease, [_NEW_TRIAL]),
    "start_attempt": lambda store, lease: store.start_attempt(lease, new_attempt(_NEW_TRIAL)),
    "end_attempt": lambda store, lease: store.end_attempt(lease, _ATTEMPT.id, AttemptState.LOST),
    "record reports": lambda store, lease: store.record(lease, reports=[new_report(_ATTEMPT, 20)]),
    "record ends": lambda store, lease: store.record(lease, ends=[new_end(_TRIAL.id, TrialEnding.PRUNED)]),
    "record nothing": lambda store, lease: store.record(lease),
    "mark_delivered": lambda store, lease: store.mark_delivered(lease, up_to=1),
}


@pytest.mark.parametrize("how", ["ran out", "taken over", "made up", "another's"])
def test_a_write_without_the_current_lease_changes_nothing(store: SweepStore, how: str) -> None:
    lease = claimed(store)
    store.move_sweep(lease, S.RUNNING)
    store.add_trials(lease, [_TRIAL])
    store.start_attempt(lease, _ATTEMPT)
    store.record(lease, reports=[new_report(_ATTEMPT, 10)])
    if how == "made up":
        lease = replace(lease, token="0" * 32)
    elif how == "another's":
        lease = replace(lease, token=claimed(store, new_sweep(1)).token)
    else:
        store.renew_lease(lease, ttl=NOTHING)
    if how == "taken over":
        assert store.claim_sweep(owner="successor", ttl=TTL) is not None
    before = _everything(store)
    for write in WRITES.values():
        with pytest.raises(LeaseLostError):
            write(store, lease)
        assert _everything(store) == before


def test_the_same_writes_go_through_with_the_lease(store: SweepStore) -> None:
    lease = claimed(store)
    store.move_sweep(lease, S.RUNNING)
    store.add_trials(lease, [_TRIAL])
    store.start_attempt(lease, _ATTEMPT)
    store.record(lease, reports=[new_report(_ATTEMPT, 10)])
    without_end = [name for name in WRITES if name not in {"end_attempt", "move_sweep to where it is"}]
    for name in without_end:
        WRITES[name](store, lease)


def test_a_lease_on_a_sweep_that_does_not_exist_is_lost(store: SweepStore) -> None:
    lease = replace(claimed(store), sweep_id="swp_nowhere")
    with pytest.raises(LeaseLostError):
        store.add_notice(lease, "hello")
    store.release_lease(lease)


def test_a_user_needs_no_lease_to_control_a_sweep(store: SweepStore) -> None:
    lease = claimed(store)
    store.renew_lease(lease, ttl=NOTHING)
    assert store.control_sweep(lease.sweep_id, Verb.CANCEL).state is S.CANCELLING


def _everything(store: SweepStore) -> object:
    sweep_id = new_sweep().id
    trials = store.list_trials(sweep_id)
    return (
        store.get_sweep(sweep_id),
        events_of(store, sweep_id),
        trials,
        [store.list_attempts(trial.id) for trial in trials],
        [store.list_reports(trial.id) for trial in trials],
        store.undelivered(sweep_id, limit=100),
    )
