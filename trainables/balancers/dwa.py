"""Dynamic weight average (Liu, Johns, Davison: CVPR 2019, arXiv 1803.10704).

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.balancers.base import WEIGHTS, Balancer, GradientInfo, State, ones
from trainables.balancers.gradnorm import guarded
from trainables.balancers.initial_loss import LOWEST_LOSSES, check_lowest_losses, lowest_losses
from trainables.protocol import Task
from trainables.settings import TrainingSettings

WINDOW_MEANS = "window_means_T"  # of the window that is being filled
WINDOW_STEPS = "window_steps"  # in it
LAST_MEANS = "last_means_T"  # L(k−1)
EARLIER_MEANS = "earlier_means_T"  # L(k−2)
WINDOWS_DONE = "windows_done"


def rate_weights(last_T: Tensor, earlier_T: Tensor, temperature: float | Tensor) -> Tensor:
    """w_i = T softmax(r_i / temperature), r_i = L_i(k−1) / L_i(k−2). Where L_i(k−2) is 0 there is no rate: r_i = 1.

    None is less than 1e-4, as of GradNorm's (the paper has no such bound).
    """
    rates_T = torch.where(earlier_T == 0, torch.ones_like(last_T), last_T / earlier_T)
    # Guarded: where one loss has grown a hundredfold, the softmax of the others is 0 in float32.
    return guarded(last_T.shape[-1] * torch.softmax(rates_T / temperature, dim=-1))


@dataclass(frozen=True, kw_only=True)
class DynamicWeightAverage(Balancer):
    """Larger weights for the tasks whose losses fall slowly: :func:`rate_weights`, new after every window of steps.

    L_i(k) is the task's mean loss over the k-th window of ``window`` steps; the paper takes an epoch. All weights are 1
    until two windows are over, as in the paper. They sum to T.
    """

    window: int | Tensor
    temperature: float | Tensor

    name = "dwa"
    weighs_ahead = True
    is_stackable = True
    lane_numbers = ("window", "temperature")

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> DynamicWeightAverage:
        return cls(window=settings.dwa_window, temperature=settings.dwa_temperature)

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        weights_T = ones(num_tasks, device, dtype)
        zero = torch.zeros((), device=device, dtype=torch.float64)
        return {
            WEIGHTS: weights_T,
            WINDOW_MEANS: torch.zeros_like(weights_T),
            WINDOW_STEPS: zero,
            LAST_MEANS: torch.zeros_like(weights_T),
            EARLIER_MEANS: torch.zeros_like(weights_T),
            WINDOWS_DONE: zero,
            LOWEST_LOSSES: torch.full_like(weights_T, torch.inf),
        }

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        weights_T, known_T = state[WEIGHTS], state[WINDOW_MEANS]
        steps = state[WINDOW_STEPS] + 1
        means_T = known_T + (losses_T - known_T) / steps.to(known_T.dtype)
        is_full = steps >= self.window
        last_T = torch.where(is_full, means_T, state[LAST_MEANS])
        earlier_T = torch.where(is_full, state[LAST_MEANS], state[EARLIER_MEANS])
        done = state[WINDOWS_DONE] + is_full
        following_T = torch.where(done >= 2, rate_weights(last_T, earlier_T, self.temperature), weights_T)
        return weights_T, {
            WEIGHTS: following_T,
            WINDOW_MEANS: torch.where(is_full, torch.zeros_like(means_T), means_T),
            WINDOW_STEPS: torch.where(is_full, torch.zeros_like(steps), steps),
            LAST_MEANS: last_T,
            EARLIER_MEANS: earlier_T,
            WINDOWS_DONE: done,
            **lowest_losses(losses_T, state),
        }

    def check(self, state: State, task_names: Sequence[str]) -> None:
        check_lowest_losses(state, task_names, what="the ratio of two losses")
