"""GradNorm (Chen, Badrinarayanan, Lee, Rabinovich: ICML 2018, arXiv 1711.02257).

Shapes: T tasks, K lanes that weigh together.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from trainables.balancers.adam import adam_start, adam_step
from trainables.balancers.base import (
    INITIAL_LOSSES,
    SMALLEST_WEIGHT,
    WEIGHTS,
    Balancer,
    GradientInfo,
    Needs,
    State,
    ones,
)
from trainables.balancers.initial_loss import (
    LOWEST_LOSSES,
    InitialLoss,
    check_initial_losses,
    check_lowest_losses,
    lowest_losses,
)
from trainables.balancers.stuck import StuckRule
from trainables.protocol import Task
from trainables.settings import TrainingSettings


def relative_rates(losses_T: Tensor, initial_losses_T: Tensor) -> Tensor:
    r"""Relative inverse training rates r_i = L̃_i / mean_j L̃_j with L̃_i = L_i(t) / L_i(0) (paper §3.1).

    r_i > 1 means that task i has come less far than the average task. Where every loss is 0, all tasks are level: r_i =
    1.
    """
    # The smallest number there is makes 1 of 0 / 0, and is lost beside any other ratio.
    ratios_T = losses_T / initial_losses_T + torch.finfo(losses_T.dtype).tiny
    return ratios_T / ratios_T.mean(-1, keepdim=True)


def weight_gradient(norms_T: Tensor, weights_T: Tensor, rates_T: Tensor, alpha: float | Tensor) -> Tensor:
    r"""∂L_grad/∂w in closed form (paper eq. 2), shape (T,), or (K, T) of K lanes.

        G_i = w_i n_i,   Ḡ = mean_i G_i,   c_i = Ḡ r_i^α (a constant),   L_grad = Σ_i |G_i − c_i|
        ∂L_grad/∂w_i = sign(G_i − c_i) n_i

    exactly what automatic differentiation of L_grad by w alone gives, since n_i does not depend on w. ``alpha`` > 0
    asks for larger gradients of the tasks that lag (r_i > 1), ``alpha`` = 0 for equal ones. The gradient is 0 where G_i
    = c_i.
    """
    scaled_T = weights_T * norms_T
    targets_T = scaled_T.mean(-1, keepdim=True) * rates_T**alpha
    return torch.sign(scaled_T - targets_T) * norms_T


def guarded(weights_T: Tensor) -> Tensor:
    """Weights made positive, then scaled to Σ_i w_i = T, in that order (paper, Algorithm 1, "renormalize")."""
    positive_T = weights_T.clamp(min=SMALLEST_WEIGHT)
    return positive_T / positive_T.mean(-1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class GradNorm(Balancer):
    r"""Weights that drive the gradient norms of the tasks at the shared layer towards Ḡ r_i^α.

    One step, with n_i = ‖∇_W L_i‖₂: the network moves by the weights w as they are; then w moves by Adam with
    ``weight_lr`` along :func:`weight_gradient`, and is :func:`guarded`. Adam's moments are left alone by the guard, on
    which the paper says nothing. Nothing of L_grad reaches the network: n_i and r_i are numbers here, not graphs.
    """

    alpha: float | Tensor
    weight_lr: float | Tensor
    initial_loss: InitialLoss
    stuck: StuckRule = field(default_factory=lambda: StuckRule(reports=0))

    name = "gradnorm"
    weighs_ahead = True
    needs = Needs.NORMS
    is_stackable = True
    lane_numbers = ("alpha", "weight_lr")

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> GradNorm:
        return cls(
            alpha=settings.alpha,
            weight_lr=settings.weight_lr,
            initial_loss=InitialLoss.from_settings(settings, tasks),
            stuck=StuckRule(reports=settings.stuck_reports, weight_cap=settings.stuck_weight_cap),
        )

    @property
    def static_settings(self) -> Hashable:
        return self.initial_loss.is_known, self.stuck.weight_cap

    @property
    def settling_steps(self) -> int:
        return self.initial_loss.num_batches

    def settled(self) -> GradNorm:
        return replace(self, initial_loss=self.initial_loss.known())

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        weights_T = ones(num_tasks, device, dtype)
        return {
            WEIGHTS: weights_T,
            **adam_start(weights_T),
            LOWEST_LOSSES: torch.full_like(weights_T, torch.inf),
            **self.initial_loss.initial_state(device=device, dtype=dtype),
            **self.stuck.initial_state(num_tasks, device, dtype),
        }

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        if gradients.norms_T is None:
            raise ValueError("GradNorm needs the gradient norms at the shared layer")
        initial = self.initial_loss.update(losses_T, state)
        weights_T = state[WEIGHTS]
        rates_T = relative_rates(losses_T, initial[INITIAL_LOSSES])
        gradient_T = weight_gradient(gradients.norms_T, weights_T, rates_T, self.alpha)
        moved_T, adam = adam_step(weights_T, gradient_T, state, self.weight_lr)
        next_T = self.stuck.capped(guarded(moved_T), state)
        return weights_T, {**state, WEIGHTS: next_T, **adam, **initial, **lowest_losses(losses_T, state)}

    def at_report(self, mean_losses_T: Tensor, state: State) -> State:
        return {**state, **self.stuck.judge(mean_losses_T, state)}

    def metrics(self, state: State) -> Mapping[str, Tensor]:
        return self.stuck.metrics(state)

    def notices(self, before: State, after: State, task_names: Sequence[str]) -> Sequence[str]:
        return self.stuck.notices(before, after, task_names)

    def check(self, state: State, task_names: Sequence[str]) -> None:
        check_initial_losses(state, task_names)
        check_lowest_losses(state, task_names)
