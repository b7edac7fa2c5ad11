"""The geometric mean of the losses (Chennupati, Sistu, Yogamani, Rawashdeh: CVPR Workshops 2019, arXiv 1904.08492).

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.balancers.base import WEIGHTS, GradientInfo, State
from trainables.balancers.initial_loss import lowest_losses
from trainables.balancers.log_sum import EPSILON, LogSum
from trainables.protocol import Task
from trainables.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Geometric(LogSum):
    """minimise (Π_i L_i)^(1/T), hence w_i = (Π_j L_j)^(1/T) / (T L_i), with ε added to every loss as in ``log_sum``.

    The direction is that of ``log_sum``, its length is not: the weights are the gradient of the geometric mean and have
    no fixed sum. Every w_i L_i is a T-th of that mean. Computed by logarithms: a product of many losses leaves the
    range of float32.
    """

    name = "geometric"
    is_stackable = True

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> Geometric:
        return cls()

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        logs_T = torch.log(losses_T + EPSILON)
        weights_T = torch.exp(logs_T.mean(-1, keepdim=True) - logs_T) / losses_T.shape[-1]
        return weights_T, {WEIGHTS: weights_T, **lowest_losses(losses_T, state)}
