"""A sweep that is changed while it runs: its generation goes on under what it has got."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_fakes import CATALOG, Rig, small_spec
from lane_words import at_work, resting
from test_shaky_store import until_it_answers

from sweep_service.domain.amendment import amended_spec
from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState, Verb
from sweep_service.domain.trial import Role
from sweep_service.services.generation import Pause
from sweep_service.services.losses import Loss
from sweep_service.services.packs import Departure, LaneMessage, PackOrder
from sweep_service.services.results import summarise


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def failed(trial_id: str) -> LaneMessage:
    return LaneMessage(
        trial_id=trial_id, step=10, metrics={}, ending=TrialEnding.ERROR, message="no file", traceback="Traceback"
    )


def retry(rig: Rig) -> None:
    rig.store.control_sweep(rig.sweep.id, Verb.RETRY)
    rig.generation.amend(rig.sweep)


@pytest.mark.parametrize("trials", [4, 9])
def test_more_or_fewer_trials_are_made_than_were_asked_for_at_first(trials: int) -> None:
    rig = Rig(small_spec(budget={"trials": 6}))
    for _ in range(3):
        rig.train(*started(rig))
    rig.amend(budget={"trials": trials})
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * trials
    assert rig.generation.outcome().reason is SweepReason.BUDGET_TRIALS
    assert rig.generation.revision == rig.sweep.revision == 1


def test_a_larger_budget_draws_what_the_sweep_would_have_drawn_with_it_and_repeats_nothing() -> None:
    rig = Rig(small_spec(budget={"trials": 12}, resources={"parallel": 1}))
    for _ in range(12):
        rig.train(*started(rig))
    rig.amend(budget={"trials": 20})
    rig.run_to_end()
    points = [tuple(trial.searched.values()) for trial in rig.trials]
    assert len(set(points)) == len(points) == 20
    at_once = Rig(small_spec(budget={"trials": 20}, resources={"parallel": 1}))
    at_once.run_to_end()
    # The first eight are at random. What comes then depends on the results and the number alone.
    assert [tuple(trial.searched.values()) for trial in at_once.trials][:3] == points[:3]


def test_of_a_better_trial_after_the_comparison_the_repeats_are_made_as_well() -> None:
    spec = small_spec(budget={"trials": 2}, baselines=["equal"], confirm={"seeds": 2})
    rig = Rig(spec, lambda trial: 1.0 - trial.number / 100)
    while not isinstance(result := rig.start_pack(), Pause):
        rig.train(*result)
    first_best = rig.sweep.best_trial_id
    rig.store.move_sweep(rig.lease, SweepState.COMPLETED)
    rig.store.release_lease(rig.lease)
    budget = {"budget": {"trials": 4}}
    amended = amended_spec(rig.sweep.spec, budget, CATALOG)
    rig.store.amend_sweep(rig.sweep.id, amended, revision=0)
    rig.next_generation()
    while not isinstance(result := rig.start_pack(), Pause):
        rig.train(*result)
    best = rig.sweep.best_trial_id
    assert best != first_best
    repeats = [trial for trial in rig.trials if trial.role is Role.CONFIRM]
    assert sum(trial.confirms == best for trial in repeats) == 2
    verdict = summarise(rig.sweep, rig.trials)["verdict"]
    assert verdict is not None


def test_a_target_that_is_reached_already_ends_the_search() -> None:
    rig = Rig(small_spec(budget={"trials": 6}), objective=lambda trial: 0.25)
    rig.train(*started(rig))
    rig.amend(budget={"target": 0.5})
    assert rig.start_pack() is Pause.DONE
    assert rig.generation.outcome().reason is SweepReason.TARGET_REACHED


def test_more_packs_run_as_soon_as_more_may() -> None:
    rig = Rig(small_spec(resources={"parallel": 1}))
    started(rig)
    assert rig.start_pack() is Pause.WAIT
    rig.amend(resources={"parallel": 3})
    started(rig)
    started(rig)
    assert rig.start_pack() is Pause.WAIT


def test_of_packs_too_many_the_newest_give_way_at_their_next_report_and_cost_no_retry(tmp_path: Path) -> None:
    rig = Rig(small_spec(budget={"trials": 3}, resources={"parallel": 3}, retries=0), checkpoint_root=tmp_path)
    packs = [started(rig) for _ in range(3)]
    ids = [order.lanes[0].trial_id for _, order in packs]
    rig.amend(resources={"parallel": 1})
    departures = [rig.generation.report(key, [at_work(order.lanes[0].trial_id, 5)]) for key, order in packs]
    assert departures == [{}, {ids[1]: Departure.RESTS}, {ids[2]: Departure.RESTS}]
    for key, order in packs[1:]:
        assert rig.generation.refill(key, 1) == ()
        checkpoint = tmp_path / key
        checkpoint.write_bytes(b"weights")
        left = LaneMessage(trial_id=order.lanes[0].trial_id, step=5, metrics={}, checkpoint=str(checkpoint), rests=True)
        rig.generation.report(key, [left])
        rig.generation.pack_over(key, loss=None)
    assert [trial.state for trial in rig.trials] == [TrialState.RUNNING] * 3
    (attempt,) = rig.store.list_attempts(ids[1])
    assert (attempt.state, attempt.message) == (AttemptState.PREEMPTED, "Fewer packs run at once now.")
    assert rig.start_pack() is Pause.WAIT
    rig.train(*packs[0])
    key, again = started(rig)
    assert [lane.resume_from for lane in again.lanes] == [str(tmp_path / packs[1][0])]
    assert rig.start_pack() is Pause.WAIT
    rig.train(key, again)
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * 3


def test_a_pack_that_waits_for_a_place_gives_way_at_once() -> None:
    rig = Rig(small_spec(budget={"trials": 2}))
    first = started(rig)
    assert rig.generation.next_pack("waits") is None
    rig.amend(resources={"parallel": 1})
    assert rig.generation.begin("waits", node="here").lanes == ()
    rig.generation.pack_over("waits", loss=None)
    rig.train(*first)
    rig.run_to_end()
    assert [trial.num_attempts for trial in rig.trials] == [1, 1]


def test_packs_that_were_to_give_way_stay_when_more_may_run_again() -> None:
    rig = Rig(small_spec())
    packs = [started(rig) for _ in range(2)]
    rig.amend(resources={"parallel": 1})
    rig.amend(resources={"parallel": 2})
    for key, order in packs:
        assert rig.generation.report(key, [at_work(order.lanes[0].trial_id, 5)]) == {}


def test_early_stopping_judges_by_its_new_rule_also_what_was_reported_before() -> None:
    rig = Rig(small_spec(resources={"parallel": 3}, params={"steps": 100}))
    for _ in range(2):
        key, order = started(rig)
        rig.generation.report(key, [at_work(order.lanes[0].trial_id, 10)])
        rig.train(key, order)
    key, order = started(rig)
    worse = LaneMessage(trial_id=order.lanes[0].trial_id, step=10, metrics={"val/normalized_loss": 9.0})
    assert rig.generation.report(key, [worse]) == {}
    rig.amend(early_stopping={"pruner": "median", "startup_trials": 2, "min_steps": 5})
    later = LaneMessage(trial_id=order.lanes[0].trial_id, step=20, metrics={"val/normalized_loss": 9.0})
    assert rig.generation.report(key, [later]) == {order.lanes[0].trial_id: Departure.ENDED}
    assert rig.trials[2].state is TrialState.EARLY_STOPPED


def test_failed_trials_go_on_from_their_checkpoints(tmp_path: Path) -> None:
    rig = Rig(small_spec(budget={"trials": 2}), checkpoint_root=tmp_path)
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    checkpoint = Path(order.lanes[0].checkpoint_dir) / "step-5.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"weights")
    rig.generation.report(key, [at_work(trial_id, 5, checkpoint=str(checkpoint))])
    rig.generation.report(key, [failed(trial_id)])
    rig.generation.pack_over(key, loss=None)
    assert rig.trials[0].state is TrialState.FAILED
    retry(rig)
    orders = [started(rig) for _ in range(2)]
    resumed = {lane.trial_id: lane.resume_from for _, order in orders for lane in order.lanes}
    assert resumed[trial_id] == str(checkpoint)
    for one in orders:
        rig.train(*one)
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * 2
    assert not checkpoint.exists() or rig.sweep.best_trial_id == trial_id


def test_a_search_that_had_only_failed_goes_on_once_they_are_tried_again() -> None:
    rig = Rig(small_spec(resources={"parallel": 1}))
    for _ in range(5):
        key, order = started(rig)
        rig.generation.report(key, [failed(order.lanes[0].trial_id)])
        rig.generation.pack_over(key, loss=None)
    retry(rig)
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * 6


def test_what_lost_its_workers_too_often_has_all_its_retries_again_after_a_retry() -> None:
    rig = Rig(small_spec(budget={"trials": 2}, resources={"parallel": 1, "lanes": 1}, retries=1))
    for _ in range(2):
        rig.generation.pack_over(started(rig)[0], loss=Loss.WORKER, message="segfault")
    assert rig.trials[0].ending is TrialEnding.WORKER_LOST
    other = started(rig)
    retry(rig)
    rig.train(*other)
    for ending in (None, TrialEnding.WORKER_LOST):
        rig.generation.pack_over(started(rig)[0], loss=Loss.WORKER, message="segfault")
        assert rig.trials[0].ending is ending


def test_once_all_is_done_a_change_is_for_the_next_generation() -> None:
    rig = Rig(small_spec(budget={"trials": 1}))
    rig.run_to_end()
    rig.amend(budget={"trials": 2})
    assert (rig.generation.revision, rig.sweep.revision) == (0, 1)
    assert rig.generation.outcome().state is SweepState.COMPLETED
    rig.next_generation()
    assert rig.generation.revision == 1
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * 2


def test_what_is_to_be_tried_again_is_cancelled_by_a_stop_that_came_first_to_the_generation() -> None:
    rig = Rig(small_spec(resources={"parallel": 2}))
    key, order = started(rig)
    running = started(rig)
    rig.generation.report(key, [failed(order.lanes[0].trial_id)])
    rig.generation.pack_over(key, loss=None)
    rig.store.control_sweep(rig.sweep.id, Verb.RETRY)
    rig.store.control_sweep(rig.sweep.id, Verb.STOP)
    rig.generation.stop()
    rig.generation.amend(rig.sweep)
    assert rig.trials[0].state is TrialState.CANCELLED
    rig.train(*running)
    rig.run_to_end()
    assert rig.generation.outcome().state is SweepState.STOPPED


@pytest.mark.parametrize("fails", [["before"], ["after"]])
def test_a_change_survives_a_store_that_is_away(fails: list[str]) -> None:
    rig = Rig(small_spec(budget={"trials": 2}, resources={"parallel": 2}))
    key, order = started(rig)
    rig.generation.report(key, [failed(order.lanes[0].trial_id)])
    rig.generation.pack_over(key, loss=None)
    other = started(rig)
    rig.store.control_sweep(rig.sweep.id, Verb.RETRY)
    rig.store.fails.extend(fails)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailableError):
        rig.generation.report(other[0], [at_work(other[1].lanes[0].trial_id, 5)])
    until_it_answers(rig.generation.amend, rig.sweep)
    rig.train(*other)
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * 2


def test_a_change_in_a_pause_is_gone_on_with_after_it() -> None:
    rig = Rig(small_spec(budget={"trials": 2}, resources={"parallel": 1}))
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    rig.store.control_sweep(rig.sweep.id, Verb.PAUSE)
    rig.generation.pause()
    rig.amend(budget={"trials": 3}, resources={"parallel": 2})
    assert rig.generation.report(key, [at_work(trial_id, 5)]) == {trial_id: Departure.RESTS}
    rig.generation.report(key, [resting(trial_id, 5)])
    rig.generation.pack_over(key, loss=None)
    assert rig.start_pack() is Pause.DONE
    rig.store.move_sweep(rig.lease, SweepState.PAUSED)
    rig.store.release_lease(rig.lease)
    rig.store.control_sweep(rig.sweep.id, Verb.RESUME)
    rig.next_generation()
    started(rig)
    started(rig)
    assert len(rig.trials) == 2
