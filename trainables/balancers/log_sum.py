"""The sum of the losses' logarithms.

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.balancers.base import WEIGHTS, Balancer, GradientInfo, State, ones
from trainables.balancers.initial_loss import LOWEST_LOSSES, check_lowest_losses, lowest_losses
from trainables.protocol import Task
from trainables.settings import TrainingSettings

EPSILON = 1e-8  # added to every loss, so that one of exactly 0 has a logarithm; FAMO's authors take the same


@dataclass(frozen=True, kw_only=True)
class LogSum(Balancer):
    """minimise Σ_i log(L_i + ε), hence w_i = 1 / (L_i + ε).

    Scale-invariant: a loss in other units only adds a constant. The weights have no fixed sum; every w_i L_i is 1
    (Navon et al., ICML 2022, arXiv 2202.01017, compare with it as "scale-invariant", SI). A loss below 0 has no
    logarithm and is refused.
    """

    name = "log_sum"
    is_stackable = True

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> LogSum:
        return cls()

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        weights_T = ones(num_tasks, device, dtype)
        return {WEIGHTS: weights_T, LOWEST_LOSSES: torch.full_like(weights_T, torch.inf)}

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        weights_T = (losses_T + EPSILON).reciprocal()
        return weights_T, {WEIGHTS: weights_T, **lowest_losses(losses_T, state)}

    def check(self, state: State, task_names: Sequence[str]) -> None:
        check_lowest_losses(state, task_names, what="log L")
