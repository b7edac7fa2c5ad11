"""The laws of SweepStore that concern what users change of a sweep: its spec, and failed trials; for every store."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from store_values import SPEC, TTL, events_of, new_attempt, new_end, new_report, new_sweep, new_trial
from test_sweep_store import brought_to, kinds

from sweep_service.domain.errors import IllegalMoveError, SpecChangedError, SweepNotFoundError
from sweep_service.domain.events import EventKind
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState, Verb
from sweep_service.domain.trial import Lease, Standing, Trial
from sweep_service.ports import SweepStore

S = SweepState
UNENDED = [S.QUEUED, S.STARTING, S.RUNNING, S.PAUSING, S.PAUSED]
REOPENED = [S.COMPLETED, S.STOPPED, S.FAILED]
REFUSED = [S.STOPPING, S.CANCELLING, S.CANCELLED]


def larger(spec: SweepSpec = SPEC, *, by: int = 8) -> SweepSpec:
    budget = spec.budget.model_copy(update={"trials": spec.budget.trials + by})
    return spec.model_copy(update={"budget": budget})


def brought(store: SweepStore, state: SweepState) -> str:
    if state is S.QUEUED:
        return store.add_sweep(new_sweep()).id
    return brought_to(store, state).sweep_id


@pytest.mark.parametrize("state", UNENDED)
def test_another_spec_is_another_revision_of_the_sweep_where_it_stands(store: SweepStore, state: SweepState) -> None:
    sweep_id = brought(store, state)
    before, told = store.get_sweep(sweep_id), len(events_of(store, sweep_id))
    amended = store.amend_sweep(sweep_id, larger(), revision=0)
    assert amended == store.get_sweep(sweep_id)
    assert (amended.spec, amended.revision) == (larger(), 1)
    assert (amended.state, amended.reason, amended.message) == (before.state, before.reason, before.message)
    assert store.get_standing(sweep_id) == Standing(state=state, revision=1)
    (event,) = events_of(store, sweep_id)[told:]
    trials = SPEC.budget.trials
    assert event.kind is EventKind.SWEEP_AMENDED
    assert event.data == {"revision": 1, "changes": {"/budget/trials": [trials, trials + 8]}, "retried": []}
    assert event.message == f"budget.trials: {trials} → {trials + 8}."


@pytest.mark.parametrize("state", UNENDED)
def test_the_same_spec_changes_nothing(store: SweepStore, state: SweepState) -> None:
    sweep_id = brought(store, state)
    before, told = store.get_sweep(sweep_id), events_of(store, sweep_id)
    assert store.amend_sweep(sweep_id, SPEC, revision=0) == before
    assert events_of(store, sweep_id) == told


@pytest.mark.parametrize("spec", [SPEC, larger()], ids=["same", "larger"])
@pytest.mark.parametrize("state", REOPENED)
def test_a_sweep_that_has_ended_is_queued_without_its_results(
    store: SweepStore, state: SweepState, spec: SweepSpec
) -> None:
    lease = brought_to(store, state)
    store.set_results(lease, {"verdict": {"summary": "helped"}, "leaderboard": []})
    store.release_lease(lease)
    assert store.claim_sweep(owner="nobody asked", ttl=TTL) is None
    store.amend_sweep(lease.sweep_id, spec, revision=0)
    sweep = store.get_sweep(lease.sweep_id)
    assert (sweep.state, sweep.reason, sweep.revision) == (S.QUEUED, SweepReason.USER, 1)
    assert (sweep.results, sweep.ended_at, sweep.spec) == (None, None, spec)
    told = events_of(store, lease.sweep_id)
    assert kinds(told)[-2:] == [EventKind.SWEEP_AMENDED, EventKind.SWEEP_MOVED]
    assert told[-1].data == {"from": state, "to": "queued", "reason": "user"}
    assert [e.data for e in told if e.kind is EventKind.SWEEP_VERDICT] == [{"summary": "helped"}], "it stays told"
    following = store.claim_sweep(owner="next", ttl=TTL)
    assert following is not None
    assert (following.sweep_id, following.generation) == (lease.sweep_id, lease.generation + 1)


@pytest.mark.parametrize("state", REFUSED)
def test_a_sweep_that_nothing_new_starts_in_takes_no_other_spec(store: SweepStore, state: SweepState) -> None:
    sweep_id = brought_to(store, state).sweep_id
    before, told = store.get_sweep(sweep_id), events_of(store, sweep_id)
    with pytest.raises(IllegalMoveError) as raised:
        store.amend_sweep(sweep_id, larger(), revision=0)
    assert raised.value.target == "amend"
    assert set(raised.value.allowed) <= {"stop", "cancel"}
    assert store.get_sweep(sweep_id) == before
    assert events_of(store, sweep_id) == told


def test_a_spec_made_from_another_revision_is_refused(store: SweepStore) -> None:
    sweep_id = brought_to(store, S.RUNNING).sweep_id
    store.amend_sweep(sweep_id, larger(), revision=0)
    with pytest.raises(SpecChangedError):
        store.amend_sweep(sweep_id, larger(by=16), revision=0)
    assert store.get_sweep(sweep_id).spec == larger()
    assert store.amend_sweep(sweep_id, larger(by=16), revision=1).revision == 2


def test_of_several_at_once_each_revision_is_made_by_one(store: SweepStore) -> None:
    sweep_id = brought_to(store, S.RUNNING).sweep_id
    came = threading.Barrier(6)
    won: list[int] = []

    def amend(by: int) -> None:
        came.wait()
        try:
            store.amend_sweep(sweep_id, larger(by=by), revision=0)
        except SpecChangedError:
            return
        won.append(by)

    threads = [threading.Thread(target=amend, args=(by,)) for by in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = won
    assert store.get_sweep(sweep_id).spec == larger(by=winner)


def test_an_end_that_was_decided_without_knowing_of_a_change_is_refused(store: SweepStore) -> None:
    lease = brought_to(store, S.RUNNING)
    store.amend_sweep(lease.sweep_id, larger(), revision=0)
    with pytest.raises(SpecChangedError):
        store.move_sweep(lease, S.COMPLETED, revision=0)
    assert store.get_sweep(lease.sweep_id).state is S.RUNNING
    assert store.move_sweep(lease, S.COMPLETED, revision=1).state is S.COMPLETED


def test_there_is_nothing_to_change_of_a_sweep_that_is_not_there(store: SweepStore) -> None:
    for change in (
        lambda: store.amend_sweep(new_sweep().id, larger(), revision=0),
        lambda: store.control_sweep(new_sweep().id, Verb.RETRY),
        lambda: store.get_standing(new_sweep().id),
    ):
        with pytest.raises(SweepNotFoundError):
            change()


def _with_trials(store: SweepStore, lease: Lease, endings: Sequence[TrialEnding | None]) -> Sequence[Trial]:
    """A trial for each; None: it runs."""
    trials = [new_trial(lease.sweep_id, number) for number in range(len(endings))]
    store.add_trials(lease, trials)
    for trial, ending in zip(trials, endings, strict=True):
        attempt = new_attempt(trial)
        store.start_attempt(lease, attempt)
        store.record(lease, reports=[new_report(attempt, 10, checkpoint=f"/checkpoints/{trial.number}")])
        store.set_tracking_ref(lease, f"run {trial.number}", trial_id=trial.id)
        if ending is not None:
            objective = 0.5 if ending is TrialEnding.COMPLETED else None
            store.record(lease, ends=[new_end(trial.id, ending, objective=objective)])
    return trials


@pytest.mark.parametrize(
    ("state", "target"), [(S.RUNNING, S.RUNNING), (S.PAUSED, S.PAUSED), *((s, S.QUEUED) for s in REOPENED)]
)
def test_failed_trials_wait_for_another_attempt(store: SweepStore, state: SweepState, target: SweepState) -> None:
    lease = brought_to(store, S.RUNNING)
    E = TrialEnding
    trials = _with_trials(store, lease, [E.COMPLETED, E.ERROR, E.NON_FINITE, E.WORKER_LOST, E.PRUNED, E.CANCELLED])
    if state is S.PAUSED:
        store.move_sweep(lease, S.PAUSING)
    if state is S.STOPPED:
        store.move_sweep(lease, S.STOPPING)
    store.move_sweep(lease, state)
    others = [store.get_trial(trials[i].id) for i in (0, 2, 4, 5)]
    told = len(events_of(store, lease.sweep_id))

    sweep = store.control_sweep(lease.sweep_id, Verb.RETRY)
    assert (sweep.state, sweep.revision) == (target, 1)
    for trial in (trials[1], trials[3]):
        waiting = store.get_trial(trial.id)
        assert (waiting.state, waiting.ending, waiting.ended_at) == (TrialState.PENDING, None, None)
        assert (waiting.message, waiting.traceback, waiting.objective) == ("", "", None)
        assert (waiting.checkpoint, waiting.last_step) == (f"/checkpoints/{trial.number}", 10)
        assert waiting.num_attempts == 1
        assert waiting.tracking_ref is None, "to be looked up, and opened again"
    assert [store.get_trial(trial.id) for trial in others] == others
    new = events_of(store, lease.sweep_id)[told:]
    moved = [EventKind.SWEEP_MOVED] if target is not state else []
    assert kinds(new) == [EventKind.TRIAL_MOVED, EventKind.TRIAL_MOVED, EventKind.SWEEP_AMENDED, *moved]
    assert [event.data["to"] for event in new[:2]] == ["pending", "pending"]
    assert new[2].data == {"revision": 1, "changes": {}, "retried": [1, 3]}
    assert new[2].message == "2 failed trials are tried again."

    again = store.control_sweep(lease.sweep_id, Verb.RETRY)
    assert (again.state, again.revision) == (target, 1), "there is none left that has failed"
    assert len(events_of(store, lease.sweep_id)) == told + len(new)


def test_a_retried_trial_trains_on_and_ends_once_more(store: SweepStore) -> None:
    lease = brought_to(store, S.RUNNING)
    (trial,) = _with_trials(store, lease, [TrialEnding.ERROR])
    store.control_sweep(lease.sweep_id, Verb.RETRY)
    second = new_attempt(trial, 1)
    assert store.start_attempt(lease, second).num_attempts == 2
    store.record(lease, reports=[new_report(second, 10), new_report(second, 20)])
    store.record(lease, ends=[new_end(trial.id, TrialEnding.COMPLETED, objective=0.25)], best=trial.id)
    assert [report.step for report in store.list_reports(trial.id)] == [10, 20], "each step once"
    assert store.get_trial(trial.id).state is TrialState.COMPLETED
    attempts = [attempt.state for attempt in store.list_attempts(trial.id)]
    assert attempts == [AttemptState.FAILED, AttemptState.FINISHED]


def test_what_a_failed_attempt_still_says_is_refused_after_a_retry(store: SweepStore) -> None:
    lease = brought_to(store, S.RUNNING)
    (trial,) = _with_trials(store, lease, [TrialEnding.ERROR])
    (first,) = store.list_attempts(trial.id)
    store.control_sweep(lease.sweep_id, Verb.RETRY)
    with pytest.raises(IllegalMoveError):
        store.record(lease, reports=[new_report(first, 30)])
    store.start_attempt(lease, new_attempt(trial, 1))
    with pytest.raises(IllegalMoveError):
        store.record(lease, reports=[new_report(first, 30)])


@pytest.mark.parametrize("state", [S.COMPLETED, S.STOPPED, S.RUNNING])
def test_where_no_trial_has_failed_a_retry_changes_nothing(store: SweepStore, state: SweepState) -> None:
    lease = brought_to(store, state)
    before = store.get_sweep(lease.sweep_id)
    assert store.control_sweep(lease.sweep_id, Verb.RETRY) == before


def test_a_failed_sweep_is_tried_again_though_no_trial_has_failed(store: SweepStore) -> None:
    sweep_id = brought_to(store, S.FAILED).sweep_id
    assert store.control_sweep(sweep_id, Verb.RETRY).state is S.QUEUED
    assert events_of(store, sweep_id)[-1].message == "It is tried again."
