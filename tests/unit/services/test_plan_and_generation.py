"""What a conductor generation does with a sweep, through the store that it writes to."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conductor_fakes import Rig, small_spec

from sweep_service.domain.errors import LeaseLostError
from sweep_service.domain.events import EventKind
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState, Verb
from sweep_service.domain.trial import Role
from sweep_service.services.generation import Pause
from sweep_service.services.losses import Loss
from sweep_service.services.packs import LaneMessage, PackOrder
from sweep_service.services.ranking import best_trial


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def test_a_sweep_runs_its_budget_and_ends_completed() -> None:
    rig = Rig(small_spec())
    rig.run_to_end()
    assert [trial.number for trial in rig.trials] == list(range(6))
    assert {trial.state for trial in rig.trials} == {TrialState.COMPLETED}
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.COMPLETED, SweepReason.BUDGET_TRIALS)


def test_the_best_trial_is_recorded_as_soon_as_it_is_known() -> None:
    rig = Rig(small_spec(budget={"trials": 3}), objective=lambda trial: [3.0, 1.0, 2.0][trial.number])
    bests = []
    for _ in range(3):
        rig.train(*started(rig))
        bests.append(rig.store.get_trial(rig.sweep.best_trial_id or "").number)
    assert bests == [0, 1, 1]


def test_of_equal_trials_the_first_made_is_the_best_whichever_ends_first() -> None:
    rig = Rig(small_spec(budget={"trials": 2}), objective=lambda trial: 1.0)
    first, second = started(rig), started(rig)
    rig.train(*second)
    assert rig.store.get_trial(rig.sweep.best_trial_id or "").number == 1
    rig.train(*first)
    assert rig.store.get_trial(rig.sweep.best_trial_id or "").number == 0
    assert best_trial(rig.sweep.spec, rig.trials) == rig.store.get_trial(rig.sweep.best_trial_id or "")


def test_a_trial_ends_and_takes_the_lead_in_one_write() -> None:
    rig = Rig(small_spec(budget={"trials": 2}))
    key, order = started(rig)
    told = len(rig.store.list_events(rig.sweep.id, limit=500))
    rig.generation.report(key, [rig.last_message(order.lanes[0].trial_id)])
    assert rig.sweep.best_trial_id == order.lanes[0].trial_id
    kinds = [event.kind for event in rig.store.list_events(rig.sweep.id, limit=500)][told:]
    assert kinds == [EventKind.ATTEMPT_ENDED, EventKind.TRIAL_MOVED, EventKind.TRIAL_BEST]


def test_a_maximised_objective_takes_the_largest_value() -> None:
    spec = small_spec(objective={"metric": "val/normalized_loss", "direction": "maximize"}, budget={"trials": 3})
    rig = Rig(spec, objective=lambda trial: [1.0, 3.0, 2.0][trial.number])
    rig.run_to_end()
    assert rig.store.get_trial(rig.sweep.best_trial_id or "").number == 1


def test_a_baseline_searches_the_parameters_that_it_reads_with_as_many_trials() -> None:
    rig = Rig(small_spec(baselines=["equal"]))
    rig.run_to_end()
    equal = [trial for trial in rig.trials if trial.role is Role.BASELINE]
    assert len(equal) == 6
    assert {tuple(trial.searched) for trial in equal} == {("lr",)}
    assert len({trial.searched["lr"] for trial in equal}) == 6
    assert {tuple(sorted(t.searched)) for t in rig.trials if t.role is Role.SEARCH} == {("alpha", "lr")}


def test_a_baseline_that_reads_nothing_of_the_space_runs_once() -> None:
    space = {"alpha": {"type": "float", "low": 0.0, "high": 3.0}}
    rig = Rig(small_spec(space=space, baselines=["equal", "single_task"]))
    rig.run_to_end()
    counts = Counter((trial.role, trial.balancer) for trial in rig.trials)
    assert counts == {(Role.SEARCH, "gradnorm"): 6, (Role.BASELINE, "equal"): 1, (Role.BASELINE, "single_task"): 1}


def test_the_comparison_repeats_the_best_of_each_with_the_same_fresh_seeds() -> None:
    rig = Rig(small_spec(baselines=["equal"], confirm={"seeds": 3}))
    rig.run_to_end()
    confirm = [trial for trial in rig.trials if trial.role is Role.CONFIRM]
    by_source: dict[Any, list[int]] = {}
    for trial in confirm:
        by_source.setdefault(trial.confirms, []).append(trial.seed)
        source = rig.store.get_trial(trial.confirms or "")
        assert {**source.params, "seed": trial.seed} == trial.params
    assert [len(seeds) for seeds in by_source.values()] == [3, 3]
    assert len({tuple(seeds) for seeds in by_source.values()}) == 1
    assert 5 not in next(iter(by_source.values())), "the search's own seed is not fresh"
    best_equal = min((t for t in rig.trials if t.role is Role.BASELINE), key=lambda t: t.objective or 0)
    assert set(by_source) == {rig.sweep.best_trial_id, best_equal.id}


def test_only_the_comparison_is_told_to_measure_the_test_split() -> None:
    rig = Rig(small_spec(baselines=["equal"], confirm={"seeds": 2}, budget={"trials": 2}))
    for _ in range(100):
        result = rig.start_pack()
        if isinstance(result, Pause):
            break
        (lane,) = result[1].lanes
        assert lane.evaluate_test == (rig.store.get_trial(lane.trial_id).role is Role.CONFIRM)
        rig.train(*result)
    assert len(rig.trials) == 8


def test_no_more_packs_run_at_once_than_parallel_allows() -> None:
    rig = Rig(small_spec())
    first, _ = started(rig), started(rig)
    assert rig.start_pack() is Pause.WAIT
    rig.train(*first)
    assert not isinstance(rig.start_pack(), Pause)


def test_every_cut_after_a_trial_goes_on_with_the_points_of_an_uncut_sweep() -> None:
    uncut = Rig(small_spec(budget={"trials": 8}))
    uncut.run_to_end()
    cut = Rig(small_spec(budget={"trials": 8}))
    for _ in range(8):
        cut.train(*started(cut))
        cut.next_generation()
    cut.run_to_end()
    assert [trial.searched for trial in cut.trials] == [trial.searched for trial in uncut.trials]
    assert len({tuple(trial.searched.values()) for trial in cut.trials}) == 8
    assert cut.sweep.generation == 9


def test_a_new_generation_goes_on_from_the_last_checkpoint_in_a_new_attempt(tmp_path: Path) -> None:
    checkpoint = tmp_path / "10.pt"
    checkpoint.touch()
    rig = Rig(small_spec(budget={"trials": 1}))
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    assert order.lanes[0].resume_from is None
    message = LaneMessage(trial_id=trial_id, step=10, metrics={"val/normalized_loss": 1.0}, checkpoint=str(checkpoint))
    assert list(rig.generation.report(key, [message])) == []
    rig.next_generation()
    key, order = started(rig)
    (lane,) = order.lanes
    assert (lane.trial_id, lane.resume_from) == (trial_id, str(checkpoint))
    rig.train(key, order)
    states = [attempt.state for attempt in rig.store.list_attempts(trial_id)]
    assert states == [AttemptState.LOST, AttemptState.FINISHED]
    assert len(rig.trials) == 1


def test_a_trial_whose_checkpoint_is_gone_trains_anew_and_the_sweep_says_so() -> None:
    rig = Rig(small_spec(budget={"trials": 1}, resources={"lanes": 1}))
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    message = LaneMessage(trial_id=trial_id, step=10, metrics={"val/normalized_loss": 1.0}, checkpoint="/gone/10.pt")
    rig.generation.report(key, [message])
    rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    key, order = started(rig)
    assert order.lanes[0].resume_from is None
    assert [attempt.resumed_from for attempt in rig.store.list_attempts(trial_id)] == [None, None]
    told = [e.message for e in rig.store.list_events(rig.sweep.id, limit=500) if e.kind is EventKind.SWEEP_NOTICE]
    assert told == ["The checkpoint /gone/10.pt of trial 0 is gone; it trains from its first step."]
    rig.train(key, order)
    assert rig.trials[0].state is TrialState.COMPLETED


def test_a_generation_whose_lease_is_gone_writes_nothing() -> None:
    rig = Rig(small_spec())
    key, order = started(rig)
    old = rig.generation
    rig.next_generation()
    before = rig.trials
    with pytest.raises(LeaseLostError):
        old.report(key, [rig.last_message(order.lanes[0].trial_id)])
    with pytest.raises(LeaseLostError):
        old.next_pack("another")
    assert rig.trials == before


@pytest.mark.parametrize(
    ("ending", "state"),
    [
        (TrialEnding.NON_FINITE, TrialState.INFEASIBLE),
        (TrialEnding.OUT_OF_MEMORY, TrialState.INFEASIBLE),
        (TrialEnding.ERROR, TrialState.FAILED),
    ],
)
def test_a_trial_that_goes_wrong_counts_in_the_budget_and_has_no_objective(
    ending: TrialEnding, state: TrialState
) -> None:
    rig = Rig(small_spec())
    rig.train(*started(rig))
    rig.train(*started(rig), ending=ending, metrics={}, checkpoint=None, message="why")
    rig.run_to_end()
    assert len(rig.trials) == 6
    wrong = rig.trials[1]
    assert (wrong.state, wrong.objective, wrong.message) == (state, None, "why")
    assert rig.generation.outcome().state is SweepState.COMPLETED


def test_a_trial_that_never_reports_the_objective_fails_with_that_reason() -> None:
    rig = Rig(small_spec())
    rig.train(*started(rig), metrics={"val/loss/digit": 1.0})
    assert rig.trials[0].state is TrialState.FAILED
    assert "val/normalized_loss" in rig.trials[0].message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_objective_that_is_no_number_is_never_the_best(value: float) -> None:
    rig = Rig(small_spec(budget={"trials": 2}))
    rig.train(*started(rig), metrics={"val/normalized_loss": value})
    assert rig.sweep.best_trial_id is None
    assert rig.trials[0].objective is None


def test_a_search_of_which_nothing_completes_is_given_up() -> None:
    rig = Rig(small_spec(budget={"trials": 100}))
    rig.run_to_end(ending=TrialEnding.ERROR, metrics={}, checkpoint=None, message="ValueError: no")
    assert len(rig.trials) == 5
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.FAILED, SweepReason.TOO_MANY_FAILURES)
    assert "ValueError: no" in outcome.message


def test_a_lost_worker_costs_an_attempt_and_too_many_cost_the_trial() -> None:
    rig = Rig(small_spec(budget={"trials": 1}, retries=2, resources={"lanes": 1}))
    for _ in range(3):
        key, _ = started(rig)
        rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    assert rig.start_pack() is Pause.DONE
    (trial,) = rig.trials
    assert (trial.state, trial.ending, trial.num_attempts) == (TrialState.FAILED, TrialEnding.WORKER_LOST, 3)
    assert {attempt.state for attempt in rig.store.list_attempts(trial.id)} == {AttemptState.LOST}


def test_a_worker_that_dies_before_it_begins_loses_nothing() -> None:
    rig = Rig(small_spec(budget={"trials": 1}))
    assert rig.generation.next_pack("never-begun") is None
    rig.generation.pack_over("never-begun", loss=Loss.WORKER, message="died")
    rig.run_to_end()
    assert [(trial.state, trial.num_attempts) for trial in rig.trials] == [(TrialState.COMPLETED, 1)]


def test_stop_finishes_what_runs_cancels_what_has_not_begun_and_skips_the_comparison() -> None:
    rig = Rig(small_spec(baselines=["equal"], confirm={"seeds": 2}))
    running = started(rig)
    assert rig.generation.next_pack("set-aside") is None
    rig.store.control_sweep(rig.sweep.id, Verb.STOP)
    rig.generation.stop()
    assert rig.generation.begin("set-aside", node="here").lanes == ()
    rig.generation.pack_over("set-aside", loss=None)
    rig.train(*running)
    assert rig.start_pack() is Pause.DONE
    assert sorted(trial.state for trial in rig.trials) == [TrialState.CANCELLED, TrialState.COMPLETED]
    assert rig.generation.outcome().state is SweepState.STOPPED


def test_a_running_trial_whose_worker_dies_during_a_stop_is_still_finished() -> None:
    rig = Rig(small_spec())
    key, _ = started(rig)
    rig.store.control_sweep(rig.sweep.id, Verb.STOP)
    rig.generation.stop()
    rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    rig.run_to_end()
    assert [(trial.state, trial.num_attempts) for trial in rig.trials] == [(TrialState.COMPLETED, 2)]


def test_cancel_ends_every_trial_at_once_and_answers_late_reports_with_stop() -> None:
    rig = Rig(small_spec())
    key, order = started(rig)
    rig.store.control_sweep(rig.sweep.id, Verb.CANCEL)
    rig.generation.cancel()
    trial_id = order.lanes[0].trial_id
    assert list(rig.generation.report(key, [rig.last_message(trial_id)])) == [trial_id]
    rig.generation.pack_over(key, loss=Loss.WORKER, message="killed")
    assert rig.start_pack() is Pause.DONE
    assert {trial.state for trial in rig.trials} == {TrialState.CANCELLED}
    assert rig.generation.outcome().state is SweepState.CANCELLED


def test_each_attempt_writes_its_checkpoints_to_a_folder_of_its_own() -> None:
    rig = Rig(small_spec(budget={"trials": 1}))
    key, first = started(rig)
    rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    _, second = started(rig)
    assert first.lanes[0].checkpoint_dir != second.lanes[0].checkpoint_dir
    assert first.lanes[0].trial_id in first.lanes[0].checkpoint_dir


def test_a_grid_that_is_smaller_than_the_budget_ends_the_search_when_it_is_exhausted() -> None:
    space = {
        "alpha": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.5},
        "lr": {"type": "categorical", "choices": [0.001, 0.01]},
    }
    rig = Rig(small_spec(space=space, search={"sampler": "grid"}, budget={"trials": 100}, baselines=["equal"]))
    for _ in range(4):
        rig.train(*started(rig))
        rig.next_generation()
    rig.run_to_end()
    counts = Counter(trial.role for trial in rig.trials)
    assert counts == {Role.SEARCH: 6, Role.BASELINE: 2}
    assert len({tuple(trial.searched.values()) for trial in rig.trials if trial.role is Role.SEARCH}) == 6
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.COMPLETED, SweepReason.BUDGET_TRIALS)
    assert outcome.message == "Every point of the grid has been tried."


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "qmc"])
def test_initial_points_are_tried_first_in_their_order_and_what_they_leave_out_is_drawn(sampler: str) -> None:
    initial = [{"alpha": 1, "lr": 0.002}, {"alpha": 2.5}, {"lr": 0.003}]
    spec = small_spec(initial=initial, search={"sampler": sampler}, budget={"trials": 8})
    uncut, cut = Rig(spec), Rig(spec)
    uncut.run_to_end()
    for _ in range(8):
        cut.train(*started(cut))
        cut.next_generation()
    cut.run_to_end()
    points = [trial.searched for trial in uncut.trials]
    assert [trial.searched for trial in cut.trials] == points
    assert len(points) == len({tuple(point.values()) for point in points}) == 8
    assert points[0] == {"alpha": 1.0, "lr": 0.002}
    assert (points[1]["alpha"], points[2]["lr"]) == (2.5, 0.003)
    assert all(1e-4 <= point["lr"] <= 1e-2 and 0 <= point["alpha"] <= 3 for point in points)
    assert uncut.trials[0].params["alpha"] == 1.0


def test_a_baseline_begins_with_what_it_reads_of_the_initial_points() -> None:
    initial = [{"alpha": 1.0, "lr": 0.002}, {"alpha": 2.0, "lr": 0.002}, {"alpha": 0.5}, {"lr": 0.003}]
    rig = Rig(small_spec(initial=initial, baselines=["equal"]))
    rig.run_to_end()
    equal = [trial.searched["lr"] for trial in rig.trials if trial.role is Role.BASELINE]
    assert equal[:2] == [0.002, 0.003]
    assert len(set(equal)) == 6


def test_a_grid_goes_around_the_initial_points() -> None:
    space = {
        "alpha": {"type": "float", "low": 0.0, "high": 0.6, "step": 0.2},
        "lr": {"type": "categorical", "choices": [0.001, 0.01]},
    }
    initial = [{"alpha": 0.6000000001, "lr": 0.01}, {"lr": 0.01}]
    rig = Rig(small_spec(space=space, initial=initial, search={"sampler": "grid"}, budget={"trials": 100}))
    rig.run_to_end()
    points = [tuple(trial.searched.values()) for trial in rig.trials]
    assert points[0] == (0.6, 0.01)
    assert points[1][1] == 0.01
    assert len(set(points)) == len(points) == 8


def test_a_trial_that_reaches_the_target_ends_the_search_and_the_comparison_is_made() -> None:
    spec = small_spec(budget={"trials": 50, "target": 0.5}, baselines=["equal"], confirm={"seeds": 2})
    rig = Rig(spec, objective=lambda trial: 0.5 if trial.number == 53 else 1.0)
    rig.run_to_end()
    counts = Counter(trial.role for trial in rig.trials)
    assert counts == {Role.BASELINE: 50, Role.SEARCH: 4, Role.CONFIRM: 4}
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.COMPLETED, SweepReason.TARGET_REACHED)
    assert outcome.message == "A trial has reached the target of 0.5."


def test_a_target_of_a_maximised_objective_is_reached_from_below_and_what_runs_then_is_finished() -> None:
    spec = small_spec(
        objective={"metric": "val/normalized_loss", "direction": "maximize"}, budget={"trials": 9, "target": 0.5}
    )
    rig = Rig(spec, objective=lambda trial: [0.4, 0.6, 0.7][trial.number])
    rig.train(*started(rig))
    reaches, runs = started(rig), started(rig)
    rig.train(*reaches)
    rig.next_generation()
    again = started(rig)
    assert again[1].lanes[0].trial_id == runs[1].lanes[0].trial_id
    rig.train(*again)
    assert rig.start_pack() is Pause.DONE
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * 3
    assert rig.generation.outcome().reason is SweepReason.TARGET_REACHED


def test_a_search_that_gets_no_better_for_so_many_trials_is_over() -> None:
    values = [3.0, 2.0, 2.5, 2.5, 1.0, 1.0, 1.5, 9.0]
    rig = Rig(small_spec(budget={"trials": 50, "no_improvement": 3}), objective=lambda trial: values[trial.number])
    for _ in range(5):
        rig.train(*started(rig))
        rig.next_generation()
    rig.run_to_end()
    assert [trial.objective for trial in rig.trials] == values
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.COMPLETED, SweepReason.NO_IMPROVEMENT)
    assert "None of the last 3 trials" in outcome.message


def test_failed_trials_are_no_improvement_and_cancelled_ones_do_not_count() -> None:
    rig = Rig(small_spec(budget={"trials": 50, "no_improvement": 3}))
    rig.train(*started(rig))
    for ending in (TrialEnding.ERROR, TrialEnding.CANCELLED, TrialEnding.NON_FINITE, TrialEnding.ERROR):
        rig.train(*started(rig), ending=ending, metrics={}, checkpoint=None)
    assert rig.start_pack() is Pause.DONE


def test_when_the_wall_time_is_over_nothing_new_starts_and_what_runs_is_finished() -> None:
    spec = small_spec(budget={"trials": 50, "wall_time": "23m"}, baselines=["equal"], confirm={"seeds": 2})
    rig = Rig(spec)
    for _ in range(4):
        rig.train(*started(rig))
        rig.next_generation()  # five minutes later: what a dead conductor costs is a part of the time
    running = started(rig)
    rig.clock.advance(timedelta(minutes=4))
    assert rig.start_pack() is Pause.WAIT
    rig.train(*running)
    assert rig.start_pack() is Pause.DONE
    assert Counter(trial.role for trial in rig.trials) == {Role.BASELINE: 3, Role.SEARCH: 2}, "they take turns"
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.COMPLETED, SweepReason.BUDGET_TIME)
    assert outcome.message == "The wall time of 23m is over."


def test_a_sweep_that_is_through_in_time_has_its_comparison_and_says_nothing_of_time() -> None:
    spec = small_spec(budget={"trials": 3, "wall_time": "1d"}, baselines=["equal"], confirm={"seeds": 2})
    rig = Rig(spec)
    rig.run_to_end()
    assert Counter(trial.role for trial in rig.trials) == {Role.BASELINE: 3, Role.SEARCH: 3, Role.CONFIRM: 4}
    assert rig.generation.outcome().reason is SweepReason.BUDGET_TRIALS


def test_time_that_is_over_before_the_comparison_is_said_to_be() -> None:
    spec = small_spec(budget={"trials": 1, "wall_time": "60s"}, baselines=["equal"], confirm={"seeds": 2})
    rig = Rig(spec)
    both = started(rig), started(rig)
    rig.clock.advance(timedelta(minutes=1))
    for pack in both:
        rig.train(*pack)
    assert rig.start_pack() is Pause.DONE
    assert rig.generation.outcome().reason is SweepReason.BUDGET_TIME


def test_time_that_is_over_before_a_search_trial_starts_is_why_the_sweep_failed() -> None:
    rig = Rig(small_spec(budget={"trials": 1, "wall_time": "60s"}, baselines=["equal"]))
    baseline = started(rig)
    rig.clock.advance(timedelta(minutes=1))
    rig.train(*baseline)
    assert rig.start_pack() is Pause.DONE
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.FAILED, SweepReason.BUDGET_TIME)
