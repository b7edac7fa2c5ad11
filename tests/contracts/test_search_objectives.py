"""The samplers that drive several objectives, held to the laws of the Search port, and to what they are for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from store_values import new_trial

from sweep_service.domain.branches import grid_size
from sweep_service.domain.front import pareto_front
from sweep_service.domain.space import Choice, FloatRange, IntRange, Space
from sweep_service.domain.spec import Objective
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Trial
from sweep_service.ports import Draw
from sweep_service.search.optuna_search import OptunaSearch

OBJECTIVES = (Objective(metric="val/loss/a"), Objective(metric="val/auc/b", direction="maximize"))
SPACE: Space = {
    "x": FloatRange(type="float", low=0.0, high=1.0),
    "y": FloatRange(type="float", low=1e-4, high=1e-1, log=True),
    "width": IntRange(type="int", low=8, high=64, step=8),
    "kind": Choice(type="categorical", choices=("a", 2, True)),
}
FINITE: Space = {**SPACE, "x": FloatRange(type="float", low=0.0, high=1.0, step=0.5)} | {
    "y": FloatRange(type="float", low=0.0, high=1.0, step=0.25)
}
Open = Callable[[Sequence[Trial]], OptunaSearch]


@pytest.fixture(params=["tpe", "nsga2", "gp", "random", "qmc", "grid"])
def sampler(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def open_search(sampler: str) -> Open:
    return lambda history: search_with(sampler, history, space=FINITE if sampler == "grid" else SPACE)


def search_with(
    sampler: str, history: Sequence[Trial] = (), *, space: Space = SPACE, seed: int = 3, budget: int = 24
) -> OptunaSearch:
    return OptunaSearch(
        space=space,
        objective=Objective(),
        objectives=OBJECTIVES,
        sampler=sampler,
        seed=seed,
        budget=budget,
        history=history,
    )


def metrics_of(params: Mapping[str, Any]) -> dict[str, float]:
    """What a low ``x`` gains in the one it loses in the other; everything else costs both."""
    waste = abs(math.log10(params["y"] + 1e-5) + 2) + params["width"] / 64
    return {"val/loss/a": params["x"] + waste, "val/auc/b": params["x"] - waste}


def running(number: int, draw: Draw) -> Trial:
    return new_trial(
        "swp", number, searched=draw.params, search_state=draw.state, state=TrialState.RUNNING, started_at=None
    )


def ended(trial: Trial) -> Trial:
    """Some go wrong, each in another way."""
    wrong = (TrialState.INFEASIBLE, TrialState.FAILED, TrialState.CANCELLED)
    if trial.number % 6 == 4:
        return replace(trial, state=wrong[trial.number // 6 % 3])
    return replace(trial, state=TrialState.COMPLETED, objective=1.0, metrics=metrics_of(trial.searched))


def test_a_cut_after_every_trial_changes_nothing_and_repeats_nothing(open_search: Open, sampler: str) -> None:
    def run(*, cut: bool) -> list[Mapping[str, Any]]:
        history: list[Trial] = []
        search = open_search(())
        for number in range(13):
            search = open_search(history) if cut else search
            draw = search.ask(2 * number)
            history.append(ended(running(2 * number, draw)))
            search.tell(history[-1])
        return [trial.searched for trial in history]

    whole = run(cut=False)
    assert run(cut=True) == whole
    is_cancelled = [2 * number // 6 % 3 == 2 and 2 * number % 6 == 4 for number in range(13)]
    points = [tuple(point.values()) for point, cancelled in zip(whole, is_cancelled, strict=True) if not cancelled]
    assert len(set(points)) == len(points), "only a grid comes back, and only to what was cancelled"


def test_trials_that_end_late_give_the_same_draws_before_and_after_a_cut(open_search: Open) -> None:
    def run(*, cut: bool) -> list[Mapping[str, Any]]:
        trials: dict[int, Trial] = {}
        search = open_search(())
        for number in range(12):
            search = open_search(list(trials.values())) if cut else search
            trials[number] = running(number, search.ask(number))
            for late in [number] if number % 3 else [number - 9]:
                if late in trials:
                    trials[late] = ended(trials[late])
                    search.tell(trials[late])
                    search.tell(trials[late])
        return [trial.searched for trial in trials.values()]

    assert run(cut=True) == run(cut=False)


def test_every_draw_lies_in_the_space_and_given_values_are_taken(open_search: Open, sampler: str) -> None:
    search, space = open_search(()), FINITE if sampler == "grid" else SPACE
    for number in range(16):
        given = {"x": 0.5, "kind": True} if number % 5 == 4 else None
        draw = search.ask(number, given)
        assert all(space[name].contains(value) for name, value in draw.params.items())
        assert {name: draw.params[name] for name in given or {}} == (given or {})
        search.tell(ended(running(number, draw)))


@pytest.mark.parametrize(
    ("state", "metrics"),
    [
        (TrialState.EARLY_STOPPED, {"val/loss/a": 1.0, "val/normalized_loss": 1.0}),
        (TrialState.COMPLETED, {"val/loss/a": 1.0, "val/auc/b": math.nan}),
    ],
    ids=repr,
)
def test_a_trial_that_lacks_an_objective_is_borne_and_known_again_after_a_cut(
    open_search: Open, state: TrialState, metrics: dict[str, float]
) -> None:
    search = open_search(())
    history = []
    for number in range(12):
        history.append(ended(running(number, search.ask(number))))
        search.tell(history[-1])
    objective = 1.0 if state is TrialState.COMPLETED else None
    history.append(replace(running(12, search.ask(12)), state=state, metrics=metrics, objective=objective))
    search.tell(history[-1])
    assert search.ask(13).params == open_search(history).ask(13).params


def test_a_grid_of_several_objectives_tries_every_point_once() -> None:
    search = search_with("grid", space=FINITE)
    size = grid_size(FINITE)
    assert size == 3 * 5 * 8 * 3
    points = [tuple(search.ask(number).params.values()) for number in range(size)]
    assert len({repr(point) for point in points}) == size


@pytest.mark.parametrize(("sampler", "num"), [("tpe", 60), ("nsga2", 120), ("gp", 16)])
def test_the_front_of_a_sampler_that_learns_lies_beyond_that_of_random_points(sampler: str, num: int) -> None:
    def covered(by: str, seed: int) -> float:
        """The area between the front and the worst that there is: larger is better."""
        search = search_with(by, seed=seed, budget=num)
        trials = []
        for number in range(num):
            trial = running(number, search.ask(number))
            trials.append(replace(trial, state=TrialState.COMPLETED, objective=1.0, metrics=metrics_of(trial.searched)))
            search.tell(trials[-1])
        return _area(pareto_front(trials, OBJECTIVES))

    seeds = (1, 2) if sampler != "gp" else (1,)
    assert sum(covered(sampler, seed) for seed in seeds) > sum(covered("random", seed) for seed in seeds)


def _area(front: Sequence[Trial]) -> float:
    """What the front dominates below a loss of 4 and above a score of -3, which no point reaches."""
    area, floor = 0.0, -3.0
    for trial in front:  # by the loss, ascending, so that the score ascends too
        loss, score = trial.metrics["val/loss/a"], trial.metrics["val/auc/b"]
        area += (4.0 - loss) * (score - floor)
        floor = score
    return area
