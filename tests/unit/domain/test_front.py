"""The Pareto front: its definition, held against the function that finds it."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from store_values import new_trial

from sweep_service.domain.front import last_to_join, pareto_front, values_of
from sweep_service.domain.spec import Objective
from sweep_service.domain.trial import Trial

NAMES = ("a", "b", "c")
# Few values, so that there are equal ones and ties; and what is no number.
_value = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0, -5.5, math.nan, math.inf, -math.inf])
_points = st.lists(st.tuples(_value, _value, _value), max_size=12)
_objectives = st.lists(st.sampled_from(["minimize", "maximize"]), min_size=2, max_size=3).map(
    lambda ways: [Objective.model_validate({"metric": n, "direction": w}) for n, w in zip(NAMES, ways, strict=False)]
)


def trials_of(points: Sequence[Sequence[float]]) -> list[Trial]:
    return [
        new_trial("swp", number, metrics=dict(zip(NAMES, point, strict=False))) for number, point in enumerate(points)
    ]


def dominates(one: Trial, other: Trial, objectives: Sequence[Objective]) -> bool:
    """The definition: nowhere worse, somewhere better."""
    pairs = [(objective, one.metrics[objective.metric], other.metrics[objective.metric]) for objective in objectives]
    return any(o.is_better(a, b) for o, a, b in pairs) and not any(o.is_better(b, a) for o, a, b in pairs)


@given(_points, _objectives)
def test_nobody_on_the_front_is_dominated_and_everybody_else_is_by_somebody_on_it(
    points: list[tuple[float, ...]], objectives: list[Objective]
) -> None:
    trials = trials_of(points)
    finite = [t for t in trials if all(math.isfinite(t.metrics[o.metric]) for o in objectives)]
    front = pareto_front(trials, objectives)
    assert not any(dominates(other, one, objectives) for one in front for other in finite)
    for outsider in (trial for trial in finite if trial not in front):
        assert any(dominates(one, outsider, objectives) for one in front)
    assert all(trial in finite for trial in front)
    assert bool(front) == bool(finite)


@given(_points, _objectives, st.randoms(use_true_random=False))
def test_the_order_in_which_the_trials_come_changes_nothing(
    points: list[tuple[float, ...]], objectives: list[Objective], shuffler: random.Random
) -> None:
    trials = trials_of(points)
    mixed = list(trials)
    shuffler.shuffle(mixed)
    assert pareto_front(mixed, objectives) == pareto_front(trials, objectives)
    assert last_to_join(mixed, objectives) == last_to_join(trials, objectives)


@given(_points, _objectives)
def test_the_last_to_join_is_the_last_by_number_that_was_neither_equalled_nor_dominated_when_it_came(
    points: list[tuple[float, ...]], objectives: list[Objective]
) -> None:
    trials = trials_of(points)
    joined = [
        trial
        for index, trial in enumerate(trials)
        if (values := values_of(trial, objectives)) is not None
        and trial in pareto_front(trials[: index + 1], objectives)
        and values not in [values_of(earlier, objectives) for earlier in trials[:index]]
    ]
    assert last_to_join(trials, objectives) == (joined[-1] if joined else None)


def test_the_front_runs_from_the_best_in_the_first_objective_to_the_best_in_the_last_and_keeps_equal_trials() -> None:
    objectives = [Objective(metric="a"), Objective(metric="b", direction="maximize")]
    points = [(2.0, 9.0), (1.0, 5.0), (3.0, 9.0), (1.0, 5.0), (1.5, 4.0), (0.5, 1.0)]
    assert [trial.number for trial in pareto_front(trials_of(points), objectives)] == [5, 1, 3, 0]


@pytest.mark.parametrize("metrics", [{}, {"a": 1.0}, {"a": 1.0, "b": math.nan}, {"a": -math.inf, "b": 1.0}])
def test_a_trial_without_a_finite_value_of_each_objective_has_no_place(metrics: dict[str, float]) -> None:
    objectives = [Objective(metric="a"), Objective(metric="b")]
    trial = new_trial("swp", metrics=metrics)
    assert values_of(trial, objectives) is None
    assert pareto_front([trial], objectives) == []
    assert last_to_join([trial], objectives) is None
