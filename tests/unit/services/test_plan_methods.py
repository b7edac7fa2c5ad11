"""Sweeps that search each balancer by itself: the plan and the generation above it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from itertools import groupby
from typing import Any

import pytest
from conductor_fakes import CATALOG, Rig, small_spec

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Role, Trial
from sweep_service.services.generation import Pause
from sweep_service.services.plan import Plan

METHODS = ["gradnorm", "static", "equal"]
SPACE: dict[str, Any] = {
    "balancer": {"type": "categorical", "choices": METHODS},
    "alpha": {"type": "float", "low": 0.0, "high": 3.0},
    "weight_lr": {"type": "float", "low": 1e-3, "high": 0.3, "log": True},
    "weight/odd": {"type": "float", "low": 0.1, "high": 10.0, "log": True},
    "lr": {"type": "float", "low": 1e-4, "high": 1e-2},
}
SHARES = {"gradnorm": 6, "static": 4, "equal": 2}  # of 12, by 3, 2 and 1 parameters


def checked(**changes: Any) -> SweepSpec:
    document = small_spec().canonical() | {"space": SPACE, "budget": {"trials": 12}} | changes
    return check_spec(document, CATALOG)


def result(trial: Trial) -> float:
    """Best with static, and a small learning rate."""
    return float(trial.params["lr"]) + {"static": 1, "equal": 2}.get(trial.balancer, 3)


def of_role(rig: Rig, role: Role) -> list[Trial]:
    return [trial for trial in rig.trials if trial.role is role]


def shares(rig: Rig, role: Role = Role.SEARCH) -> dict[str, int]:
    return dict(Counter(trial.balancer for trial in of_role(rig, role)))


def points(rig: Rig) -> list[tuple[Any, ...]]:
    return [(t.number, t.role, t.balancer, dict(t.searched), t.seed) for t in rig.trials]


def fail(rig: Rig, key: str, order: Any) -> None:
    """The trials of a pack end with an error of their code."""
    ended = {"metrics": {}, "checkpoint": None, "ending": TrialEnding.ERROR, "message": "ValueError: no such column"}
    rig.generation.report(key, [rig.last_message(lane.trial_id, **ended) for lane in order.lanes])
    rig.generation.pack_over(key, loss=None)


def run_with_failing(rig: Rig, *failing: str) -> None:
    """To the end, but that all trials of those balancers fail."""
    for _ in range(1000):
        started = rig.start_pack()
        if isinstance(started, Pause):
            return
        if started[1].lanes[0].balancer in failing:
            fail(rig, *started)
        else:
            rig.train(*started)
    raise AssertionError("no end")


def test_each_balancer_has_trials_in_proportion_to_its_parameters_and_searches_them_alone() -> None:
    rig = Rig(checked(), result)
    rig.run_to_end()
    assert shares(rig) == SHARES
    searched = {trial.balancer: tuple(trial.searched) for trial in rig.trials}
    assert searched == {
        "gradnorm": ("alpha", "weight_lr", "lr"),
        "static": ("weight/odd", "lr"),
        "equal": ("lr",),
    }
    assert all(trial.params["balancer"] == trial.balancer for trial in rig.trials)
    best = rig.store.get_trial(rig.sweep.best_trial_id or "")
    assert best.balancer == "static"
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason, outcome.message) == (SweepState.COMPLETED, SweepReason.BUDGET_TRIALS, "")


def test_they_take_turns_so_that_an_early_end_has_treated_all_alike() -> None:
    rig = Rig(checked())
    for _ in range(12):
        started = rig.start_pack()
        assert not isinstance(started, Pause)
        rig.train(*started)
        done = shares(rig)
        places = [(done.get(name, 0) - 1) / share for name, share in SHARES.items()]
        assert all(done.get(name, 0) / share >= max(places) for name, share in SHARES.items())
    first = [trial.balancer for trial in rig.trials[:6]]
    assert sorted(first[:3]) == sorted(METHODS)
    assert all(len(list(run)) <= 2 for _, run in groupby(trial.balancer for trial in rig.trials))


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2", "random", "qmc"])
def test_a_cut_after_every_trial_changes_nothing(sampler: str) -> None:
    spec = checked(search={"sampler": sampler, "seed": 5}, baselines=["single_task"])
    uncut, cut = Rig(spec, result), Rig(spec, result)
    uncut.run_to_end()
    for _ in range(14):
        started = cut.start_pack()
        assert not isinstance(started, Pause)
        cut.train(*started)
        cut.next_generation()
    cut.run_to_end()
    assert points(cut) == points(uncut)
    assert shares(uncut) == SHARES


def test_what_a_lost_trial_would_have_drawn_is_drawn_again() -> None:
    spec = checked()
    rig, other = Rig(spec, result), Rig(spec, result)
    for one in (rig, other):
        for _ in range(5):
            started = one.start_pack()
            assert not isinstance(started, Pause)
            one.train(*started)
    other.next_generation()  # a crash between two trials
    for one in (rig, other):
        assert not isinstance(one.start_pack(), Pause)
    assert points(other) == points(rig)


def test_a_larger_budget_keeps_what_was_tried_and_gives_everyone_more() -> None:
    rig = Rig(checked(), result)
    rig.run_to_end()
    before = points(rig)
    # One lane a pack: nobody is kept waiting for what others will have learnt.
    larger = Rig(checked(budget={"trials": 24}, resources={"parallel": 2, "lanes": 1}), result)
    sweep = larger.sweep
    plan = Plan(
        sweep=sweep,
        trainable=CATALOG[sweep.spec.trainable],
        trials=rig.trials,
        open_search=lambda *_: None,
    )
    made: list[Trial] = []
    while new := plan.next_trials(larger.clock.now()):
        made += new
        for trial in new:
            plan.take(trial)
    assert [trial.number for trial in made] == list(range(12, 24))
    assert Counter(trial.balancer for trial in made) == SHARES
    assert points(rig) == before


def test_a_balancer_with_nothing_to_tune_runs_once() -> None:
    space = {name: SPACE[name] for name in ("balancer", "alpha", "weight_lr", "weight/odd")}
    rig = Rig(checked(space=space))
    rig.run_to_end()
    assert shares(rig) == {"gradnorm": 7, "static": 4, "equal": 1}
    only = Rig(checked(space={"balancer": {**SPACE["balancer"], "choices": ["equal", "inverse_initial_loss"]}}))
    only.run_to_end()
    assert shares(only) == {"equal": 1, "inverse_initial_loss": 1}
    outcome = only.generation.outcome()
    assert outcome.reason is SweepReason.BUDGET_TRIALS
    assert "runs once" in outcome.message


def test_a_grid_ends_when_each_different_point_has_been_tried() -> None:
    space = {"balancer": SPACE["balancer"], "alpha": {**SPACE["alpha"], "step": 1.0}}
    rig = Rig(checked(space=space, search={"sampler": "grid"}, budget={"trials": 100}))
    rig.run_to_end()
    assert shares(rig) == {"gradnorm": 4, "static": 1, "equal": 1}
    assert rig.generation.outcome().message == "Every point of the grid has been tried."


# --- failures ---------------------------------------------------------------------------------------------------------


def test_a_balancer_that_only_fails_is_given_up_and_the_others_go_on_as_without_it() -> None:
    calm, rig = Rig(checked(), result), Rig(checked(), result)
    calm.run_to_end()
    run_with_failing(rig, "gradnorm")
    assert shares(rig) == {**SHARES, "gradnorm": 5}
    others = [[dict(t.searched) for t in one.trials if t.balancer == "static"] for one in (calm, rig)]
    assert len(others[0]) == len(others[1]) == 4
    assert others[0][0].keys() == others[1][0].keys()
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.COMPLETED, SweepReason.BUDGET_TRIALS)
    assert outcome.message == (
        "gradnorm was given up: none of its 5 trials completed. The first: ValueError: no such column"
    )


def test_the_sweep_fails_only_if_every_balancer_does() -> None:
    rig = Rig(checked(baselines=["single_task"]))
    run_with_failing(rig, *METHODS)
    assert shares(rig) == {"gradnorm": 5, "static": 4, "equal": 2}
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.FAILED, SweepReason.TOO_MANY_FAILURES)


def test_the_comparison_leaves_out_a_balancer_that_was_given_up() -> None:
    rig = Rig(checked(confirm={"seeds": 2}), result)
    run_with_failing(rig, "gradnorm")
    assert shares(rig, Role.CONFIRM) == {"static": 2, "equal": 2}


# --- bounds other than trials -----------------------------------------------------------------------------------------


def test_a_limited_time_is_shared_by_all_lines_baselines_too() -> None:
    rig = Rig(checked(budget={"trials": 12, "wall_time": "60s"}, baselines=["single_task"]))
    for _ in range(7):
        started = rig.start_pack()
        assert not isinstance(started, Pause)
        rig.train(*started)
    rig.clock.advance(timedelta(seconds=61))
    assert rig.start_pack() is Pause.DONE
    assert shares(rig) | shares(rig, Role.BASELINE) == {"gradnorm": 3, "static": 2, "equal": 1, "single_task": 1}


def test_a_target_ends_the_search_of_all() -> None:
    rig = Rig(checked(budget={"trials": 12, "target": 1.5}), result)
    rig.run_to_end()
    assert rig.generation.outcome().reason is SweepReason.TARGET_REACHED
    assert [trial.balancer for trial in rig.trials] == ["gradnorm", "static"]


def test_no_improvement_counts_the_trials_of_all() -> None:
    rig = Rig(checked(budget={"trials": 12, "no_improvement": 4}), lambda trial: float(trial.number))
    rig.run_to_end()
    assert rig.generation.outcome().reason is SweepReason.NO_IMPROVEMENT
    assert len(rig.trials) == 5


def test_baselines_get_as_many_trials_per_parameter_as_the_balancers() -> None:
    rig = Rig(checked(baselines=["single_task", "inverse_initial_loss"]))
    rig.run_to_end()
    assert shares(rig, Role.BASELINE) == {"single_task": 2, "inverse_initial_loss": 2}


# --- where they begin -------------------------------------------------------------------------------------------------


def test_a_point_goes_to_the_balancer_that_it_names_and_else_to_all_that_have_its_parameters() -> None:
    initial = [{"balancer": "gradnorm", "alpha": 1.0}, {"weight/odd": 2.0, "lr": 0.002}, {"balancer": "static"}]
    rig = Rig(checked(initial=initial, baselines=["single_task"]))
    rig.run_to_end()
    by_balancer = {name: [t.searched for t in rig.trials if t.balancer == name] for name in (*METHODS, "single_task")}
    assert by_balancer["gradnorm"][0]["alpha"] == 1.0
    assert by_balancer["gradnorm"][1]["lr"] == 0.002
    assert by_balancer["static"][0] == {"weight/odd": 2.0, "lr": 0.002}
    assert by_balancer["equal"][0] == by_balancer["single_task"][0] == {"lr": 0.002}


def test_a_sweep_that_began_as_one_search_stays_one() -> None:
    stored = checked(search={"balancers": "sampled", "seed": 5}).canonical()
    del stored["search"]["balancers"]  # from before there was a choice
    rig = Rig(SweepSpec.trusted(stored), result)
    rig.run_to_end()
    search = of_role(rig, Role.SEARCH)
    assert len(search) == 12
    assert all(trial.searched["balancer"] == trial.balancer for trial in search)


def test_trials_are_stopped_early_among_those_of_their_balancer() -> None:
    rule = {"pruner": "median", "min_steps": 5, "startup_trials": 1}
    rig = Rig(checked(early_stopping=rule, budget={"trials": 24}), result)
    ended: dict[str, list[TrialState]] = {name: [] for name in METHODS}
    for _ in range(24):
        started = rig.start_pack()
        assert not isinstance(started, Pause)
        key, order = started
        (lane,) = order.lanes
        value = {"gradnorm": 3.0, "static": 2.0, "equal": 1.0}[lane.balancer]
        half = rig.last_message(lane.trial_id, step=10, metrics={"val/normalized_loss": value}, ending=None)
        rig.generation.report(key, [half])
        if not rig.store.get_trial(lane.trial_id).state.is_ended:
            rig.train(key, order, metrics={"val/normalized_loss": value})
        else:
            rig.generation.pack_over(key, loss=None)
        ended[lane.balancer].append(rig.store.get_trial(lane.trial_id).state)
    assert all(set(states) == {TrialState.COMPLETED} for states in ended.values())
