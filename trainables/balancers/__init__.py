"""The balancers, one file a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trainables.balancers.base import INITIAL_LOSSES, WEIGHTS, Balancer, GradientInfo, Needs, State
from trainables.balancers.equal import Equal
from trainables.balancers.gradnorm import GradNorm
from trainables.balancers.inverse_initial_loss import InverseInitialLoss
from trainables.balancers.single_task import SingleTask
from trainables.protocol import Task

__all__ = [
    "INITIAL_LOSSES",
    "WEIGHTS",
    "Balancer",
    "GradientInfo",
    "Needs",
    "State",
    "create_balancer",
]

_FACTORIES: Mapping[str, Callable[[Mapping[str, object], Sequence[Task]], Balancer]] = {
    "gradnorm": GradNorm.from_params,
    "equal": Equal.from_params,
    "inverse_initial_loss": InverseInitialLoss.from_params,
    "single_task": SingleTask.from_params,
}


def create_balancer(name: str, params: Mapping[str, object], tasks: Sequence[Task]) -> Balancer:
    """The balancer of that name with a lane's parameters (complete with defaults).

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _FACTORIES:
        raise ValueError(f"unknown balancer {name!r}; there are {', '.join(sorted(_FACTORIES))}")
    return _FACTORIES[name](params, tasks)
