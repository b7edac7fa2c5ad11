"""Sweeps that begin with what an earlier one has shown: the plan and the generation above it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from conductor_fakes import CATALOG, Rig, small_spec

from sweep_service.domain.adoption import adopt
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepState
from sweep_service.domain.trial import AdoptedTrial, Role, Trial

SPACE = {
    "alpha": {"type": "float", "low": -3.0, "high": 3.0},
    "lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True},
}


def spec(sampler: str, seed: int, **changes: Any) -> SweepSpec:
    values: dict[str, Any] = {"space": SPACE, "search": {"sampler": sampler, "seed": seed}, "budget": {"trials": 8}}
    return small_spec(**{**values, **changes})


def bowl(trial: Trial) -> float:
    """Least, 0, at alpha = 2 and lr = 0.001; equal, which reads no alpha, has lr alone."""
    alpha = 0.0 if trial.balancer == "equal" else (float(trial.params["alpha"]) - 2) ** 2
    return alpha + (math.log10(trial.params["lr"]) + 3) ** 2


def ran(one: SweepSpec, adopted: tuple[AdoptedTrial, ...] = ()) -> Rig:
    rig = Rig(one, bowl, adopted=adopted)
    rig.run_to_end()
    return rig


def adopted_from(earlier: Rig, one: SweepSpec) -> tuple[AdoptedTrial, ...]:
    return adopt(one, CATALOG[one.trainable], earlier.sweep, earlier.trials).adopted


def results(rig: Rig, role: Role = Role.SEARCH) -> list[float]:
    return [trial.objective for trial in rig.trials if trial.role is role and trial.objective is not None]


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2"])
def test_a_warm_sweep_finds_better_points_than_a_cold_one_with_the_same_budget(sampler: str) -> None:
    def best_and_mean(*, warm: bool) -> tuple[float, float]:
        bests, means = [], []
        for seed in range(10):
            one = spec(sampler, seed)
            earlier = ran(spec("random", 100 + seed, budget={"trials": 24}))
            found = results(ran(one, adopted_from(earlier, one) if warm else ()))
            bests.append(min(found))
            means.append(sum(found) / len(found))
        return sum(bests) / 10, sum(means) / 10

    (cold_best, cold_mean), (warm_best, warm_mean) = best_and_mean(warm=False), best_and_mean(warm=True)
    assert warm_best < 0.7 * cold_best
    assert warm_mean < 0.7 * cold_mean


def test_adopted_trials_are_no_trials_of_the_sweep_and_never_its_best() -> None:
    one = spec("tpe", 1, baselines=["equal"], budget={"trials": 6, "no_improvement": 6})
    earlier = ran(spec("tpe", 2, baselines=["equal"], budget={"trials": 20}))
    adopted = adopted_from(earlier, one)
    assert {trial.role for trial in adopted} == {Role.SEARCH, Role.BASELINE}
    rig = Rig(one, lambda trial: 100 + bowl(trial), adopted=adopted)  # worse than all that it has adopted
    rig.run_to_end()
    assert [trial.number for trial in rig.trials] == list(range(12))
    assert {trial.sweep_id for trial in rig.trials} == {rig.sweep.id}
    best = rig.store.get_trial(rig.sweep.best_trial_id or "")
    assert best.objective == min(results(rig)) > 100
    assert rig.generation.outcome().state is SweepState.COMPLETED


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "nsga2"])
def test_a_warm_sweep_that_is_cut_after_every_trial_draws_what_an_uncut_one_does(sampler: str) -> None:
    one = spec(sampler, 5, baselines=["equal"])
    adopted = adopted_from(ran(spec("tpe", 6, baselines=["equal"], budget={"trials": 12})), one)
    uncut, cut = ran(one, adopted), Rig(one, bowl, adopted=adopted)
    for _ in range(16):
        started = cut.start_pack()
        assert isinstance(started, tuple)
        cut.train(*started)
        cut.next_generation()
    cut.run_to_end()
    assert [trial.searched for trial in cut.trials] == [trial.searched for trial in uncut.trials]
    assert [trial.searched for trial in uncut.trials] != [trial.searched for trial in ran(one).trials]


def test_a_baseline_learns_of_its_own_earlier_trials_alone() -> None:
    one = spec("tpe", 5, baselines=["equal"])
    earlier = ran(spec("tpe", 6, baselines=["equal"], budget={"trials": 24}))
    adopted = adopted_from(earlier, one)
    whole = ran(one, adopted)
    without = ran(one, tuple(trial for trial in adopted if trial.role is Role.SEARCH))
    cold = ran(one)
    assert results(without, Role.BASELINE) == results(cold, Role.BASELINE)
    assert results(without) == results(whole)
    assert sum(results(whole, Role.BASELINE)) < sum(results(cold, Role.BASELINE))


def test_initial_points_are_tried_first_all_the_same() -> None:
    one = spec("cmaes", 5, initial=[{"alpha": -1.0, "lr": 0.05}])
    rig = ran(one, adopted_from(ran(spec("random", 6, budget={"trials": 30})), one))
    assert rig.trials[0].searched == {"alpha": -1.0, "lr": 0.05}
    assert sum(results(rig)[1:]) / 7 < 2, "it goes on from what it has adopted, not from there"
