"""The balancers, one file a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trainables.balancers.base import INITIAL_LOSSES, WEIGHTS, Balancer, GradientInfo, Needs, State
from trainables.balancers.cagrad import CaGrad
from trainables.balancers.dwa import DynamicWeightAverage
from trainables.balancers.equal import Equal
from trainables.balancers.famo import Famo
from trainables.balancers.geometric import Geometric
from trainables.balancers.gradnorm import GradNorm
from trainables.balancers.imtl_g import ImtlG
from trainables.balancers.inverse_initial_loss import InverseInitialLoss
from trainables.balancers.log_sum import LogSum
from trainables.balancers.mgda import Mgda
from trainables.balancers.nash_mtl import NashMtl
from trainables.balancers.pcgrad import PcGrad
from trainables.balancers.rlw import RandomLossWeighting
from trainables.balancers.single_task import SingleTask
from trainables.balancers.static import Static
from trainables.balancers.uncertainty import Uncertainty
from trainables.balancers.upgrad import UpGrad
from trainables.protocol import Task
from trainables.settings import TrainingSettings

__all__ = [
    "INITIAL_LOSSES",
    "WEIGHTS",
    "Balancer",
    "GradientInfo",
    "Needs",
    "State",
    "create_balancer",
]

_FACTORIES: Mapping[str, Callable[[TrainingSettings, Sequence[Task]], Balancer]] = {
    "gradnorm": GradNorm.from_settings,
    "equal": Equal.from_settings,
    "static": Static.from_settings,
    "inverse_initial_loss": InverseInitialLoss.from_settings,
    "single_task": SingleTask.from_settings,
    "uncertainty": Uncertainty.from_settings,
    "dwa": DynamicWeightAverage.from_settings,
    "rlw": RandomLossWeighting.from_settings,
    "log_sum": LogSum.from_settings,
    "geometric": Geometric.from_settings,
    "famo": Famo.from_settings,
    "mgda": Mgda.from_settings,
    "pcgrad": PcGrad.from_settings,
    "cagrad": CaGrad.from_settings,
    "imtl_g": ImtlG.from_settings,
    "upgrad": UpGrad.from_settings,
    "nash_mtl": NashMtl.from_settings,
}


def create_balancer(name: str, settings: TrainingSettings, tasks: Sequence[Task]) -> Balancer:
    """The balancer of that name with a lane's settings.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in _FACTORIES:
        raise ValueError(f"unknown balancer {name!r}; there are {', '.join(sorted(_FACTORIES))}")
    return _FACTORIES[name](settings, tasks)
