"""Random loss weighting (Lin, Ye, Zhang, Tsang: TMLR 2022, arXiv 2111.10603).

Shapes: T tasks, K lanes that weigh together.
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
    is_stackable = True

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> RandomLossWeighting:
        return cls()

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        return {WEIGHTS: ones(num_tasks, device, dtype)}

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        weights_T = _weights(_draw(losses_T.numel(), generator), losses_T)
        return weights_T, {WEIGHTS: weights_T}

    def weigh_lanes(
        self, losses_KT: Tensor, gradients: GradientInfo, state: State, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, State]:
        drawn_KT = torch.stack([_draw(losses_KT.shape[-1], generator) for generator in generators])
        weights_KT = _weights(drawn_KT, losses_KT)
        return weights_KT, {WEIGHTS: weights_KT}


def _draw(num_tasks: int, generator: torch.Generator) -> Tensor:
    # In float64 whatever the lane's type is, so that a seed means the same weights in both.
    return torch.randn(num_tasks, generator=generator, dtype=torch.float64)


def _weights(drawn_T: Tensor, losses_T: Tensor) -> Tensor:
    weights_T = drawn_T.shape[-1] * torch.softmax(drawn_T, dim=-1)
    return moved_without_waiting(weights_T.to(losses_T.dtype), losses_T.device)
