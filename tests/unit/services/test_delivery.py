"""The outbox's way to the tracker."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_fakes import RecordingTracker, Rig, small_spec

from sweep_service.domain.errors import LeaseLostError, TrackingUnavailableError
from sweep_service.domain.events import EventKind
from sweep_service.domain.trial import Trial
from sweep_service.services.delivery import Delivery
from sweep_service.services.generation import Pause
from sweep_service.services.packs import LaneMessage


def delivery_of(rig: Rig, tracker: RecordingTracker) -> Delivery:
    return Delivery(store=rig.store, tracker=tracker, lease=rig.lease)


def report_steps(rig: Rig, *steps: int) -> Trial:
    """A running trial that has reported those steps."""
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    key, order = result
    trial_id = order.lanes[0].trial_id
    for step in steps:
        message = LaneMessage(trial_id=trial_id, step=step, metrics={"val/normalized_loss": 1.0 / step})
        rig.generation.report(key, [message])
    return rig.store.get_trial(trial_id)


def test_reports_arrive_once_and_in_order() -> None:
    rig, tracker = Rig(small_spec()), RecordingTracker()
    trial = report_steps(rig, 1, 2, 3)
    delivery = delivery_of(rig, tracker)
    delivery.deliver()
    delivery.deliver()
    assert tracker.points == [(f"run of {trial.id}", step, "val/normalized_loss") for step in (1, 2, 3)]
    assert tracker.opened == [f"run of {rig.sweep.id}", f"run of {trial.id}"]
    assert not tracker.closed, "it still runs"


def test_a_trial_that_has_ended_is_closed_after_its_last_report() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 2})), RecordingTracker()
    rig.run_to_end()
    delivery_of(rig, tracker).deliver()
    assert tracker.closed == {f"run of {trial.id}": "completed" for trial in rig.trials}
    assert len(tracker.points) == 4


def test_a_tracker_that_is_away_loses_nothing_and_the_sweep_says_so_once() -> None:
    rig, tracker = Rig(small_spec()), RecordingTracker()
    report_steps(rig, 1, 2)
    delivery = delivery_of(rig, tracker)
    tracker.is_away = True
    assert [delivery.try_deliver() for _ in range(3)] == [False] * 3
    assert tracker.points == []
    tracker.is_away = False
    assert delivery.try_deliver()
    assert [step for _, step, _ in tracker.points] == [1, 2]
    notices = [e.message for e in rig.store.list_events(rig.sweep.id, limit=500) if e.kind is EventKind.SWEEP_NOTICE]
    assert len(notices) == 2
    assert "does not answer" in notices[0]
    assert "answers again" in notices[1]


def test_a_new_generation_reuses_the_runs_of_the_old_one() -> None:
    rig, tracker = Rig(small_spec()), RecordingTracker()
    report_steps(rig, 1)
    delivery_of(rig, tracker).deliver()
    rig.next_generation()
    report_steps(rig, 1, 2)
    delivery_of(rig, tracker).deliver()
    assert len(tracker.opened) == len(set(tracker.opened)) == 2
    assert [step for _, step, _ in tracker.points] == [1, 2], "a step that was reported again is not delivered again"


def test_a_delivery_without_the_lease_marks_nothing_delivered() -> None:
    rig, tracker = Rig(small_spec()), RecordingTracker()
    report_steps(rig, 1)
    old = delivery_of(rig, tracker)
    old.deliver()
    rig.next_generation()
    report_steps(rig, 2)
    with pytest.raises(LeaseLostError):
        old.deliver()
    assert len(rig.store.undelivered(rig.sweep.id, limit=10)) == 1


def test_the_end_is_not_reached_while_the_tracker_is_away() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 1})), RecordingTracker()
    rig.run_to_end()
    tracker.is_away = True
    with pytest.raises(TrackingUnavailableError):
        delivery_of(rig, tracker).finish(rig.sweep, rig.trials)
    tracker.is_away = False
    delivery_of(rig, tracker).finish(rig.sweep, rig.trials)
    assert f"run of {rig.sweep.id}" in tracker.closed


def test_a_sweep_whose_best_checkpoint_is_lost_ends_with_its_results_and_says_so_once() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 2})), RecordingTracker()
    rig.run_to_end()
    best = rig.store.get_trial(rig.sweep.best_trial_id or "")
    tracker.lost_checkpoints.add(Path(best.checkpoint or ""))
    delivery = delivery_of(rig, tracker)
    delivery.finish(rig.sweep, rig.trials)
    delivery.finish(rig.sweep, rig.trials)
    assert tracker.models == []
    assert f"run of {rig.sweep.id}" in tracker.closed
    (notice,) = [e for e in rig.store.list_events(rig.sweep.id, limit=500) if e.kind is EventKind.SWEEP_NOTICE]
    assert notice.trial_id == best.id
    assert "model is not stored" in notice.message


def test_the_model_of_the_best_trial_is_stored() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 2})), RecordingTracker()
    rig.run_to_end()
    delivery_of(rig, tracker).finish(rig.sweep, rig.trials)
    assert tracker.models == [rig.sweep.best_trial_id]
