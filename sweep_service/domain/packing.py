"""Which trials may be trained together, and how many may run before something has been learnt from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from sweep_service.domain.resources import Resources
from sweep_service.domain.spec import BALANCER
from sweep_service.domain.trial import Trial
from trainables.catalog import Trainable

ALONE: Final = 1
SINGLE_TASK: Final = "single_task"  # the balancer that has a network a task: another structure than all others'

# Samplers that draw from what they have learnt. The others would draw the same points, whenever they are asked.
LEARNING_SAMPLERS: Final = frozenset({"tpe", "gp", "cmaes", "nsga2"})
MIN_ROUNDS: Final = 4  # of asking: who is asked for more than a quarter of the trials at once has learnt too little


def structure_of(trial: Trial, trainable: Trainable) -> str:
    """What trials must have in common to be trained as one network: all but numbers that the engine keeps by lane.

    Of a number that the problem's own code gets, whether it is 0 has to be common: a share of 0 may leave out a layer.
    """
    parts: dict[str, Any] = {}
    for name, value in trial.params.items():
        parameter = trainable.parameter(name)
        if parameter is None or not parameter.scalar:
            parts[name] = value
        elif name in trainable.problem_parameters:
            parts[name] = bool(value)
    parts[BALANCER] = SINGLE_TASK if trial.balancer == SINGLE_TASK else "one network"
    return json.dumps(parts, sort_keys=True)


def not_fused_because(params: Mapping[str, Any], resources: Resources) -> str:
    """Why trials with those parameters are trained one by one, as far as the parameters tell; empty: they do not."""
    if resources.lanes == ALONE:
        return "resources.lanes is 1."
    if params.get("micro_batches", 1) != 1:
        return "params.micro_batches is not 1: a batch gone through in parts is not fused."
    if params.get("autocast", "none") != "none":
        return "params.autocast is not none: only networks of one type are fused."
    return ""


def num_startup(quota: int) -> int:
    """Trials that samplers which learn draw at random before they do. Optuna's ten would leave a small sweep almost
    nothing to learn from, so that a quarter of the budget is taken where that is less, and never fewer than four.
    """
    return min(10, max(4, quota // 4))


def most_running(resources: Resources, sampler: str, quota: int, num_asked: int) -> int:
    """How many trials of a line of that quota may run at once, ``num_asked`` of it having been asked for.

    Bounded only where lanes are counted by the service itself, and the sampler learns. The trials at random, of which
    nothing has to be learnt first, may be the first round.
    """
    if resources.lanes != "auto" or sampler not in LEARNING_SAMPLERS:
        return quota
    a_round = max(1, quota // MIN_ROUNDS)
    at_random = num_startup(quota) if num_asked < num_startup(quota) else 0
    return max(a_round, at_random, resources.parallel)
