"""The laws of SweepStore that concern pauses: who rests, who goes on, and what time counts; for every store."""

from __future__ import annotations

from datetime import timedelta

import pytest
from store_values import (
    TTL,
    FakeClock,
    claimed,
    events_of,
    new_attempt,
    new_end,
    new_report,
    new_sweep,
    new_trial,
)
from test_sweep_store import brought_to, kinds

from sweep_service.domain.errors import (
    IllegalMoveError,
)
from sweep_service.domain.events import EventKind
from sweep_service.domain.states import (
    AttemptState,
    SweepState,
    TrialEnding,
    TrialState,
    Verb,
)
from sweep_service.ports import SweepStore

S = SweepState


@pytest.mark.parametrize(("verb", "target"), [(Verb.STOP, S.STOPPING), (Verb.CANCEL, S.CANCELLING)])
def test_a_paused_sweep_is_ended_by_the_next_conductor(store: SweepStore, verb: Verb, target: SweepState) -> None:
    lease = claimed(store)
    trial = new_trial(lease.sweep_id)
    store.add_trials(lease, [trial])
    store.move_sweep(lease, S.PAUSING)
    store.move_sweep(lease, S.PAUSED)
    store.release_lease(lease)
    assert store.claim_sweep(owner="nobody asked", ttl=TTL) is None
    assert store.control_sweep(lease.sweep_id, verb).state is target
    assert store.get_trial(trial.id).state is TrialState.PENDING
    following = store.claim_sweep(owner="whoever ends it", ttl=TTL)
    assert following is not None
    assert store.get_sweep(lease.sweep_id).state is target


def test_a_sweep_that_rests_is_queued_again_by_its_resumption(store: SweepStore) -> None:
    lease = brought_to(store, S.PAUSED)
    store.release_lease(lease)
    assert store.control_sweep(lease.sweep_id, Verb.RESUME).state is S.QUEUED
    following = store.claim_sweep(owner="next", ttl=TTL)
    assert following is not None
    assert following.generation == lease.generation + 1
    assert store.get_sweep(lease.sweep_id).state is S.STARTING


def test_trials_rest_with_their_attempts_preempted_and_go_on_by_another_one(store: SweepStore) -> None:
    lease = brought_to(store, S.RUNNING)
    trials = [new_trial(lease.sweep_id, number) for number in range(2)]
    store.add_trials(lease, trials)
    attempts = [new_attempt(trial) for trial in trials]
    for attempt in attempts:
        store.start_attempt(lease, attempt)
    store.end_attempt(lease, attempts[1].id, AttemptState.LOST)
    told = events_of(store, lease.sweep_id)
    report = new_report(attempts[0], 10, checkpoint="/c/10")
    store.record(lease, reports=[report], rests=[trial.id for trial in trials])
    after = store.list_trials(lease.sweep_id)
    assert [(t.state, t.ended_at) for t in after] == [(TrialState.RESTING, None)] * 2
    assert (after[0].last_step, after[0].checkpoint) == (10, "/c/10")
    states = [store.list_attempts(trial.id)[0].state for trial in trials]
    assert states == [AttemptState.PREEMPTED, AttemptState.LOST]
    new = kinds(events_of(store, lease.sweep_id)[len(told) :])
    assert new == [EventKind.ATTEMPT_ENDED, EventKind.TRIAL_MOVED, EventKind.TRIAL_MOVED]
    assert store.start_attempt(lease, new_attempt(trials[0], 1)).state is TrialState.RUNNING


@pytest.mark.parametrize("state", [TrialState.PENDING, TrialState.RESTING, TrialState.COMPLETED])
def test_a_trial_rests_only_where_it_runs(store: SweepStore, state: TrialState) -> None:
    lease = brought_to(store, S.RUNNING)
    trial = new_trial(lease.sweep_id)
    store.add_trials(lease, [trial])
    if state is not TrialState.PENDING:
        store.start_attempt(lease, new_attempt(trial))
    if state is TrialState.RESTING:
        store.record(lease, rests=[trial.id])
    elif state is TrialState.COMPLETED:
        store.record(lease, ends=[new_end(trial.id, TrialEnding.COMPLETED, objective=1.0)])
    with pytest.raises(IllegalMoveError):
        store.record(lease, rests=[trial.id])
    assert store.get_trial(trial.id).state is state


def test_the_time_of_a_sweep_is_that_of_its_conductors(clocked_store: SweepStore, fake_clock: FakeClock) -> None:
    store = clocked_store

    def active(sweep_id: str) -> float:
        return store.get_sweep(sweep_id).active_time(fake_clock.now()).total_seconds()

    def wait() -> None:
        fake_clock.advance(timedelta(seconds=10))

    store.add_sweep(new_sweep())
    wait()
    lease = store.claim_sweep(owner="first", ttl=timedelta(hours=1))
    assert lease is not None
    wait()
    assert active(lease.sweep_id) == 0
    store.move_sweep(lease, S.RUNNING)
    wait()
    assert active(lease.sweep_id) == 10
    store.control_sweep(lease.sweep_id, Verb.PAUSE)
    wait()
    store.move_sweep(lease, S.PAUSED)
    store.release_lease(lease)
    wait()
    assert active(lease.sweep_id) == 20
    store.control_sweep(lease.sweep_id, Verb.RESUME)
    wait()
    lease = store.claim_sweep(owner="second", ttl=timedelta(hours=1))
    assert lease is not None
    wait()
    store.move_sweep(lease, S.RUNNING)
    wait()
    assert active(lease.sweep_id) == 30
    store.move_sweep(lease, S.COMPLETED)
    wait()
    assert active(lease.sweep_id) == 30
