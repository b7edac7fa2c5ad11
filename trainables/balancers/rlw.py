"""Random loss weighting (Lin, Ye, Zhang, Tsang: TMLR 2022, arXiv 2111.10603).

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.balancers.base import WEIGHTS, Balancer, GradientInfo, State, ones
from trainables.batches import moved_without_waiting
from trainables.protocol import Task
from trainables.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RandomLossWeighting(Balancer):
    """w = T softmax(z), z ~ N(0, I) anew at every step: the floor that a method which adapts has to beat.

    The paper's normal distribution. Its weights sum to 1 there, to T here.
    """

    name = "rlw"

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> RandomLossWeighting:
        return cls()

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        return {WEIGHTS: ones(num_tasks, device, dtype)}

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        num_tasks = losses_T.numel()
        # In float64 whatever the lane's type is, so that a seed means the same weights in both.
        drawn_T = torch.randn(num_tasks, generator=generator, dtype=torch.float64)
        weights_T = moved_without_waiting(
            (num_tasks * torch.softmax(drawn_T, dim=0)).to(losses_T.dtype), losses_T.device
        )
        return weights_T, {WEIGHTS: weights_T}
