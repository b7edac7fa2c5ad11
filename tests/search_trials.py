"""Trials of a search, ended in every way."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from store_values import START

from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Role, Trial


def bowl(params: Mapping[str, Any]) -> float:
    """An objective with its least value inside the space, where it is that of the tests."""
    if "alpha" not in params or "weight_lr" not in params:
        return 0.0
    return (params["alpha"] - 1) ** 2 + abs(math.log10(params["weight_lr"]) + 2)


def trial_of(number: int, params: Mapping[str, Any], search_state: Mapping[str, Any], **changes: Any) -> Trial:
    values: dict[str, Any] = {
        "id": f"trl_{number}",
        "sweep_id": "swp",
        "number": number,
        "role": Role.SEARCH,
        "balancer": "gradnorm",
        "params": params,
        "searched": params,
        "search_state": search_state,
        "seed": 0,
        "state": TrialState.COMPLETED,
        "objective": bowl(params),
        "created_at": START,
    }
    return Trial(**{**values, **changes})


def ended(number: int, params: Mapping[str, Any], state: Mapping[str, Any]) -> Trial:
    """Some go wrong, each in another way, and some are stopped early."""
    wrong = (TrialState.INFEASIBLE, TrialState.FAILED, TrialState.CANCELLED)
    if number % 8 == 6:
        return early_stopped(trial_of(number, params, state), last_step=10 * (1 + number % 3))
    if number % 6 != 4:
        return trial_of(number, params, state)
    return trial_of(number, params, state, state=wrong[number // 6 % 3], objective=None)


def early_stopped(trial: Trial, *, last_step: int) -> Trial:
    """The trial, ended by a pruner when it had its result already."""
    assert trial.objective is not None
    metrics = {"val/normalized_loss": trial.objective}
    return replace(trial, state=TrialState.EARLY_STOPPED, objective=None, metrics=metrics, last_step=last_step)
