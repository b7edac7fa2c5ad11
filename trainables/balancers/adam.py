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
        ADAM_STEPS: torch.zeros((), device=values_T.device, dtype=torch.float32),
    }


def adam_step(
    values_T: Tensor, gradient_T: Tensor, state: State, learning_rate: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of Adam, as a pure function of tensors: the values after it, and its part of the state.

    The kernel is the one that ``torch.optim.Adam`` calls with ``fused=True``: written out, the step is some fifteen
    operations on T numbers each, and that many calls are what a step of a small network is made of. It works in place,
    on copies.
    """
    copied = [values_T, state[ADAM_MEAN], state[ADAM_SQUARE]]
    moved_T, mean_T, square_T = torch._foreach_clone(copied)  # pyright: ignore[reportPrivateImportUsage]
    steps = state[ADAM_STEPS] + 1
    torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
        [moved_T],
        [gradient_T],
        [mean_T],
        [square_T],
        [],
        [steps],
        lr=learning_rate,
        beta1=BETA_1,
        beta2=BETA_2,
        weight_decay=0.0,
        eps=EPSILON,
        amsgrad=False,
        maximize=False,
    )
    return moved_T, {ADAM_MEAN: mean_T, ADAM_SQUARE: square_T, ADAM_STEPS: steps}
