"""Weights by the scale of the losses at the start.

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainables.balancers.base import INITIAL_LOSSES, WEIGHTS, Balancer, GradientInfo, State, ones
from trainables.balancers.initial_loss import InitialLoss, check_initial_losses
from trainables.protocol import Task
from trainables.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class InverseInitialLoss(Balancer):
    """w_i = T · (1/L_i(0)) / Σ_j (1/L_j(0)), constant as soon as L(0) is known.

    The weighted losses all start at the same value. What is left for a method that adapts is what happens afterwards.
    """

    initial_loss: InitialLoss

    name = "inverse_initial_loss"
    is_stackable = True

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> InverseInitialLoss:
        return cls(initial_loss=InitialLoss.from_settings(settings, tasks))

    @property
    def static_settings(self) -> Hashable:
        return self.initial_loss.is_known

    @property
    def settling_steps(self) -> int:
        return self.initial_loss.num_batches

    def settled(self) -> InverseInitialLoss:
        return replace(self, initial_loss=self.initial_loss.known())

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        initial = self.initial_loss.initial_state(device=device, dtype=dtype)
        return {WEIGHTS: ones(num_tasks, device, dtype), **initial}

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        initial = self.initial_loss.update(losses_T, state)
        inverse_T = initial[INITIAL_LOSSES].reciprocal()
        weights_T = inverse_T * (inverse_T.shape[-1] / inverse_T.sum(-1, keepdim=True))
        return weights_T, {WEIGHTS: weights_T, **initial}

    def check(self, state: State, task_names: Sequence[str]) -> None:
        check_initial_losses(state, task_names)
