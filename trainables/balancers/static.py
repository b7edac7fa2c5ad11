"""Weights that somebody has chosen.

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.balancers.base import WEIGHTS, Balancer, GradientInfo, State
from trainables.protocol import Task
from trainables.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Static(Balancer):
    """w_i = T · v_i / Σ_j v_j at every step, for the values v > 0 that the spec gives.

    Searched, this is tuned scalarisation: the baseline that balancing methods are said not to beat (Xin et al., NeurIPS
    2022, arXiv 2209.11379; Kurin et al., NeurIPS 2022, arXiv 2201.04122). Only the ratios of the values count, so one
    of them can be left at 1.
    """

    values: Sequence[float]  # v, one a task

    name = "static"
    weighs_ahead = True
    is_stackable = True

    def __post_init__(self) -> None:
        if not all(value > 0 for value in self.values):
            raise ValueError(f"static weights must be positive, not {list(self.values)}")

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> Static:
        return cls(values=settings.of_tasks("weight", tasks))

    @property
    def static_settings(self) -> Hashable:
        return ()  # the values are in the state

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        values_T = torch.tensor(self.values, device=device, dtype=dtype)
        return {WEIGHTS: values_T * (num_tasks / values_T.sum())}

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        return state[WEIGHTS], state
