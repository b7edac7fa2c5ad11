"""A sweep that is paused: what runs leaves a checkpoint and rests, and the next generation goes on from there."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conductor_fakes import Rig, small_spec
from conductor_house import said
from lane_words import at_work, resting
from test_shaky_store import until_it_answers

from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialState, Verb
from sweep_service.services.generation import Pause
from sweep_service.services.losses import Loss
from sweep_service.services.packs import Departure, LaneMessage, PackOrder


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def paused(rig: Rig) -> None:
    rig.store.control_sweep(rig.sweep.id, Verb.PAUSE)
    rig.generation.pause()


def attempts(rig: Rig, trial_id: str) -> list[AttemptState]:
    return [attempt.state for attempt in rig.store.list_attempts(trial_id)]


def test_running_trials_rest_at_their_next_report_and_nothing_new_starts() -> None:
    rig = Rig(small_spec(resources={"parallel": 2}))
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    assert rig.generation.report(key, [at_work(trial_id, 5)]) == {}
    paused(rig)
    assert rig.start_pack() is Pause.WAIT
    assert not rig.generation.is_over
    assert rig.generation.report(key, [at_work(trial_id, 10)]) == {trial_id: Departure.RESTS}
    assert rig.generation.report(key, [resting(trial_id, 10)]) == {}
    (trial,) = rig.trials
    assert (trial.state, trial.last_step, trial.checkpoint) == (
        TrialState.RESTING,
        10,
        f"/checkpoints/{trial_id}/10.pt",
    )
    assert trial.metrics == {"val/normalized_loss": 0.5}, "what it said at its last report"
    assert attempts(rig, trial_id) == [AttemptState.PREEMPTED]
    assert rig.generation.is_over
    rig.generation.pack_over(key, loss=None)
    assert rig.start_pack() is Pause.DONE
    assert rig.generation.outcome().state is SweepState.PAUSED


def test_what_rests_goes_on_from_its_checkpoint_in_the_next_generation_and_costs_no_retry(tmp_path: Path) -> None:
    rig = Rig(small_spec(budget={"trials": 2}, retries=0), checkpoint_root=tmp_path)
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    paused(rig)
    rig.generation.report(key, [at_work(trial_id, 10)])
    checkpoint = tmp_path / "step-10.pt"
    checkpoint.write_bytes(b"weights")
    left = LaneMessage(trial_id=trial_id, step=10, metrics={}, checkpoint=str(checkpoint), rests=True)
    rig.generation.report(key, [left])
    rig.generation.pack_over(key, loss=None)
    rig.store.move_sweep(rig.lease, SweepState.PAUSED)
    rig.store.release_lease(rig.lease)
    rig.store.control_sweep(rig.sweep.id, Verb.RESUME)
    rig.next_generation()
    assert rig.sweep.state is SweepState.RUNNING
    key, again = started(rig)
    assert (again.lanes[0].trial_id, again.lanes[0].resume_from) == (trial_id, str(checkpoint))
    rig.train(key, again)
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * 2


def test_a_trial_that_ends_by_its_next_report_does_not_rest() -> None:
    rig = Rig(small_spec(budget={"trials": 2}))
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    paused(rig)
    assert rig.generation.report(key, [rig.last_message(trial_id)]) == {trial_id: Departure.ENDED}
    rig.generation.pack_over(key, loss=None)
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED]
    assert rig.generation.outcome().state is SweepState.PAUSED


def test_what_waits_for_a_place_does_not_start_and_a_trial_between_two_workers_rests_at_once() -> None:
    rig = Rig(small_spec(resources={"parallel": 2}))
    key, order = started(rig)
    rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    assert rig.generation.next_pack("with the lost one") is None
    assert rig.generation.next_pack("with a new one") is None
    paused(rig)
    assert [trial.state for trial in rig.trials] == [TrialState.RESTING, TrialState.PENDING]
    assert rig.generation.begin("with a new one", node="here").lanes == ()
    for pack in ("with a new one", "with the lost one"):
        rig.generation.pack_over(pack, loss=None)
    assert rig.start_pack() is Pause.DONE
    assert attempts(rig, order.lanes[0].trial_id) == [AttemptState.LOST]


def test_a_worker_that_dies_before_it_can_rest_loses_its_attempt_and_the_trial_rests() -> None:
    rig = Rig(small_spec(retries=0))
    key, order = started(rig)
    paused(rig)
    rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    assert [trial.state for trial in rig.trials] == [TrialState.RESTING]
    assert attempts(rig, order.lanes[0].trial_id) == [AttemptState.LOST]
    assert rig.generation.is_over


def test_a_conductor_that_dies_in_a_pause_leaves_the_rest_of_it_to_the_next() -> None:
    rig = Rig(small_spec())
    _, order = started(rig)
    rig.store.control_sweep(rig.sweep.id, Verb.PAUSE)
    rig.next_generation()
    rig.generation.pause()
    assert [trial.state for trial in rig.trials] == [TrialState.RESTING]
    assert attempts(rig, order.lanes[0].trial_id) == [AttemptState.LOST]
    assert rig.start_pack() is Pause.DONE


@pytest.mark.parametrize("fail", ["before", "after"])
def test_a_lane_rests_once_although_the_store_fails_in_the_middle_of_it(fail: Any) -> None:
    rig = Rig(small_spec())
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    paused(rig)
    rig.generation.report(key, [at_work(trial_id, 10)])
    rig.store.fails.append(fail)
    with pytest.raises(StoreUnavailableError):
        rig.generation.report(key, [resting(trial_id, 10)])
    assert rig.generation.report(key, [resting(trial_id, 10)]) == {}
    assert [trial.state for trial in rig.trials] == [TrialState.RESTING]
    assert attempts(rig, trial_id) == [AttemptState.PREEMPTED]
    rig.generation.pack_over(key, loss=None)
    assert attempts(rig, trial_id) == [AttemptState.PREEMPTED]


@pytest.mark.parametrize("num_calm", range(3))
@pytest.mark.parametrize("fail", ["before", "after"])
def test_a_worker_that_dies_in_a_pause_leaves_nothing_running_whichever_write_fails(fail: Any, num_calm: int) -> None:
    rig = Rig(small_spec())
    key, _ = started(rig)
    paused(rig)
    rig.store.fails += [None] * num_calm + [fail]
    until_it_answers(rig.generation.pack_over, key, loss=Loss.WORKER, message="died")
    rig.store.fails.clear()
    assert rig.start_pack() is Pause.DONE
    assert [trial.state for trial in rig.trials] == [TrialState.RESTING]
    assert rig.generation.is_over


@pytest.mark.parametrize("fail", ["before", "after"])
@pytest.mark.parametrize("following", ["the next pack", "a stop"])
def test_a_pause_that_fails_half_way_loses_no_trial(fail: Any, following: str) -> None:
    rig = Rig(small_spec(budget={"trials": 1}, retries=0))
    key, _ = started(rig)
    rig.generation.split(key, 1, "it is between two packs")
    rig.generation.pack_over(key, loss=None)
    assert rig.generation.next_pack("set aside") is None
    rig.store.control_sweep(rig.sweep.id, Verb.PAUSE)
    rig.store.fails.append(fail)
    with pytest.raises(StoreUnavailableError):
        rig.generation.pause()
    assert rig.generation.begin("set aside", node="here").lanes == ()
    if following == "the next pack":
        assert rig.start_pack() is Pause.WAIT
        assert [trial.state for trial in rig.trials] == [TrialState.RESTING]
        rig.generation.pack_over("set aside", loss=None)
        assert rig.start_pack() is Pause.DONE
        return
    rig.generation.stop()
    rig.generation.pack_over("set aside", loss=None)
    rig.run_to_end()
    # Whether it rested, and is cancelled by the stop, or not, and goes on, is the store's to say: nothing is left over.
    (trial,) = rig.trials
    assert trial.state is (TrialState.COMPLETED if fail == "before" else TrialState.CANCELLED)


@pytest.mark.parametrize("fail", ["before", "after"])
def test_a_trial_whose_start_failed_before_a_pause_rests_and_its_worker_finds_nothing_to_do(fail: Any) -> None:
    rig = Rig(small_spec(budget={"trials": 1}))
    assert rig.generation.next_pack("pack-1") is None
    rig.store.fails.append(fail)
    with pytest.raises(StoreUnavailableError):
        rig.generation.begin("pack-1", node="here")
    paused(rig)
    assert rig.generation.begin("pack-1", node="here").lanes == ()
    rig.generation.stop()
    rig.generation.pack_over("pack-1", loss=None)
    rig.run_to_end()
    states = [attempt for trial in rig.trials for attempt in attempts(rig, trial.id)]
    assert rig.trials[0].state.is_ended
    assert AttemptState.RUNNING not in states
    assert rig.trials[0].state is not TrialState.FAILED, "nobody has lost a worker"


def test_a_trial_whose_worker_dies_in_a_pause_is_finished_where_a_stop_comes_before_it_rests() -> None:
    rig = Rig(small_spec(budget={"trials": 1}))
    key, _ = started(rig)
    paused(rig)
    rig.store.fails += [None, "before"]  # the end of its attempt is stored, its rest is not
    with pytest.raises(StoreUnavailableError):
        rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    rig.store.control_sweep(rig.sweep.id, Verb.STOP)
    rig.generation.stop()
    rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED]


def test_a_resumed_trial_whose_workers_die_before_they_begin_fails_and_not_its_sweep() -> None:
    rig = Rig(small_spec(budget={"trials": 2}, retries=0))
    key, order = started(rig)
    paused(rig)
    rig.generation.report(key, [at_work(order.lanes[0].trial_id, 10)])
    rig.generation.report(key, [resting(order.lanes[0].trial_id, 10)])
    rig.generation.pack_over(key, loss=None)
    rig.store.move_sweep(rig.lease, SweepState.PAUSED)
    rig.store.control_sweep(rig.sweep.id, Verb.RESUME)
    rig.next_generation()
    for key in ("trying", "without a trainer"):  # the first may have been lost by finding out how many go together
        assert rig.generation.next_pack(key) is None
        rig.generation.pack_over(key, loss=Loss.WORKER, message="torch does not load")
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.FAILED, TrialState.COMPLETED]


def test_a_lane_that_was_asked_to_rest_before_a_stop_goes_on_in_another_pack_and_is_not_taken_for_lost() -> None:
    rig = Rig(small_spec(budget={"trials": 2}, retries=0, search={"sampler": "random"}, resources={"lanes": 2}))
    key, order = started(rig)
    rig.generation.settle(key, 2)
    second = rig.generation.refill(key, 1)
    ids = [order.lanes[0].trial_id, second[0].trial_id]
    paused(rig)
    assert rig.generation.report(key, [at_work(ids[0], 10)]) == {ids[0]: Departure.RESTS}
    rig.store.control_sweep(rig.sweep.id, Verb.STOP)
    rig.generation.stop()
    assert rig.generation.report(key, [resting(ids[0], 10)]) == {}
    assert [trial.state for trial in rig.trials] == [TrialState.RUNNING] * 2
    assert attempts(rig, ids[0]) == [AttemptState.PREEMPTED]
    assert rig.generation.refill(key, 1) == (), "its worker takes it for gone"
    rig.generation.report(key, [rig.last_message(ids[1])])
    rig.generation.pack_over(key, loss=None)
    rig.next_generation()  # a crash changes nothing
    rig.generation.stop()
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * 2


def test_what_a_lane_has_said_before_it_rests_is_stored_although_it_comes_late() -> None:
    rig = Rig(small_spec())
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    paused(rig)
    rig.generation.report(key, [at_work(trial_id, 10)])
    rig.generation.report(key, [resting(trial_id, 10)])
    rig.generation.log(key, [said(trial_id, 0, "the last line")])
    assert [kept.line.text for kept in rig.store.list_trial_logs(trial_id)] == ["the last line"]


def test_a_stop_that_overtakes_a_pause_finishes_what_runs_and_cancels_what_rests() -> None:
    rig = Rig(small_spec(resources={"parallel": 3}))
    first, second, third = (started(rig) for _ in range(3))
    ids = [order.lanes[0].trial_id for _, order in (first, second, third)]
    paused(rig)
    for (key, _), trial_id in zip((first, second), ids, strict=False):
        rig.generation.report(key, [at_work(trial_id, 10)])
    rig.generation.report(first[0], [resting(ids[0], 10)])
    rig.store.control_sweep(rig.sweep.id, Verb.STOP)
    rig.generation.stop()
    rig.generation.report(second[0], [resting(ids[1], 10)])  # had been asked before
    for key, _ in (first, second):
        rig.generation.pack_over(key, loss=None)
    rig.train(*third)
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [
        TrialState.CANCELLED,
        TrialState.COMPLETED,
        TrialState.COMPLETED,
    ]
    assert rig.generation.outcome().state is SweepState.STOPPED


def test_the_wall_time_stands_still_in_a_pause() -> None:
    rig = Rig(small_spec(budget={"trials": 9, "wall_time": "40m"}))
    rig.train(*started(rig))
    rig.clock.advance(timedelta(minutes=20))
    rig.next_generation()
    paused(rig)
    rig.store.move_sweep(rig.lease, SweepState.PAUSED)
    rig.store.release_lease(rig.lease)
    rig.clock.advance(timedelta(hours=8))
    rig.store.control_sweep(rig.sweep.id, Verb.RESUME)
    rig.clock.advance(timedelta(hours=8))
    rig.next_generation()
    rig.train(*started(rig))
    rig.clock.advance(timedelta(minutes=5))
    rig.next_generation()
    rig.train(*started(rig))
    rig.clock.advance(timedelta(minutes=5))
    rig.next_generation()
    assert rig.start_pack() is Pause.DONE
    assert rig.generation.outcome().reason is SweepReason.BUDGET_TIME
