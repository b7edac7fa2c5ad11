"""The balancers, one file a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from trainables.balancers.base import INITIAL_LOSSES, WEIGHTS, Balancer, GradientInfo, Needs, State
from trainables.balancers.dwa import DynamicWeightAverage
from trainables.balancers.equal import Equal
from trainables.balancers.famo import Famo
from trainables.balancers.geometric import Geometric
from trainables.balancers.gradnorm import GradNorm
from trainables.balancers.inverse_initial_loss import InverseInitialLoss
from trainables.balancers.lanes import BalancerLanes
from trainables.balancers.log_sum import LogSum
from trainables.balancers.nash_mtl import NashMtl
from trainables.balancers.pcgrad import PcGrad
from trainables.balancers.rlw import RandomLossWeighting
from trainables.balancers.single_task import SingleTask
from trainables.balancers.static import Static
from trainables.balancers.uncertainty import Uncertainty
from trainables.protocol import Task
from trainables.settings import TrainingSettings

__all__ = [
    "INITIAL_LOSSES",
    "WEIGHTS",
    "Balancer",
    "BalancerLanes",
    "GradientInfo",
    "Needs",
    "State",
    "create_balancer",
]


# These use scipy.optimize or TorchJD, which imports it: 0.3 s that a lane with another balancer does not pay.


def _mgda(settings: TrainingSettings, tasks: Sequence[Task]) -> Balancer:
    from trainables.balancers.mgda import Mgda

    return Mgda.from_settings(settings, tasks)


def _cagrad(settings: TrainingSettings, tasks: Sequence[Task]) -> Balancer:
    from trainables.balancers.cagrad import CaGrad

    return CaGrad.from_settings(settings, tasks)


def _imtl_g(settings: TrainingSettings, tasks: Sequence[Task]) -> Balancer:
    from trainables.balancers.imtl_g import ImtlG

    return ImtlG.from_settings(settings, tasks)


def _upgrad(settings: TrainingSettings, tasks: Sequence[Task]) -> Balancer:
    from trainables.balancers.upgrad import UpGrad

    return UpGrad.from_settings(settings, tasks)


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
    "mgda": _mgda,
    "pcgrad": PcGrad.from_settings,
    "cagrad": _cagrad,
    "imtl_g": _imtl_g,
    "upgrad": _upgrad,
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
