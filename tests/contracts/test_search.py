"""Every sampler, held to the laws of the Search port."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from search_trials import early_stopped, ended, trial_of

from sweep_service.domain.space import Choice, FloatRange, IntRange, Space
from sweep_service.domain.spec import Objective
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Trial
from sweep_service.search.optuna_search import OptunaSearch

SAMPLERS = ("tpe", "random", "gp", "cmaes", "nsga2", "qmc")
SPACE: Space = {
    "alpha": FloatRange(type="float", low=-3, high=3),
    "weight_lr": FloatRange(type="float", low=1e-4, high=1e-1, log=True),
    "dropout": FloatRange(type="float", low=0.0, high=0.9, step=0.3),
    "width": IntRange(type="int", low=8, high=64, step=8),
    "batch": IntRange(type="int", low=1, high=512, log=True),
    "kind": Choice(type="categorical", choices=("a", 2, 2.5, True)),
}


@pytest.fixture(params=SAMPLERS)
def open_search(request: pytest.FixtureRequest) -> Callable[..., OptunaSearch]:
    def open_one(history: Sequence[Trial] = (), *, seed: int = 3, direction: str = "minimize") -> OptunaSearch:
        objective = Objective.model_validate({"direction": direction})
        return OptunaSearch(
            space=SPACE, objective=objective, sampler=request.param, seed=seed, budget=24, history=history
        )

    return open_one


def tpe_search(history: Sequence[Trial] = (), *, budget: int = 24) -> OptunaSearch:
    return OptunaSearch(
        space=SPACE, objective=Objective.model_validate({}), sampler="tpe", seed=3, budget=budget, history=history
    )


def with_ended(search: OptunaSearch, num: int) -> list[Trial]:
    """Ask for that many trials and tell each a result."""
    history = []
    for number in range(num):
        draw = search.ask(number)
        history.append(trial_of(number, draw.params, draw.state))
        search.tell(history[-1])
    return history


def test_every_draw_lies_in_the_space(open_search: Callable[..., OptunaSearch]) -> None:
    search = open_search()
    for number in range(24):
        draw = search.ask(number)
        assert set(draw.params) == set(SPACE)
        assert all(SPACE[name].contains(value) for name, value in draw.params.items())
        assert any(math.isclose(draw.params["dropout"], point) for point in (0.0, 0.3, 0.6, 0.9))
        assert draw.params["width"] % 8 == 0
        search.tell(ended(number, draw.params, draw.state))


def test_a_cut_after_every_trial_changes_nothing_and_repeats_nothing(open_search: Callable[..., OptunaSearch]) -> None:
    def run(*, cut: bool) -> list[Mapping[str, Any]]:
        history: list[Trial] = []
        search = open_search()
        for number in range(24):
            if cut:
                search = open_search(history)
            draw = search.ask(2 * number)  # numbers of the sweep have gaps where baselines lie
            trial = ended(2 * number, draw.params, draw.state)
            search.tell(trial)
            history.append(trial)
        return [trial.searched for trial in history]

    whole = run(cut=False)
    assert run(cut=True) == whole
    assert len({tuple(params.values()) for params in whole}) == len(whole)


def test_pending_trials_are_known_after_a_cut(open_search: Callable[..., OptunaSearch]) -> None:
    search = open_search()
    history = with_ended(search, 12)  # past the random start, which only trials with a result end
    for number in (12, 13, 14):
        draw = search.ask(number)
        history.append(trial_of(number, draw.params, draw.state, state=TrialState.RUNNING, objective=None))
    rebuilt = open_search(history)
    assert rebuilt.ask(15).params == search.ask(15).params
    for each in (search, rebuilt):
        for trial in history[12:]:
            each.tell(trial_of(trial.number, trial.searched, trial.search_state))
    assert rebuilt.ask(16).params == search.ask(16).params


@pytest.mark.parametrize("state", [TrialState.PENDING, TrialState.RUNNING, TrialState.RESTING])
def test_tpe_keeps_away_from_what_still_runs(state: TrialState) -> None:
    search = tpe_search()
    history = with_ended(search, 12)
    pending = [(number, search.ask(number)) for number in (12, 13, 14)]
    running = [trial_of(number, draw.params, draw.state, state=state, objective=None) for number, draw in pending]
    knowing = tpe_search([*history, *running]).ask(15).params
    assert knowing == search.ask(15).params
    assert knowing != tpe_search(history).ask(15).params


@pytest.mark.parametrize(("budget", "at_random"), [(8, 4), (24, 6), (200, 10)])
def test_tpe_draws_at_random_for_a_quarter_of_the_budget_from_four_to_ten_trials(budget: int, at_random: int) -> None:
    def draw(num_ended: int, sign: int) -> Mapping[str, Any]:
        """The next point, where the results of the trials before it are these or the opposite."""
        search = tpe_search(budget=budget)
        for number in range(num_ended):
            asked = search.ask(number)
            trial = trial_of(number, asked.params, asked.state)
            assert trial.objective is not None
            search.tell(replace(trial, objective=sign * trial.objective))
        return search.ask(num_ended).params

    assert draw(at_random - 1, 1) == draw(at_random - 1, -1)
    assert draw(at_random, 1) != draw(at_random, -1)


@pytest.mark.parametrize(
    ("state", "counts"),
    [
        (TrialState.INFEASIBLE, False),
        (TrialState.FAILED, False),
        (TrialState.CANCELLED, False),
        (TrialState.EARLY_STOPPED, True),
    ],
)
def test_tpe_learns_from_a_trial_that_was_stopped_early_and_not_from_one_without_a_result(
    state: TrialState, counts: bool
) -> None:
    search, without = tpe_search(), tpe_search()
    with_ended(search, 12)
    with_ended(without, 12)
    for number in range(12, 18):
        draw = search.ask(number)
        search.tell(trial_of(number, draw.params, draw.state, state=state, objective=None))
    assert (search.ask(18).params != without.ask(18).params) == counts


def test_tpe_prefers_of_the_early_stopped_those_that_came_further_and_of_these_the_better() -> None:
    def draw(change: Callable[[Trial], Trial]) -> Mapping[str, Any]:
        search = tpe_search()
        for number in range(12):
            asked = search.ask(number)
            search.tell(change(trial_of(number, asked.params, asked.state)))
        return search.ask(12).params

    def worse(trial: Trial) -> Trial:
        assert trial.objective is not None
        return replace(trial, objective=-trial.objective)

    equally_far = draw(lambda trial: early_stopped(trial, last_step=10))
    assert equally_far == draw(lambda trial: early_stopped(trial, last_step=20))
    assert equally_far != draw(lambda trial: early_stopped(worse(trial), last_step=10))
    assert equally_far != draw(lambda trial: early_stopped(trial, last_step=10 + trial.number))


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_an_early_stopped_trial_without_a_number_is_borne(
    open_search: Callable[..., OptunaSearch], value: float | None
) -> None:
    search = open_search()
    history = with_ended(search, 12)
    draw = search.ask(12)
    metrics = {} if value is None else {"val/normalized_loss": value}
    stopped = trial_of(12, draw.params, draw.state, state=TrialState.EARLY_STOPPED, objective=None, metrics=metrics)
    search.tell(stopped)
    assert search.ask(13).params == open_search([*history, stopped]).ask(13).params


def test_asking_and_telling_copy_none_of_the_trials_before(open_search: Callable[..., OptunaSearch]) -> None:
    """What the study hands out as a rule are deep copies of all its trials: at some thousands they cost the time of a
    trial."""

    class Counted(str):
        copies = 0

        def __deepcopy__(self, memo: object) -> Counted:
            Counted.copies += 1
            return self

    drawn = [(number, open_search().ask(number)) for number in range(12)]
    search = open_search([trial_of(number, draw.params, {"mark": Counted("x")}) for number, draw in drawn])
    Counted.copies = 0  # building may copy
    draw = search.ask(12)
    trial = trial_of(12, draw.params, draw.state)
    search.tell(trial)
    search.tell(trial)
    assert Counted.copies == 0


def test_telling_a_trial_twice_changes_nothing(open_search: Callable[..., OptunaSearch]) -> None:
    once, twice = open_search(), open_search()
    for number in range(12):
        draw = once.ask(number)
        assert twice.ask(number).params == draw.params
        trial = ended(number, draw.params, draw.state)
        once.tell(trial)
        twice.tell(trial)
        twice.tell(trial)
    assert once.ask(12).params == twice.ask(12).params


def test_another_seed_draws_other_points(open_search: Callable[..., OptunaSearch]) -> None:
    assert open_search(seed=1).ask(0).params != open_search(seed=2).ask(0).params


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_tpe_learns_which_way_is_better(direction: str) -> None:
    space: Space = {"x": FloatRange(type="float", low=0, high=1)}
    objective = Objective.model_validate({"direction": direction})
    search = OptunaSearch(space=space, objective=objective, sampler="tpe", seed=1, budget=60)
    xs = []
    for number in range(60):
        draw = search.ask(number)
        xs.append(draw.params["x"])
        trial = trial_of(
            number, {**draw.params, "alpha": 0.0, "weight_lr": 1.0}, draw.state, objective=draw.params["x"]
        )
        search.tell(trial)
    late = sum(xs[-20:]) / 20
    assert late < 0.25 if direction == "minimize" else late > 0.75


FINITE: Space = {
    "alpha": FloatRange(type="float", low=0.1, high=0.5, step=0.2),
    "width": IntRange(type="int", low=8, high=24, step=8),
    "kind": Choice(type="categorical", choices=("a", 1, True)),
}


def grid_search(history: Sequence[Trial] = (), *, seed: int = 3) -> OptunaSearch:
    objective = Objective.model_validate({})
    return OptunaSearch(space=FINITE, objective=objective, sampler="grid", seed=seed, budget=27, history=history)


def test_a_grid_tries_every_point_once_whether_it_is_cut_or_not() -> None:
    def run(*, cut: bool) -> list[Mapping[str, Any]]:
        history: list[Trial] = []
        search = grid_search()
        for number in range(27):
            search = grid_search(history) if cut else search
            draw = search.ask(number)
            history.append(trial_of(number, draw.params, draw.state, objective=1.0))
            search.tell(history[-1])
        return [trial.searched for trial in history]

    whole = run(cut=False)
    assert run(cut=True) == whole
    assert len({repr(point) for point in whole}) == 27
    assert [point["alpha"] for point in whole] != sorted(point["alpha"] for point in whole), "it is shuffled"
    assert {repr(point["alpha"]) for point in whole} == {"0.1", "0.3", "0.5"}


def test_a_grid_tries_the_point_of_a_cancelled_trial_again_and_that_of_no_other() -> None:
    search = grid_search()
    first, second = search.ask(0), search.ask(1)
    search.tell(trial_of(0, first.params, first.state, state=TrialState.CANCELLED, objective=None))
    search.tell(trial_of(1, second.params, second.state, state=TrialState.FAILED, objective=None))
    later = [search.ask(number).params for number in range(2, 28)]
    assert first.params in later
    assert second.params not in later


def test_a_grid_that_is_asked_for_more_than_it_has_starts_again() -> None:
    search = grid_search()
    points = [search.ask(number).params for number in range(28)]
    assert points[27] == points[0]


def test_qmc_points_are_even_in_every_range_and_choice() -> None:
    space: Space = {**SPACE, "pair": Choice(type="categorical", choices=("x", "y"))}
    search = OptunaSearch(
        space=space, objective=Objective.model_validate({}), sampler="qmc", seed=3, budget=64, history=()
    )
    points = [search.ask(number).params for number in range(64)]
    assert [p["pair"] for p in points].count("x") == 32
    assert sum(p["weight_lr"] < math.sqrt(1e-4 * 1e-1) for p in points) == 32, "even in the logarithm"
    assert {p["dropout"] for p in points} == {0.0, 0.3, 0.6, 0.9}
    assert {[p["width"] for p in points].count(width) for width in range(8, 65, 8)} == {8}
    assert sum(p["batch"] <= 22 for p in points) in range(28, 37)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "nsga2"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_samplers_that_learn_find_the_better_corner(sampler: str, direction: str) -> None:
    space: Space = {
        "x": FloatRange(type="float", low=0, high=1),
        "y": FloatRange(type="float", low=1e-4, high=1, log=True),
    }
    objective = Objective.model_validate({"direction": direction})
    num = 40 if sampler == "gp" else 120
    search = OptunaSearch(space=space, objective=objective, sampler=sampler, seed=1, budget=num)
    sums = []
    for number in range(num):
        draw = search.ask(number)
        sums.append(draw.params["x"] - math.log10(draw.params["y"]) / 4)
        search.tell(trial_of(number, draw.params, draw.state, objective=sums[-1]))
    late = sum(sums[-20:]) / 20
    assert late < 0.8 if direction == "minimize" else late > 1.2  # at random it is 1


@pytest.mark.parametrize("sampler", ["gp", "cmaes", "nsga2"])
def test_a_trial_that_ends_late_gives_the_same_draws_before_and_after_a_cut(sampler: str) -> None:
    """The first of a generation may be the last to end: what it changes must not depend on who has seen it run."""

    def run(*, cut: bool) -> list[Mapping[str, Any]]:
        def opened() -> OptunaSearch:
            objective = Objective.model_validate({})
            return OptunaSearch(
                space=SPACE, objective=objective, sampler=sampler, seed=3, budget=20, history=list(trials.values())
            )

        trials: dict[int, Trial] = {}
        search = opened()
        for number in range(16):
            search = opened() if cut else search
            draw = search.ask(number)
            trials[number] = trial_of(number, draw.params, draw.state, state=TrialState.RUNNING, objective=None)
            for late in [number] if number % 3 else [number - 9]:
                if late in trials:
                    trials[late] = ended(late, trials[late].searched, trials[late].search_state)
                    search.tell(trials[late])
        return [trial.searched for trial in trials.values()]

    assert run(cut=True) == run(cut=False)


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "cmaes"])
def test_a_sampler_that_learns_does_not_come_back_to_where_trials_fail(sampler: str) -> None:
    space: Space = {"x": FloatRange(type="float", low=0, high=1), "y": FloatRange(type="float", low=0, high=1)}
    search = OptunaSearch(space=space, objective=Objective.model_validate({}), sampler=sampler, seed=1, budget=40)
    points = []
    for number in range(40):
        draw = search.ask(number)
        points.append(tuple(draw.params.values()))
        x = draw.params["x"]
        fails = {"state": TrialState.INFEASIBLE, "objective": None} if x < 0.3 else {"objective": x}
        search.tell(trial_of(number, draw.params, draw.state, **fails))
    assert len(set(points)) == 40
    assert sum(x < 0.3 for x, _ in points[20:]) < 15


def test_cmaes_starts_at_the_first_point_that_it_is_given() -> None:
    space: Space = {"x": FloatRange(type="float", low=0, high=1), "y": FloatRange(type="float", low=0, high=1)}
    search = OptunaSearch(space=space, objective=Objective.model_validate({}), sampler="cmaes", seed=1, budget=40)
    assert search.ask(0, {"x": 0.9, "y": 0.1}).params == {"x": 0.9, "y": 0.1}
    points = [search.ask(number).params for number in range(1, 21)]
    assert sum(point["x"] for point in points) / 20 > 0.7
    assert sum(point["y"] for point in points) / 20 < 0.3


def test_given_values_are_taken_and_the_rest_is_drawn_in_the_space(open_search: Callable[..., OptunaSearch]) -> None:
    search = open_search()
    with_ended(search, 12)
    given = {"alpha": 0.25, "kind": True, "dropout": 0.3}
    draw = search.ask(12, given)
    assert {name: draw.params[name] for name in given} == given
    assert all(SPACE[name].contains(value) for name, value in draw.params.items())


def test_what_a_sampler_leaves_with_a_trial_is_never_pickled(open_search: Callable[..., OptunaSearch]) -> None:
    search = open_search()
    for number in range(14):
        draw = search.ask(number)
        assert all(isinstance(value, int | float | str) for value in draw.state.values())
        assert json.loads(json.dumps(dict(draw.state))) == draw.state
        assert len(json.dumps(dict(draw.state))) < 500
        search.tell(trial_of(number, draw.params, draw.state))


def test_uniform_draws_cover_the_space() -> None:
    generator = random.Random(0)
    draws = [SPACE["dropout"].draw(generator) for _ in range(200)]
    assert set(draws) == {0.0, 0.3, 0.6, 0.9}
