"""The outbox's way to the tracker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conductor_fakes import RecordingTracker, Rig, small_spec

from sweep_service.domain.errors import LeaseLostError
from sweep_service.domain.events import Event, EventKind
from sweep_service.domain.states import SweepState, TrialEnding, Verb
from sweep_service.domain.trial import Trial
from sweep_service.services.delivery import Delivery, pause_after
from sweep_service.services.generation import Pause
from sweep_service.services.packs import LaneMessage, PackOrder


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def delivery_of(rig: Rig, tracker: RecordingTracker) -> Delivery:
    return Delivery(store=rig.store, tracker=tracker, lease=rig.lease)


def notices(rig: Rig) -> list[Event]:
    return [e for e in rig.store.list_events(rig.sweep.id, limit=500) if e.kind is EventKind.SWEEP_NOTICE]


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
    delivery.try_deliver()
    delivery.try_deliver()
    assert tracker.points == [(f"run of {trial.id}", step, "val/normalized_loss") for step in (1, 2, 3)]
    assert tracker.opened == [f"run of {rig.sweep.id}", f"run of {trial.id}"]
    assert not tracker.closed, "it still runs"


def test_a_trial_that_has_ended_is_closed_after_its_last_report() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 2})), RecordingTracker()
    rig.run_to_end()
    delivery_of(rig, tracker).try_deliver()
    assert tracker.closed == {f"run of {trial.id}": "completed" for trial in rig.trials}
    assert len(tracker.points) == 4


def test_what_has_been_closed_is_not_read_again_and_what_goes_on_is() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 4})), RecordingTracker()
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    slow = result  # the first trial goes on while the others come and go
    delivery = delivery_of(rig, tracker)
    for _ in range(2):
        started = rig.start_pack()
        assert not isinstance(started, Pause)
        rig.train(*started)
        delivery.try_deliver()
    assert rig.store.listed_after[-1] == -1
    rig.train(*slow)
    delivery.try_deliver()
    report_steps(rig, 1)
    delivery.try_deliver()
    assert rig.store.listed_after[-1] == 2
    assert len(tracker.closed) == 3
    assert len(tracker.points) == 3 * 2 + 1


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
    away, back = notices(rig)
    assert "does not answer" in away.message
    assert "answers again" in back.message


def test_a_new_generation_reuses_the_runs_of_the_old_one() -> None:
    rig, tracker = Rig(small_spec()), RecordingTracker()
    report_steps(rig, 1)
    delivery_of(rig, tracker).try_deliver()
    rig.next_generation()
    report_steps(rig, 1, 2)
    delivery_of(rig, tracker).try_deliver()
    of_sweep, of_trial, again = tracker.opened
    assert of_sweep == again != of_trial, "in each generation once: the sweep may have been re-opened"
    assert [step for _, step, _ in tracker.points] == [1, 2], "a step that was reported again is not delivered again"


def test_the_run_of_a_sweep_that_is_changed_gets_its_new_spec() -> None:
    rig, tracker = Rig(small_spec()), RecordingTracker()
    delivery = delivery_of(rig, tracker)
    for _ in range(2):
        delivery.try_deliver()
    assert len(tracker.opened) == 1
    rig.amend(budget={"trials": 9})
    for _ in range(2):
        delivery.try_deliver()
    assert len(tracker.opened) == 2
    assert rig.sweep.tracking_ref == tracker.opened[0] == tracker.opened[1]


@pytest.mark.parametrize("is_seen", ["at once", "when it has ended again"])
def test_a_trial_that_is_tried_again_in_a_running_sweep_goes_on_in_its_run(is_seen: str) -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 2}, resources={"parallel": 1})), RecordingTracker()
    delivery = delivery_of(rig, tracker)
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    rig.train(key, order, ending=TrialEnding.ERROR, metrics={"val/normalized_loss": 3.0}, step=10)
    delivery.try_deliver()
    (ref,) = tracker.closed
    rig.store.control_sweep(rig.sweep.id, Verb.RETRY)
    rig.generation.amend(rig.sweep)
    if is_seen == "at once":
        delivery.try_deliver()
    del tracker.closed[ref]
    rig.run_to_end()
    assert delivery.try_deliver()
    assert tracker.closed[ref] == "completed"
    assert tracker.opened.count(ref) == 2
    assert rig.store.get_trial(trial_id).tracking_ref == ref
    assert rig.store.undelivered(rig.sweep.id, limit=10) == []


def test_a_delivery_without_the_lease_marks_nothing_delivered() -> None:
    rig, tracker = Rig(small_spec()), RecordingTracker()
    report_steps(rig, 1)
    old = delivery_of(rig, tracker)
    old.try_deliver()
    rig.next_generation()
    report_steps(rig, 2)
    with pytest.raises(LeaseLostError):
        old.try_deliver()
    assert len(rig.store.undelivered(rig.sweep.id, limit=10)) == 1


def test_the_end_is_not_reached_while_the_tracker_is_away() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 1})), RecordingTracker()
    rig.run_to_end()
    tracker.is_away = True
    delivery = delivery_of(rig, tracker)
    assert [delivery.try_finish(rig.sweep, rig.trials) for _ in range(2)] == [False, False]
    (notice,) = notices(rig)
    assert "does not answer" in notice.message
    tracker.is_away = False
    assert delivery.try_finish(rig.sweep, rig.trials)
    assert f"run of {rig.sweep.id}" in tracker.closed


def test_a_sweep_whose_best_checkpoint_is_lost_ends_with_its_results_and_says_so_once() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 2})), RecordingTracker()
    rig.run_to_end()
    best = rig.store.get_trial(rig.sweep.best_trial_id or "")
    tracker.lost_checkpoints.add(best.checkpoint or "")
    delivery = delivery_of(rig, tracker)
    delivery.try_finish(rig.sweep, rig.trials)
    delivery.try_finish(rig.sweep, rig.trials)
    assert tracker.models == []
    assert f"run of {rig.sweep.id}" in tracker.closed
    (notice,) = notices(rig)
    assert notice.trial_id == best.id
    assert "model is not stored" in notice.message


def test_a_sweep_whose_best_checkpoint_cannot_be_read_for_now_waits_for_it_and_keeps_its_model() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 2})), RecordingTracker()
    rig.run_to_end()
    tracker.are_checkpoints_away = True
    delivery = delivery_of(rig, tracker)
    assert [delivery.try_finish(rig.sweep, rig.trials) for _ in range(2)] == [False, False]
    assert f"run of {rig.sweep.id}" not in tracker.closed
    tracker.are_checkpoints_away = False
    assert delivery.try_finish(rig.sweep, rig.trials)
    assert tracker.models == [rig.sweep.best_trial_id]
    assert [notice.message.partition(" answer")[0] for notice in notices(rig)] == [
        "The storage of checkpoints does not",
        "The storage of checkpoints",
    ]


def test_the_model_of_the_best_trial_is_stored() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 2})), RecordingTracker()
    rig.run_to_end()
    delivery_of(rig, tracker).try_finish(rig.sweep, rig.trials)
    assert tracker.models == [rig.sweep.best_trial_id]


def registering(**changes: Any) -> Rig:
    """A sweep that has ended, and wants its model registered."""
    rig = Rig(small_spec(budget={"trials": 2}, tracking={"register_as": "census-mtl"}, **changes))
    rig.run_to_end()
    return rig


@pytest.mark.parametrize("state", [SweepState.COMPLETED, SweepState.STOPPED])
def test_the_model_of_the_best_trial_is_registered_and_the_sweep_says_as_what(state: SweepState) -> None:
    rig, tracker = registering(), RecordingTracker()
    assert delivery_of(rig, tracker).try_finish(replace(rig.sweep, state=state), rig.trials)
    assert tracker.registered == [("census-mtl", rig.sweep.best_trial_id)]
    (notice,) = notices(rig)
    assert notice.trial_id == rig.sweep.best_trial_id
    assert "registered as census-mtl, version 7, with the alias champion" in notice.message


@pytest.mark.parametrize("state", [SweepState.CANCELLED, SweepState.FAILED])
def test_a_sweep_that_was_cancelled_or_failed_takes_nobodys_place(state: SweepState) -> None:
    rig, tracker = registering(), RecordingTracker()
    assert delivery_of(rig, tracker).try_finish(replace(rig.sweep, state=state), rig.trials)
    assert tracker.models == [rig.sweep.best_trial_id]
    assert tracker.registered == []


def test_a_model_that_is_not_stored_is_not_registered() -> None:
    rig, tracker = registering(), RecordingTracker()
    best = rig.store.get_trial(rig.sweep.best_trial_id or "")
    tracker.lost_checkpoints.add(best.checkpoint or "")
    assert delivery_of(rig, tracker).try_finish(replace(rig.sweep, state=SweepState.COMPLETED), rig.trials)
    assert tracker.registered == []


def test_a_name_that_the_registry_refuses_is_said_and_the_sweep_ends() -> None:
    rig, tracker = registering(), RecordingTracker()
    tracker.cannot_close.add("census-mtl")
    assert delivery_of(rig, tracker).try_finish(replace(rig.sweep, state=SweepState.COMPLETED), rig.trials)
    assert tracker.closed[f"run of {rig.sweep.id}"] == "completed"
    (notice,) = notices(rig)
    assert "not registered as 'census-mtl'. census-mtl is deleted" in notice.message


@pytest.mark.parametrize("what", ["open", "close"])
def test_a_run_that_the_tracker_refuses_holds_up_no_other_and_is_said_once(what: str) -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 3})), RecordingTracker()
    rig.run_to_end()
    first, *others = [f"run of {trial.id}" for trial in rig.trials]
    (tracker.cannot_open if what == "open" else tracker.cannot_close).add(first)
    delivery = delivery_of(rig, tracker)
    assert delivery.try_deliver()
    assert delivery.try_finish(rig.sweep, rig.trials)
    assert {run: tracker.closed.get(run) for run in others} == dict.fromkeys(others, "completed")
    assert f"run of {rig.sweep.id}" in tracker.closed
    assert not rig.store.undelivered(rig.sweep.id, limit=10)
    assert {run for run, _, _ in tracker.points} >= set(others)
    (notice,) = notices(rig)
    assert notice.trial_id == rig.trials[0].id
    assert "trial 0" in notice.message


def test_a_sweep_whose_own_run_is_refused_still_ends() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 1})), RecordingTracker()
    rig.run_to_end()
    tracker.cannot_close.add(f"run of {rig.sweep.id}")
    assert delivery_of(rig, tracker).try_finish(rig.sweep, rig.trials)
    (notice,) = notices(rig)
    assert "does not take this sweep's results" in notice.message


def test_a_fault_in_writing_the_results_is_said_and_does_not_decide_how_the_sweep_ends() -> None:
    rig, tracker = Rig(small_spec(budget={"trials": 1})), RecordingTracker()
    rig.run_to_end()
    tracker.fault = ZeroDivisionError("a plot of nothing")
    assert delivery_of(rig, tracker).try_finish(rig.sweep, rig.trials)
    (notice,) = notices(rig)
    assert "ZeroDivisionError: a plot of nothing" in notice.message


@pytest.mark.parametrize(("took_s", "pause_s"), [(0.0, 2.0), (0.1, 2.0), (0.25, 5.0), (60.0, 10.0)])
def test_a_delivery_that_takes_long_is_made_less_often(took_s: float, pause_s: float) -> None:
    assert pause_after(took_s) == pause_s
