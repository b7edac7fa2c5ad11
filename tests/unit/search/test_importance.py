"""Which parameters mattered."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from store_values import SPEC, new_sweep, new_trial

from sweep_service.domain.branches import draw_uniform
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Role, Sweep, Trial
from sweep_service.search.importance import MAX_TRIALS, MIN_TRIALS, parameter_importance

SPACE = {
    "alpha": {"type": "float", "low": 0.0, "high": 3.0},
    "weight_lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
    "kind": {"type": "categorical", "choices": ["a", 2, True]},
    "fixed": {"type": "categorical", "choices": ["only"]},
}
Objective = Callable[[Mapping[str, Any]], float]


def by_weight_lr(params: Mapping[str, Any]) -> float:
    return (math.log10(params["weight_lr"]) + 2) ** 2 + 0.05 * params["alpha"]


def searched(num_trials: int, result_of: Objective = by_weight_lr, /, **changes: Any) -> tuple[Sweep, list[Trial]]:
    sweep = new_sweep(spec=SweepSpec.model_validate({**SPEC.canonical(), "space": SPACE, "initial": []}))
    trials: list[Trial] = []
    for number in range(num_trials):
        drawn = draw_uniform(sweep.spec.space, seed=number)
        values = {"state": TrialState.COMPLETED, "objective": result_of(drawn), "searched": drawn, **changes}
        trials.append(new_trial(sweep.id, number, **values))
    return sweep, trials


def test_the_parameter_that_the_objective_depends_on_has_the_largest_share() -> None:
    shares = parameter_importance(*searched(24))
    assert shares is not None
    assert next(iter(shares)) == "weight_lr"
    assert shares["weight_lr"] > 0.6
    assert shares["fixed"] == 0
    assert sum(shares.values()) == pytest.approx(1)
    assert json.loads(json.dumps(shares)) == shares


def test_the_same_trials_give_the_same_shares_in_whatever_order_they_come() -> None:
    sweep, trials = searched(16)
    assert parameter_importance(sweep, trials) == parameter_importance(sweep, trials[::-1])


def test_a_choice_can_be_what_matters() -> None:
    shares = parameter_importance(*searched(24, lambda params: 1.0 if params["kind"] is True else 0.0))
    assert shares is not None
    assert next(iter(shares)) == "kind"


def test_too_few_completed_trials_tell_nothing() -> None:
    assert parameter_importance(*searched(MIN_TRIALS - 1)) is None
    assert parameter_importance(*searched(0)) is None
    sweep, trials = searched(MIN_TRIALS)
    assert parameter_importance(sweep, trials) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"state": TrialState.EARLY_STOPPED, "objective": None},
        {"state": TrialState.FAILED, "objective": None, "searched": {}},
        {"role": Role.BASELINE, "balancer": "equal"},
        {"objective": math.inf},
    ],
)
def test_what_has_no_result_of_the_search_does_not_count(changes: dict[str, Any]) -> None:
    sweep, trials = searched(16)
    _, others = searched(16, **changes)
    assert parameter_importance(sweep, [*trials, *others]) == parameter_importance(sweep, trials)
    assert parameter_importance(sweep, others) is None


def test_results_that_are_all_the_same_tell_nothing() -> None:
    assert parameter_importance(*searched(16, lambda params: 0.5)) is None


def test_of_many_trials_some_from_beginning_to_end_are_looked_at() -> None:
    sweep, trials = searched(2 * MAX_TRIALS)
    assert parameter_importance(sweep, trials) == parameter_importance(sweep, trials[::2])
