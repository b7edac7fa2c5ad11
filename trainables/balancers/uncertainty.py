"""Weights from the tasks' own noise (Kendall, Gal, Cipolla: CVPR 2018, arXiv 1705.07115).

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.balancers.adam import adam_start, adam_step
from trainables.balancers.base import WEIGHTS, Balancer, GradientInfo, State
from trainables.catalog import TaskKind
from trainables.protocol import Task
from trainables.settings import TrainingSettings

LOG_VARIANCES = "log_variances_T"
FACTORS = "factors_T"

_FACTOR_OF_KIND = {
    TaskKind.REGRESSION: 0.5,
    TaskKind.COUNT: 0.5,
    TaskKind.BINARY: 1.0,
    TaskKind.MULTICLASS: 1.0,
}


@dataclass(frozen=True, kw_only=True)
class Uncertainty(Balancer):
    r"""Weights that follow each task's noise σ_i², learnt beside the network by s_i = log σ_i².

        minimise over the network and s:   Σ_i f_i exp(−s_i) L_i + s_i/2
        w_i = f_i exp(−s_i)
        ∂/∂s_i = ½ − w_i L_i

    f_i is ½ for a regression and 1 for a classification (paper §3.2, eq. 7 and 10). A count is taken as a regression:
    its deviance is the counterpart of the squared error. The network steps with the w of the s from before the step; s
    moves by its own Adam with ``weight_lr``. All s_i start at 0, hence w_i at f_i.

    The weights have no fixed sum: where s is at rest, w_i L_i = ½, so that every task weighs the same in the objective
    and tasks of small losses get large weights. A loss below 0 would have them grow without end.
    """

    factors: Sequence[float]  # f, one a task
    weight_lr: float | Tensor

    name = "uncertainty"
    weighs_ahead = True
    is_stackable = True
    lane_numbers = ("weight_lr",)

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> Uncertainty:
        return cls(factors=[_FACTOR_OF_KIND[task.kind] for task in tasks], weight_lr=settings.weight_lr)

    @property
    def static_settings(self) -> Hashable:
        return ()  # the factors are in the state

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        factors_T = torch.tensor(self.factors, device=device, dtype=dtype)
        log_variances_T = torch.zeros_like(factors_T)
        return {
            WEIGHTS: factors_T,
            LOG_VARIANCES: log_variances_T,
            FACTORS: factors_T,
            **adam_start(log_variances_T),
        }

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        weights_T, factors_T = state[WEIGHTS], state[FACTORS]
        gradient_T = 0.5 - weights_T * losses_T
        moved_T, adam = adam_step(state[LOG_VARIANCES], gradient_T, state, self.weight_lr)
        following_T = factors_T * torch.exp(-moved_T)
        return weights_T, {WEIGHTS: following_T, LOG_VARIANCES: moved_T, FACTORS: factors_T, **adam}
