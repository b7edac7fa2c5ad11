"""Equal weights: the sum of the losses as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.balancers.base import WEIGHTS, Balancer, GradientInfo, State, ones
from trainables.protocol import Task
from trainables.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Equal(Balancer):
    """w_i = 1 at every step. The baseline that anybody gets who adds the losses up."""

    name = "equal"
    weighs_ahead = True
    is_stackable = True

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> Equal:
        return cls()

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        return {WEIGHTS: ones(num_tasks, device, dtype)}

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        return state[WEIGHTS], state
