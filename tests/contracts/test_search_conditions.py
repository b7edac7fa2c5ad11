"""Every sampler that takes a space with conditions, held to the laws of the Search port in one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from search_trials import ended, trial_of

from sweep_service.domain.branches import active_part, grid_size
from sweep_service.domain.space import Choice, FloatRange, IntRange, Space
from sweep_service.domain.spec import Objective
from sweep_service.domain.trial import Trial
from sweep_service.search.optuna_search import OptunaSearch

SAMPLERS = ("tpe", "random", "nsga2", "qmc")
SPACE: Space = {  # a child before its parent, and a chain
    "weight_lr": FloatRange(type="float", low=1e-4, high=1e-1, log=True, when={"balancer": ("gradnorm",)}),
    "depth": IntRange(type="int", low=1, high=4, when={"kind": ("deep",)}),
    "balancer": Choice(type="categorical", choices=("gradnorm", "equal", "other")),
    "kind": Choice(type="categorical", choices=("deep", "flat"), when={"balancer": ("gradnorm", "other")}),
    "alpha": FloatRange(type="float", low=-3, high=3),
}
FINITE: Space = {
    "alpha": FloatRange(type="float", low=0, high=1, step=0.5, when={"balancer": ("gradnorm",)}),
    "kind": Choice(type="categorical", choices=("deep", "flat"), when={"balancer": ("gradnorm", "other")}),
    "depth": IntRange(type="int", low=1, high=4, when={"kind": ("deep",)}),
    "balancer": Choice(type="categorical", choices=("gradnorm", "equal", "other")),
    "size": Choice(type="categorical", choices=(1, True)),
}
FINITE_SIZE = 2 * (1 + (4 + 1) + 3 * (4 + 1))


@pytest.fixture(params=SAMPLERS)
def open_search(request: pytest.FixtureRequest) -> Callable[..., OptunaSearch]:
    def open_one(history: Sequence[Trial] = ()) -> OptunaSearch:
        return opened(request.param, history)

    return open_one


def opened(sampler: str, history: Sequence[Trial] = (), *, space: Space = SPACE, budget: int = 24) -> OptunaSearch:
    objective = Objective.model_validate({})
    return OptunaSearch(space=space, objective=objective, sampler=sampler, seed=3, budget=budget, history=history)


def result(params: Mapping[str, Any]) -> float:
    """Best where the balancer is gradnorm, its kind deep and its depth 3."""
    return (
        abs(params["alpha"] - 1)
        + 3 * (params["balancer"] != "gradnorm")
        + 2 * (params.get("kind") != "deep")
        + abs(params.get("depth", 0) - 3)
    )


def run(open_one: Callable[..., OptunaSearch], *, cut: bool, num: int = 24) -> list[Mapping[str, Any]]:
    history: list[Trial] = []
    search = open_one()
    for number in range(num):
        search = open_one(history) if cut else search
        draw = search.ask(2 * number)
        history.append(ended(2 * number, draw.params, json.loads(json.dumps(dict(draw.state)))))
        search.tell(history[-1])
    return [trial.searched for trial in history]


def test_a_point_has_values_for_its_active_parameters_and_no_others(open_search: Callable[..., OptunaSearch]) -> None:
    points = run(open_search, cut=False, num=48)
    for point in points:
        assert all(SPACE[name].contains(value) for name, value in point.items())
        assert point == active_part(SPACE, {"kind": "flat", "depth": 1, "weight_lr": 0.01, **point})
    assert {"alpha", "balancer"} in map(set, points)
    assert set(SPACE) == {name for point in points for name in point}


def test_a_cut_after_every_trial_changes_nothing_and_repeats_nothing(open_search: Callable[..., OptunaSearch]) -> None:
    whole = run(open_search, cut=False)
    assert run(open_search, cut=True) == whole
    assert len({tuple(sorted(point.items())) for point in whole}) == len(whole)


def test_given_values_decide_what_else_is_active(open_search: Callable[..., OptunaSearch]) -> None:
    search = open_search()
    assert set(search.ask(0, {"balancer": "equal"}).params) == {"alpha", "balancer"}
    assert set(search.ask(1, {"balancer": "other", "kind": "flat", "alpha": 2.0}).params) == {
        "alpha",
        "balancer",
        "kind",
    }
    given = {"balancer": "gradnorm", "kind": "deep", "depth": 2}
    drawn = search.ask(2, given).params
    assert set(drawn) == set(SPACE)
    assert {name: drawn[name] for name in given} == given


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_samplers_that_learn_find_the_better_branch_and_the_best_of_it(sampler: str) -> None:
    search = opened(sampler, budget=120)
    points = []
    for number in range(120):
        draw = search.ask(number)
        points.append(draw.params)
        search.tell(trial_of(number, draw.params, draw.state, objective=result(draw.params)))
    late = points[-20:]
    assert sum(point["balancer"] == "gradnorm" for point in late) >= 12  # at random it would be 7
    assert sum(point.get("kind") == "deep" for point in late) >= 12  # at random 7
    assert sum(result(point) for point in late) < 0.5 * sum(result(point) for point in points[:20])


def test_a_grid_tries_each_different_point_once_whether_it_is_cut_or_not() -> None:
    def open_one(history: Sequence[Trial] = ()) -> OptunaSearch:
        return opened("grid", history, space=FINITE)

    assert grid_size(FINITE) == FINITE_SIZE == 42
    whole = [draw.params for draw in map(open_one().ask, range(FINITE_SIZE))]
    assert len({repr(sorted(point.items())) for point in whole}) == FINITE_SIZE
    assert all(point == active_part(FINITE, point) for point in whole)
    assert Counter(point["balancer"] for point in whole) == {"gradnorm": 30, "other": 10, "equal": 2}
    trials = [trial_of(number, point, {}, objective=1.0) for number, point in enumerate(whole)]
    assert [open_one(trials[:number]).ask(number).params for number in range(FINITE_SIZE)] == whole


def test_a_grid_finds_the_points_that_have_the_given_values() -> None:
    search = opened("grid", space=FINITE)
    given = {"balancer": "gradnorm", "alpha": 0.5, "size": True}
    points = [search.ask(number, given).params for number in range(5)]
    assert len({repr(point) for point in points}) == 5
    assert all({name: point[name] for name in given} == given and point["size"] is True for point in points)


def test_what_nsga2_carries_on_of_inactive_parameters_is_small_and_survives_json() -> None:
    search = opened("nsga2")
    for number in range(10):
        draw = search.ask(number)
        inactive = SPACE.keys() - draw.params.keys()
        assert {f"silent:{name}" for name in inactive} <= draw.state.keys()
        assert json.loads(json.dumps(dict(draw.state))) == draw.state
        search.tell(trial_of(number, draw.params, draw.state, objective=result(draw.params)))
