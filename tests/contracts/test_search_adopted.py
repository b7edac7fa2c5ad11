"""Samplers that learn, given what an earlier sweep has shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from search_trials import early_stopped, ended, trial_of

from sweep_service.domain.adoption import ADOPTED, LEARNERS
from sweep_service.domain.space import Choice, FloatRange, Space
from sweep_service.domain.spec import Objective
from sweep_service.domain.trial import Trial
from sweep_service.search.optuna_search import OptunaSearch

SPACE: Space = {
    "x": FloatRange(type="float", low=0, high=1),
    "y": FloatRange(type="float", low=1e-4, high=1, log=True),
}
WITH_CONDITIONS: Space = {
    **SPACE,
    "kind": Choice(type="categorical", choices=("deep", "flat")),
    "z": FloatRange(type="float", low=0, high=1, when={"kind": ("deep",)}),
}


_BAD = 0.7


def bowl(point: Mapping[str, Any]) -> float:
    """Least at x = 0.8, y = 0.01, kind flat."""
    return (point["x"] - 0.8) ** 2 + (math.log10(point["y"]) + 2) ** 2 / 9 + (point.get("kind") == "deep")


def adopted(num: int = 24, *, space: Space = SPACE, sign: float = 1.0) -> list[Trial]:
    """Random points with their results, as a sampler is told of what has been adopted; bad ones were stopped early."""
    search = OptunaSearch(space=space, objective=Objective.model_validate({}), sampler="random", seed=9, budget=num)
    trials = []
    for number in range(-num, 0):
        point = search.ask(number + num).params
        trial = trial_of(number, point, {ADOPTED: True}, objective=sign * bowl(point))
        trials.append(early_stopped(trial, last_step=50) if sign * bowl(point) > _BAD else trial)
    return trials


def opened(sampler: str, history: Sequence[Trial] = (), *, space: Space = SPACE, seed: int = 3) -> OptunaSearch:
    objective = Objective.model_validate({})
    return OptunaSearch(space=space, objective=objective, sampler=sampler, seed=seed, budget=24, history=history)


def test_the_samplers_of_these_tests_are_those_that_may_adopt() -> None:
    assert {"tpe", "gp", "cmaes", "nsga2"} == LEARNERS


@pytest.mark.parametrize("sampler", sorted(LEARNERS))
def test_what_is_adopted_moves_the_very_first_draws_to_where_it_was_good(sampler: str) -> None:
    def mean(history: Sequence[Trial]) -> float:
        """Of the first five results, over a few seeds."""
        results = []
        for seed in range(1 if sampler == "gp" else 8):
            search = opened(sampler, history, seed=seed)
            for number in range(5):
                draw = search.ask(number)
                results.append(bowl(draw.params))
                search.tell(trial_of(number, draw.params, draw.state, objective=results[-1]))
        return sum(results) / len(results)

    cold, warm, misled = mean([]), mean(adopted()), mean(adopted(sign=-1.0))
    assert warm < 0.6 * cold
    assert misled > 1.3 * cold


@pytest.mark.parametrize("sampler", sorted(LEARNERS))
def test_a_search_that_has_adopted_draws_the_same_when_it_is_rebuilt(sampler: str) -> None:
    def run(*, cut: bool) -> list[Mapping[str, Any]]:
        history: list[Trial] = []
        search = opened(sampler, adopted())
        for number in range(5 if sampler == "gp" else 16):
            search = opened(sampler, [*adopted(), *history]) if cut else search
            draw = search.ask(number)
            history.append(ended(number, draw.params, draw.state))
            search.tell(history[-1])
        return [trial.searched for trial in history]

    whole = run(cut=False)
    assert run(cut=True) == whole
    tried = [tuple(point.values()) for point in [*whole, *(trial.searched for trial in adopted())]]
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_points_without_inactive_parameters_are_adopted_too(sampler: str) -> None:
    history = adopted(space=WITH_CONDITIONS)
    assert any("z" not in trial.searched for trial in history)
    search = opened(sampler, history, space=WITH_CONDITIONS)
    again = opened(sampler, history, space=WITH_CONDITIONS)
    points = [search.ask(number).params for number in range(12)]
    assert [again.ask(number).params for number in range(12)] == points
    assert sum(point["kind"] == "flat" for point in points) >= 8
    assert all(("z" in point) == (point["kind"] == "deep") for point in points)


@pytest.mark.parametrize("sampler", sorted(LEARNERS))
@pytest.mark.parametrize("num", [1, 2])
def test_a_single_trial_may_be_adopted(sampler: str, num: int) -> None:
    search = opened(sampler, adopted(num))
    for number in range(6):
        draw = search.ask(number)
        assert draw.params.keys() == SPACE.keys()
        search.tell(trial_of(number, draw.params, draw.state, objective=bowl(draw.params)))


def test_cmaes_goes_on_by_its_own_results_from_where_it_has_started() -> None:
    search = opened("cmaes", adopted(sign=-1.0))  # which leads it astray
    results = []
    for number in range(150):
        draw = search.ask(number)
        results.append(bowl(draw.params))
        search.tell(trial_of(number, draw.params, draw.state, objective=results[-1]))
    assert sum(results[-20:]) < 0.3 * sum(results[:20])
