"""The laws of SweepStore that concern reports, ends of trials and the outbox: for every store."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from store_values import START, FakeClock, claimed, events_of, new_attempt, new_end, new_report, new_sweep, new_trial

from sweep_service.domain.errors import IllegalMoveError
from sweep_service.domain.events import EventKind
from sweep_service.domain.states import AttemptState, TrialEnding, TrialState
from sweep_service.domain.trial import Attempt, Lease, Trial
from sweep_service.ports import SweepStore

E = TrialEnding


@pytest.fixture
def lease(store: SweepStore) -> Lease:
    return claimed(store)


def started(store: SweepStore, lease: Lease, number: int = 0) -> tuple[Trial, Attempt]:
    """A running trial and its attempt."""
    trial = new_trial(lease.sweep_id, number)
    store.add_trials(lease, [trial])
    attempt = new_attempt(trial)
    return store.start_attempt(lease, attempt), attempt


# --- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_comes_back_and_updates_its_trial(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    before = events_of(store, lease.sweep_id)
    report = new_report(attempt, 100, checkpoint="/checkpoints/100")
    store.record(lease, reports=[report])
    assert store.list_reports(trial.id) == [replace(report, seq=1)]
    after = store.get_trial(trial.id)
    assert after == replace(trial, metrics=report.metrics, last_step=100, checkpoint="/checkpoints/100")
    assert events_of(store, lease.sweep_id) == before


def test_reports_are_read_on_in_the_order_of_their_recording(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    other, others = started(store, lease, 1)
    for step in (10, 30, 20):  # an attempt that went back may report a step in between
        store.record(lease, reports=[new_report(others, step), new_report(attempt, step)])
    found = store.list_reports_after(trial.id)
    assert [(report.seq, report.step) for report in found] == [(2, 10), (4, 30), (6, 20)]
    assert store.list_reports_after(trial.id, after=2, limit=1) == found[1:2]
    assert store.list_reports_after(trial.id, after=5) == found[2:]
    assert store.list_reports_after(trial.id, after=6) == []
    assert [report.seq for report in store.list_reports_after(other.id)] == [1, 3, 5]


def test_a_report_without_a_checkpoint_leaves_the_last_one(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    store.record(lease, reports=[new_report(attempt, 1, checkpoint="/checkpoints/1"), new_report(attempt, 2)])
    after = store.get_trial(trial.id)
    assert (after.last_step, after.checkpoint) == (2, "/checkpoints/1")


def test_numbers_come_back_as_they_were_nan_included(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    metrics = {"nan": math.nan, "up": math.inf, "down": -math.inf, "tiny": 5e-324, "whole": 3}
    reports = [
        new_report(attempt, step, metrics=metrics, objective=objective)
        for step, objective in enumerate((math.nan, math.inf, -math.inf, None, 0.1 + 0.2, -0.0, 1), start=1)
    ]
    store.record(lease, reports=reports)
    listed = store.list_reports(trial.id)
    assert [repr(report.objective) for report in listed] == [
        "nan",
        "inf",
        "-inf",
        "None",
        repr(0.1 + 0.2),
        "0.0",
        "1.0",
    ]
    for stored in (listed[0].metrics, store.get_trial(trial.id).metrics):
        assert {name: repr(value) for name, value in stored.items()} == {
            "nan": "nan", "up": "inf", "down": "-inf", "tiny": "5e-324", "whole": "3.0",
        }  # fmt: skip


def test_a_step_that_was_reported_before_is_recorded_once(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    first = [new_report(attempt, step) for step in (10, 20, 30)]
    store.record(lease, reports=first)
    store.end_attempt(lease, attempt.id, AttemptState.LOST)
    retry = new_attempt(trial, 1)
    store.start_attempt(lease, retry)
    again = new_report(retry, 20, objective=9.0, metrics={"other": 9.0}, checkpoint="/checkpoints/retry/20")
    store.record(lease, reports=[again])
    assert store.list_reports(trial.id) == [replace(report, seq=seq) for seq, report in enumerate(first, start=1)]
    after = store.get_trial(trial.id)
    assert (after.last_step, after.metrics) == (30, first[-1].metrics)
    assert after.checkpoint == "/checkpoints/retry/20"
    fresh = new_report(retry, 40)
    store.record(lease, reports=[new_report(retry, 30), fresh])
    assert store.list_reports(trial.id)[3:] == [replace(fresh, seq=4)]
    assert len(store.undelivered(lease.sweep_id, limit=100)) == 4


def test_a_step_counts_once_within_a_call_and_apart_for_each_trial(store: SweepStore, lease: Lease) -> None:
    (one, attempt), (two, other) = started(store, lease, 0), started(store, lease, 1)
    store.record(
        lease,
        reports=[
            new_report(attempt, 10, objective=1.0),
            new_report(other, 10, objective=2.0),
            new_report(attempt, 10, objective=3.0, checkpoint="/checkpoints/late"),
        ],
    )
    assert [report.objective for report in store.list_reports(one.id)] == [1.0]
    assert [report.objective for report in store.list_reports(two.id)] == [2.0]
    assert store.get_trial(one.id).checkpoint == "/checkpoints/late"


def test_reports_are_listed_by_step_whatever_the_order_of_recording(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    for step in (30, 10, 20):
        store.record(lease, reports=[new_report(attempt, step)])
    assert [(report.step, report.seq) for report in store.list_reports(trial.id)] == [(10, 2), (20, 3), (30, 1)]


def test_a_report_of_an_attempt_that_has_ended_is_refused(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    store.end_attempt(lease, attempt.id, AttemptState.LOST)
    store.start_attempt(lease, new_attempt(trial, 1))
    with pytest.raises(IllegalMoveError):
        store.record(lease, reports=[new_report(attempt, 10, checkpoint="/checkpoints/zombie")])
    assert store.list_reports(trial.id) == []
    assert store.get_trial(trial.id).checkpoint is None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [({"sweep_id": "swp_other"}, "swp_other"), ({"reported_at": START.replace(tzinfo=None)}, "reported_at")],
    ids=str,
)
def test_a_report_that_makes_no_sense_is_refused(
    store: SweepStore, lease: Lease, changes: dict[str, Any], fault: str
) -> None:
    trial, attempt = started(store, lease)
    with pytest.raises(ValueError, match=fault):
        store.record(lease, reports=[new_report(attempt, 1), replace(new_report(attempt, 2), **changes)])
    assert store.list_reports(trial.id) == []


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", E)
def test_an_end_is_recorded_for_the_trial_and_its_attempt(store: SweepStore, lease: Lease, ending: TrialEnding) -> None:
    trial, attempt = started(store, lease)
    before = events_of(store, lease.sweep_id)
    objective = 0.25 if ending is E.COMPLETED else None
    end = new_end(
        trial.id,
        ending,
        objective=objective,
        message="It\x00 is over.",
        traceback="Traceback \ud800",
        provenance={"code": "0.2.0"},
    )
    store.record(lease, ends=[end])
    after = store.get_trial(trial.id)
    assert (after.state, after.ending, after.objective) == (ending.state, ending, objective)
    assert (after.message, after.traceback) == ("It\ufffd is over.", "Traceback \ufffd")
    assert after.provenance == {"code": "0.2.0"}
    assert after.ended_at is not None
    (attempted,) = store.list_attempts(trial.id)
    assert (attempted.state, attempted.message) == (ending.attempt_state, after.message)
    assert attempted.ended_at == after.ended_at
    first, second = events_of(store, lease.sweep_id)[len(before) :]
    assert (first.kind, first.data) == (
        EventKind.ATTEMPT_ENDED,
        {"attempt_id": attempt.id, "state": ending.attempt_state},
    )
    assert (second.kind, second.data) == (
        EventKind.TRIAL_MOVED,
        {"from": "running", "to": ending.state, "ending": ending},
    )
    assert {first.message, second.message} == {after.message}


def test_an_end_without_provenance_leaves_what_is_there(store: SweepStore, lease: Lease) -> None:
    trial, _ = started(store, lease)
    store.record(lease, ends=[new_end(trial.id, E.PRUNED)])
    assert store.get_trial(trial.id).provenance == trial.provenance


def test_a_trial_can_end_between_two_attempts(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    store.end_attempt(lease, attempt.id, AttemptState.LOST, message="first")
    store.record(lease, ends=[new_end(trial.id, E.WORKER_LOST, message="too often")])
    assert store.get_trial(trial.id).state is TrialState.FAILED
    assert [a.message for a in store.list_attempts(trial.id)] == ["first"]


@pytest.mark.parametrize(
    ("ending", "objective"),
    [(E.COMPLETED, None), (E.COMPLETED, math.nan), (E.COMPLETED, math.inf), (E.PRUNED, 0.5), (E.ERROR, math.nan)],
)
def test_an_objective_belongs_to_completed_trials_and_is_finite(
    store: SweepStore, lease: Lease, ending: TrialEnding, objective: float | None
) -> None:
    trial, _ = started(store, lease)
    with pytest.raises(ValueError, match="objective"):
        store.record(lease, ends=[new_end(trial.id, ending, objective=objective)])
    assert store.get_trial(trial.id) == trial


def test_reports_are_taken_before_ends(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    last = new_report(attempt, 300, checkpoint="/checkpoints/300")
    store.record(lease, reports=[last], ends=[new_end(trial.id, E.COMPLETED, objective=0.5)])
    after = store.get_trial(trial.id)
    assert (after.state, after.last_step, after.checkpoint) == (TrialState.COMPLETED, 300, "/checkpoints/300")
    assert len(store.list_reports(trial.id)) == 1


def test_one_bad_end_keeps_all_of_the_call_out(store: SweepStore, lease: Lease) -> None:
    (one, attempt), (two, _) = started(store, lease, 0), started(store, lease, 1)
    before = events_of(store, lease.sweep_id)
    ends = [new_end(two.id, E.PRUNED), new_end(two.id, E.PRUNED)]
    with pytest.raises(IllegalMoveError):
        store.record(lease, reports=[new_report(attempt, 10)], ends=ends)
    assert store.list_trials(lease.sweep_id) == [one, two]
    assert store.list_reports(one.id) == []
    assert store.undelivered(lease.sweep_id, limit=10) == []
    assert [a.state for a in store.list_attempts(two.id)] == [AttemptState.RUNNING]
    assert events_of(store, lease.sweep_id) == before
    store.record(lease, reports=[new_report(attempt, 10)])
    assert [report.seq for report in store.list_reports(one.id)] == [1]


def test_a_trial_knows_when_it_started_and_ended(clocked_store: SweepStore, fake_clock: FakeClock) -> None:
    lease = claimed(clocked_store)
    trial, attempt = started(clocked_store, lease)
    fake_clock.advance(timedelta(seconds=1))
    clocked_store.end_attempt(lease, attempt.id, AttemptState.LOST)
    clocked_store.start_attempt(lease, new_attempt(trial, 1))
    fake_clock.advance(timedelta(seconds=1))
    clocked_store.record(lease, ends=[new_end(trial.id, E.PRUNED)])
    after = clocked_store.get_trial(trial.id)
    assert (after.started_at, after.ended_at) == (START, START + timedelta(seconds=2))
    ends = [a.ended_at for a in clocked_store.list_attempts(trial.id)]
    assert ends == [START + timedelta(seconds=1), START + timedelta(seconds=2)]


# --- the outbox -------------------------------------------------------------------------------------------------------


def test_the_outbox_gives_reports_in_the_order_of_recording(store: SweepStore, lease: Lease) -> None:
    (_, one), (_, two) = started(store, lease, 0), started(store, lease, 1)
    store.record(lease, reports=[new_report(two, 20), new_report(one, 10)])
    store.record(lease, reports=[new_report(two, 10)])
    waiting = store.undelivered(lease.sweep_id, limit=10)
    assert [(r.attempt_id, r.step) for r in waiting] == [(two.id, 20), (one.id, 10), (two.id, 10)]
    assert [r.seq for r in waiting] == sorted({r.seq for r in waiting})
    assert store.undelivered(lease.sweep_id, limit=2) == waiting[:2]


def test_what_was_delivered_leaves_the_outbox_and_stays_a_report(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    store.record(lease, reports=[new_report(attempt, step) for step in range(1, 6)])
    waiting = store.undelivered(lease.sweep_id, limit=10)
    store.mark_delivered(lease, up_to=waiting[2].seq)
    assert store.undelivered(lease.sweep_id, limit=10) == waiting[3:]
    store.mark_delivered(lease, up_to=waiting[0].seq)  # said again, late: nothing comes back
    assert store.undelivered(lease.sweep_id, limit=10) == waiting[3:]
    assert store.list_reports(trial.id) == waiting


def test_a_mark_beyond_the_end_does_not_swallow_what_comes_later(store: SweepStore, lease: Lease) -> None:
    _, attempt = started(store, lease)
    store.record(lease, reports=[new_report(attempt, 1)])
    store.mark_delivered(lease, up_to=1000)
    store.record(lease, reports=[new_report(attempt, 2)])
    assert [report.step for report in store.undelivered(lease.sweep_id, limit=10)] == [2]


def test_each_sweep_has_an_outbox_of_its_own(store: SweepStore, lease: Lease) -> None:
    other = claimed(store, new_sweep(1))
    (_, mine), (_, theirs) = started(store, lease), started(store, other)
    store.record(lease, reports=[new_report(mine, 1)])
    store.record(other, reports=[new_report(theirs, 1)])
    store.mark_delivered(lease, up_to=10)
    assert store.undelivered(lease.sweep_id, limit=10) == []
    assert [r.attempt_id for r in store.undelivered(other.sweep_id, limit=10)] == [theirs.id]
