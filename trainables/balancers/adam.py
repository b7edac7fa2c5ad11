"""Adam (Kingma & Ba, ICLR 2015, arXiv 1412.6980, Algorithm 1) for what a balancer itself learns.

Shapes: T tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.balancers.base import State

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # the paper's constants
ADAM_MEAN, ADAM_SQUARE, ADAM_STEPS = "adam_mean_T", "adam_square_T", "adam_steps"


def adam_start(values_T: Tensor) -> dict[str, Tensor]:
    """The part of a balancer's state that Adam keeps, before the first step."""
    return {
        ADAM_MEAN: torch.zeros_like(values_T),
        ADAM_SQUARE: torch.zeros_like(values_T),
        ADAM_STEPS: torch.zeros((), device=values_T.device, dtype=torch.float64),
    }


def adam_step(
    values_T: Tensor, gradient_T: Tensor, state: State, learning_rate: float | Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of Adam, as a pure function of tensors: the values after it, and its part of the state.

    ``torch.optim.Adam`` would do the same on one lane. Written out, the step can be taken for many lanes at once, each
    with its own learning rate, and its state is three tensors of a checkpoint.
    """
    steps = state[ADAM_STEPS] + 1  # float64: 1 − β₂ᵗ loses all its digits in float32 at the first steps
    mean_T = state[ADAM_MEAN].lerp(gradient_T, 1 - BETA_1)
    square_T = torch.addcmul(state[ADAM_SQUARE] * BETA_2, gradient_T, gradient_T, value=1 - BETA_2)
    unbiased_mean_T = mean_T / (1 - BETA_1**steps)
    unbiased_square_T = square_T / (1 - BETA_2**steps)
    moved_T = values_T - learning_rate * unbiased_mean_T / (unbiased_square_T.sqrt() + EPSILON)
    return moved_T, {ADAM_MEAN: mean_T, ADAM_SQUARE: square_T, ADAM_STEPS: steps}
