"""The laws of SweepStore that concern sweeps, their events and what the dispatcher publishes: for every store."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from store_values import (
    START,
    FakeClock,
    claimed,
    events_of,
    new_attempt,
    new_end,
    new_report,
    new_sweep,
    new_trial,
)

from sweep_service.domain.errors import (
    CatalogMissingError,
    IllegalMoveError,
    SweepNotFoundError,
    TrialNotFoundError,
)
from sweep_service.domain.events import Event, EventKind
from sweep_service.domain.states import (
    SWEEP_MOVES,
    SweepReason,
    SweepState,
    TrialEnding,
    TrialState,
    Verb,
    verb_target,
)
from sweep_service.domain.trial import Cluster, Lease, NodeResources, Sweep
from sweep_service.ports import SweepStore
from trainables.catalog import Parameter, TaskInfo, TaskKind, Trainable

S = SweepState

# How to get a sweep that has just been claimed into each state.
PATHS: dict[SweepState, tuple[SweepState, ...]] = {
    S.STARTING: (),
    S.RUNNING: (S.RUNNING,),
    S.PAUSING: (S.RUNNING, S.PAUSING),
    S.PAUSED: (S.PAUSING, S.PAUSED),
    S.QUEUED: (S.PAUSING, S.PAUSED, S.QUEUED),
    S.STOPPING: (S.RUNNING, S.STOPPING),
    S.CANCELLING: (S.RUNNING, S.CANCELLING),
    S.COMPLETED: (S.RUNNING, S.COMPLETED),
    S.STOPPED: (S.RUNNING, S.STOPPING, S.STOPPED),
    S.CANCELLED: (S.RUNNING, S.CANCELLING, S.CANCELLED),
    S.FAILED: (S.FAILED,),
}


def brought_to(store: SweepStore, state: SweepState, sweep: Sweep | None = None) -> Lease:
    """The lease on a new sweep in that state."""
    lease = claimed(store, sweep)
    for step in PATHS[state]:
        store.move_sweep(lease, step)
    assert store.get_sweep(lease.sweep_id).state is store.get_standing(lease.sweep_id).state is state
    return lease


def kinds(events: list[Event]) -> list[EventKind]:
    return [event.kind for event in events]


# --- sweeps -----------------------------------------------------------------------------------------------------------


def test_a_new_sweep_comes_back_as_it_was_given(store: SweepStore) -> None:
    sweep = new_sweep(message="Ünïcödé, 𝛼 and a 'quote'")
    store.add_sweep(sweep)
    assert store.get_sweep(sweep.id) == sweep
    (event,) = events_of(store, sweep.id)
    assert (event.kind, event.at, event.sweep_id) == (EventKind.SWEEP_SUBMITTED, START, sweep.id)


def test_a_time_of_another_zone_comes_back_as_the_same_moment_in_utc(store: SweepStore) -> None:
    store.add_sweep(new_sweep(created_at=datetime.fromisoformat("2026-07-01T12:00:00+02:00")))
    created_at = store.get_sweep(new_sweep().id).created_at
    assert created_at == datetime(2026, 7, 1, 10, tzinfo=UTC)
    assert created_at.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "changes",
    [{"state": S.RUNNING}, {"generation": 1}, {"results": {}}, {"started_at": START}, {"ended_at": START}],
    ids=str,
)
def test_a_sweep_that_is_not_new_cannot_be_added(store: SweepStore, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="queued"):
        store.add_sweep(replace(new_sweep(), **changes))  # pyright: ignore[reportArgumentType]
    assert store.list_sweeps() == []


def test_a_sweep_cannot_be_added_twice(store: SweepStore) -> None:
    store.add_sweep(new_sweep())
    with pytest.raises(ValueError, match="already"):
        store.add_sweep(new_sweep(created_by="somebody else"))
    assert store.get_sweep(new_sweep().id).created_by == "somebody"
    assert len(events_of(store, new_sweep().id)) == 1


def test_an_unknown_sweep_is_named_by_whatever_is_asked_of_it(store: SweepStore) -> None:
    asks = (store.get_sweep, store.get_standing, store.list_trials, store.list_events)
    for ask in (*asks, lambda i: store.control_sweep(i, Verb.STOP)):
        with pytest.raises(SweepNotFoundError, match="swp_nowhere"):
            ask("swp_nowhere")


def test_an_unknown_trial_is_named_by_whatever_is_asked_of_it(store: SweepStore) -> None:
    for ask in (store.get_trial, store.list_attempts, store.list_reports, store.list_reports_after):
        with pytest.raises(TrialNotFoundError, match="trl_nowhere"):
            ask("trl_nowhere")


def test_events_are_listed_in_pages(store: SweepStore) -> None:
    lease = claimed(store)
    for number in range(5):
        store.add_notice(lease, f"notice {number}")
    events = events_of(store, lease.sweep_id)
    assert len(events) == 8
    assert store.list_events(lease.sweep_id, after=2, limit=3) == events[2:5]
    assert store.list_events(lease.sweep_id, after=7) == events[7:]
    assert store.list_events(lease.sweep_id, after=8) == []


# --- moves of a sweep -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("current", S)
def test_a_conductor_can_make_the_moves_of_the_table_and_no_others(store: SweepStore, current: SweepState) -> None:
    for index, target in enumerate(S):
        lease = brought_to(store, current, new_sweep(100 - index))  # the oldest is claimed first
        before, told = store.get_sweep(lease.sweep_id), events_of(store, lease.sweep_id)
        if target is current:
            assert store.move_sweep(lease, target, reason=SweepReason.ERROR, message="again") == before
        elif target in SWEEP_MOVES[current]:
            moved = store.move_sweep(lease, target, reason=SweepReason.ERROR, message="because")
            assert moved == store.get_sweep(lease.sweep_id)
            assert (moved.state, moved.reason, moved.message) == (target, SweepReason.ERROR, "because")
            assert (moved.ended_at is not None) == target.is_ended
            (event,) = events_of(store, lease.sweep_id)[len(told) :]
            assert (event.kind, event.message) == (EventKind.SWEEP_MOVED, "because")
            assert event.data == {"from": current, "to": target, "reason": "error"}
            continue
        else:
            with pytest.raises(IllegalMoveError) as raised:
                store.move_sweep(lease, target)
            assert set(raised.value.allowed) == SWEEP_MOVES[current]
        assert store.get_sweep(lease.sweep_id) == before
        assert events_of(store, lease.sweep_id) == told


@pytest.mark.parametrize("state", S)
def test_a_verb_moves_a_sweep_or_says_which_verbs_would(store: SweepStore, state: SweepState) -> None:
    allowed = [verb for verb in Verb if _takes(verb, state, has_run=True) is not None]
    for index, verb in enumerate(Verb):
        lease = brought_to(store, state, new_sweep(100 - index))
        before, told = store.get_sweep(lease.sweep_id), events_of(store, lease.sweep_id)
        target = _takes(verb, state, has_run=before.generation > 0)
        if verb is Verb.RETRY and target and state is not S.FAILED:
            target = state  # of its trials, there are none that have failed
        if target is None:
            with pytest.raises(IllegalMoveError) as raised:
                store.control_sweep(lease.sweep_id, verb)
            assert list(raised.value.allowed) == sorted(allowed)
        else:
            assert store.control_sweep(lease.sweep_id, verb, message="enough") == store.get_sweep(lease.sweep_id)
        after, new = store.get_sweep(lease.sweep_id), events_of(store, lease.sweep_id)[len(told) :]
        if target is None or target is state:
            assert after == before
            assert new == []
        else:
            assert (after.state, after.reason, after.message) == (target, SweepReason.USER, "enough")
            assert new[-1].data == {"from": state, "to": target, "reason": "user"}
            assert kinds(new[:-1]) == ([EventKind.SWEEP_AMENDED] if verb is Verb.RETRY else [])


def _takes(verb: Verb, state: SweepState, *, has_run: bool) -> SweepState | None:
    try:
        return verb_target(state, verb, has_run=has_run)
    except IllegalMoveError:
        return None


def test_a_verb_leaves_the_trials_of_a_running_sweep_to_its_conductor(store: SweepStore) -> None:
    lease = brought_to(store, S.RUNNING)
    trial = new_trial(lease.sweep_id)
    store.add_trials(lease, [trial])
    store.control_sweep(lease.sweep_id, Verb.CANCEL)
    assert store.get_trial(trial.id).state is TrialState.PENDING


def test_the_reason_of_stopping_stays_unless_the_conductor_gives_another(store: SweepStore) -> None:
    lease = brought_to(store, S.RUNNING)
    store.control_sweep(lease.sweep_id, Verb.STOP, message="enough")
    stopped = store.move_sweep(lease, S.STOPPED)
    assert (stopped.reason, stopped.message) == (SweepReason.USER, "enough")
    assert events_of(store, lease.sweep_id)[-1].data["reason"] == "user"


def test_a_sweep_knows_when_it_first_ran_and_when_it_ended(clocked_store: SweepStore, fake_clock: FakeClock) -> None:
    lease = claimed(clocked_store)
    fake_clock.advance(timedelta(seconds=1))
    running = clocked_store.move_sweep(lease, S.RUNNING)
    fake_clock.advance(timedelta(seconds=1))
    completed = clocked_store.move_sweep(lease, S.COMPLETED)
    fake_clock.advance(timedelta(seconds=1))
    reopened = clocked_store.move_sweep(lease, S.QUEUED)
    first, second, third = (START + timedelta(seconds=s) for s in (1, 2, 3))
    assert (running.started_at, running.ended_at, running.updated_at) == (first, None, first)
    assert (completed.started_at, completed.ended_at, completed.updated_at) == (first, second, second)
    assert (reopened.started_at, reopened.ended_at, reopened.updated_at) == (first, None, third)
    assert [e.at for e in events_of(clocked_store, lease.sweep_id)] == [START, START, START, first, second, third]


# --- what a conductor says of its sweep -------------------------------------------------------------------------------


def test_a_notice_is_an_event_and_nothing_else(store: SweepStore) -> None:
    lease = claimed(store)
    store.add_trials(lease, [new_trial(lease.sweep_id)])
    before = store.get_sweep(lease.sweep_id)
    store.add_notice(lease, "node-a vanished", trial_id=new_trial(lease.sweep_id).id)
    event = events_of(store, lease.sweep_id)[-1]
    assert (event.kind, event.message) == (EventKind.SWEEP_NOTICE, "node-a vanished")
    assert event.trial_id == new_trial(lease.sweep_id).id
    assert store.get_sweep(lease.sweep_id) == before


def test_texts_that_no_database_holds_are_made_to_fit(store: SweepStore) -> None:
    lease = claimed(store)
    store.add_notice(lease, "a NUL \x00, half a pair \ud83d and a whole one \U0001f600")
    assert events_of(store, lease.sweep_id)[-1].message == "a NUL \ufffd, half a pair \ufffd and a whole one \U0001f600"


def test_the_best_trial_is_recorded_and_told_once(store: SweepStore) -> None:
    lease = claimed(store)
    trials = [new_trial(lease.sweep_id, number) for number in range(2)]
    store.add_trials(lease, trials)
    for trial in trials:
        store.start_attempt(lease, new_attempt(trial))
        end = new_end(trial.id, TrialEnding.COMPLETED, objective=0.5 - trial.number / 10)
        store.record(lease, ends=[end], best=trial.id)
    store.record(lease, best=trials[1].id)
    store.record(lease)
    assert store.get_sweep(lease.sweep_id).best_trial_id == trials[1].id
    told = [(e.trial_id, e.data) for e in events_of(store, lease.sweep_id) if e.kind is EventKind.TRIAL_BEST]
    assert told == [(trials[0].id, {"objective": 0.5}), (trials[1].id, {"objective": 0.4})]


def test_results_come_back_and_their_verdict_is_told(store: SweepStore) -> None:
    lease = claimed(store)
    results = {"leaderboard": [{"trial": "a", "objective": 0.25}], "verdict": {"equal": "helped"}, "note": None}
    store.set_results(lease, results)
    assert store.get_sweep(lease.sweep_id).results == results
    event = events_of(store, lease.sweep_id)[-1]
    assert (event.kind, event.data) == (EventKind.SWEEP_VERDICT, {"equal": "helped"})
    store.set_results(lease, {"leaderboard": [], "verdict": None})
    assert events_of(store, lease.sweep_id)[-1].data == {}


def test_results_are_read_with_the_sweep_itself_and_with_nothing_else(store: SweepStore) -> None:
    lease = brought_to(store, S.RUNNING)
    results = {"leaderboard": [{"objective": 0.25}], "verdict": None}
    store.set_results(lease, results)
    assert store.get_sweep(lease.sweep_id).results == results
    shown = [
        lambda: store.list_sweeps()[0],
        lambda: store.control_sweep(lease.sweep_id, Verb.STOP),
        lambda: store.control_sweep(lease.sweep_id, Verb.STOP),
        lambda: store.move_sweep(lease, S.STOPPED),
        lambda: store.move_sweep(lease, S.STOPPED),
    ]
    for look in shown:
        without = look()
        assert without.results is None
        whole = store.get_sweep(lease.sweep_id)
        assert whole.results == results, "a write of something else leaves them alone"
        assert replace(whole, results=None) == without
    store.move_sweep(lease, S.QUEUED)
    assert store.get_sweep(lease.sweep_id).results is None, "it goes on"
    store.set_results(lease, {"leaderboard": []})
    assert store.get_sweep(lease.sweep_id).results == {"leaderboard": []}


@pytest.mark.parametrize(
    ("results", "fault"), [({"mean": float("nan")}, "results"), ({"verdict": "helped"}, "verdict")], ids=str
)
def test_results_that_are_no_json_document_are_refused_by_name(
    store: SweepStore, results: dict[str, object], fault: str
) -> None:
    lease = claimed(store)
    with pytest.raises(ValueError, match=fault):
        store.set_results(lease, results)
    assert store.get_sweep(lease.sweep_id).results is None
    assert EventKind.SWEEP_VERDICT not in kinds(events_of(store, lease.sweep_id))


def test_a_trial_without_an_objective_cannot_be_the_best_and_nothing_is_recorded_with_it(store: SweepStore) -> None:
    lease = claimed(store)
    ended, running = (new_trial(lease.sweep_id, number) for number in range(2))
    store.add_trials(lease, [ended, running])
    store.start_attempt(lease, new_attempt(ended))
    with pytest.raises(ValueError, match="objective"):
        store.record(lease, ends=[new_end(ended.id, TrialEnding.COMPLETED, objective=0.5)], best=running.id)
    assert store.get_sweep(lease.sweep_id).best_trial_id is None
    assert not store.get_trial(ended.id).state.is_ended


def test_a_tracking_run_is_kept_for_the_sweep_or_the_trial(store: SweepStore) -> None:
    lease = claimed(store)
    trial = new_trial(lease.sweep_id)
    store.add_trials(lease, [trial])
    store.set_tracking_ref(lease, "parent")
    store.set_tracking_ref(lease, "child", trial_id=trial.id)
    assert store.get_sweep(lease.sweep_id).tracking_ref == "parent"
    assert store.get_trial(trial.id).tracking_ref == "child"


def test_what_is_said_of_another_sweeps_trial_is_refused(store: SweepStore) -> None:
    other = claimed(store, new_sweep(1))
    trial = new_trial(other.sweep_id)
    store.add_trials(other, [trial])
    lease = claimed(store, new_sweep(2))
    attempt = new_attempt(trial)
    started = store.start_attempt(other, attempt)
    refused = [
        lambda: store.record(lease, best=trial.id),
        lambda: store.set_tracking_ref(lease, "run", trial_id=trial.id),
        lambda: store.add_notice(lease, "hm", trial_id=trial.id),
        lambda: store.start_attempt(lease, replace(new_attempt(trial, 1), sweep_id=lease.sweep_id)),
        lambda: store.record(lease, reports=[new_report(replace(attempt, sweep_id=lease.sweep_id), 1)]),
        lambda: store.record(lease, ends=[new_end(trial.id, TrialEnding.PRUNED)]),
    ]
    told = events_of(store, lease.sweep_id)
    for write in refused:
        with pytest.raises(TrialNotFoundError):
            write()
    assert store.get_trial(trial.id) == started
    assert events_of(store, lease.sweep_id) == told


# --- what the dispatcher publishes ------------------------------------------------------------------------------------


def test_no_catalogue_is_an_error_and_an_empty_one_is_not(store: SweepStore) -> None:
    with pytest.raises(CatalogMissingError):
        store.read_catalog()
    store.publish_catalog([])
    assert store.read_catalog() == {}


def test_a_catalogue_replaces_the_one_before(store: SweepStore) -> None:
    first, second = _trainable("first"), _trainable("second")
    store.publish_catalog([first])
    store.publish_catalog([second, first])
    assert store.read_catalog() == {"first": first, "second": second}
    store.publish_catalog([second])
    assert store.read_catalog() == {"second": second}


def test_the_cluster_is_what_was_published_last(store: SweepStore) -> None:
    assert store.read_cluster() is None
    small = Cluster(nodes=(), seen_at=START)
    big = Cluster(
        nodes=(NodeResources(node="a", cpus=8, gpus=0.5), NodeResources(node="b", cpus=2, gpus=0)), seen_at=START
    )
    store.publish_cluster(small)
    assert store.read_cluster() == small
    store.publish_cluster(big)
    assert store.read_cluster() == big


def test_a_store_with_its_tables_is_ready(store: SweepStore) -> None:
    store.check_ready()


def _trainable(name: str) -> Trainable:
    return Trainable(
        name=name,
        summary="A problem.",
        factory="package.module:Problem",
        tasks=(TaskInfo(name="a", kind=TaskKind.BINARY, metrics=("auc",)),),
        parameters=(
            Parameter(name="hidden", type="int_list", default=[64], description="Widths."),
            Parameter(name="alpha", type="float", default=1, description="Asymmetry.", used_by=("gradnorm",)),
        ),
        problem_parameters=("hidden",),
    )
