"""Fast adaptive multitask optimization (Liu, Feng, Stone, Liu: NeurIPS 2023, arXiv 2306.03792).

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.balancers.adam import adam_start, adam_step
from trainables.balancers.base import WEIGHTS, Balancer, GradientInfo, State, ones
from trainables.balancers.initial_loss import LOWEST_LOSSES, check_lowest_losses, lowest_losses
from trainables.balancers.log_sum import EPSILON
from trainables.protocol import Task
from trainables.settings import TrainingSettings

LOGITS = "logits_T"
LOSSES_BEFORE = "losses_before_T"  # of this step's batch, before the network moved


def logit_gradient(shares_T: Tensor, progress_T: Tensor) -> Tensor:
    """J'δ, J the Jacobian of z = softmax(ξ): z_i (δ_i − Σ_j z_j δ_j)."""
    return shares_T * (progress_T - torch.linalg.vecdot(shares_T, progress_T).unsqueeze(-1))


@dataclass(frozen=True, kw_only=True)
class Famo(Balancer):
    r"""Weights that let all losses fall by the same factor, found from how far each fell at the step before.

        z = softmax(ξ),   w_i = T c z_i / (L_i + ε),   c = 1 / Σ_j z_j / (L_j + ε)
        δ_i = log(L_i before the step + ε) − log(L_i after it + ε), on the same batch
        ξ moves by Adam along J'δ + γ ξ   (:func:`logit_gradient`)

    The paper's Algorithm 2, with its Adam (``weight_lr``, 0.025 there) and its γ = 10⁻³ (``decay``; 10⁻² by default in
    the authors' ``famo.py``), an L2 term that Adam scales with the rest. A task that fell further than the others loses
    logit. The paper's weights sum to 1; these to T, so that equal shares of equal losses are their plain sum. The
    authors' code also clips the gradient of the shared parameters to a norm of 1; this does not. Costs one more forward
    pass a step. A loss below 0 has no logarithm and is refused.
    """

    weight_lr: float | Tensor
    decay: float | Tensor

    name = "famo"
    uses_after_step = True
    is_stackable = True
    lane_numbers = ("weight_lr", "decay")

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> Famo:
        return cls(weight_lr=settings.weight_lr, decay=settings.famo_decay)

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        weights_T = ones(num_tasks, device, dtype)
        return {
            WEIGHTS: weights_T,
            LOGITS: torch.zeros_like(weights_T),
            LOSSES_BEFORE: torch.zeros_like(weights_T),
            LOWEST_LOSSES: torch.full_like(weights_T, torch.inf),
            **adam_start(weights_T),
        }

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        shares_T = torch.softmax(state[LOGITS], dim=-1) / (losses_T + EPSILON)
        weights_T = shares_T * (shares_T.shape[-1] / shares_T.sum(-1, keepdim=True))
        return weights_T, {**state, WEIGHTS: weights_T, LOSSES_BEFORE: losses_T, **lowest_losses(losses_T, state)}

    def after_step(self, losses_T: Tensor, state: State) -> State:
        logits_T = state[LOGITS]
        progress_T = torch.log(state[LOSSES_BEFORE] + EPSILON) - torch.log(losses_T + EPSILON)
        gradient_T = logit_gradient(torch.softmax(logits_T, dim=-1), progress_T) + self.decay * logits_T
        moved_T, adam = adam_step(logits_T, gradient_T, state, self.weight_lr)
        return {**state, LOGITS: moved_T, **adam, **lowest_losses(losses_T, state)}

    def check(self, state: State, task_names: Sequence[str]) -> None:
        check_lowest_losses(state, task_names, what="log L")
