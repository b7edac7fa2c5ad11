"""Adam (Kingma & Ba, ICLR 2015, arXiv 1412.6980, Algorithm 1) for what a balancer itself learns.

Shapes: T tasks, K lanes that weigh together.
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
    values_T: Tensor, gradient_T: Tensor, state: State, learning_rate: float | Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of Adam, as a pure function of tensors: the values after it, and its part of the state.

    There are two forms. Of one lane, ``values_T`` of shape (T,), the kernel is the one that ``torch.optim.Adam`` calls
    with ``fused=True``: written out, the step is some fifteen operations on T numbers each, and that many calls are
    what a step of a small network is made of. It works in place, on copies. Of K lanes, ``values_T`` of shape (K, T),
    that kernel would have to be told of each lane by itself, since it takes one number for the learning rate: they are
    written out, once for all lanes, and ``learning_rate`` is a tensor of shape (K, 1).
    """
    if isinstance(learning_rate, Tensor):
        return _written_out(values_T, gradient_T, state, learning_rate)
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


def _written_out(
    values_KT: Tensor, gradient_KT: Tensor, state: State, learning_rate_K1: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same for K lanes, each with its own learning rate and its own number of steps (K, 1)."""
    steps_K1 = state[ADAM_STEPS] + 1
    mean_KT = state[ADAM_MEAN].lerp(gradient_KT, 1 - BETA_1)
    square_KT = torch.addcmul(state[ADAM_SQUARE] * BETA_2, gradient_KT, gradient_KT, value=1 - BETA_2)
    # The corrections in float64, as the kernel does: 1 − β₂ is 0.001, of which float32 would know four digits.
    exact_K1 = steps_K1.double()
    rate_K1 = learning_rate_K1 / (1 - BETA_1**exact_K1)
    root_K1 = (1 - BETA_2**exact_K1).sqrt()
    size_KT = square_KT.sqrt() / root_K1.to(values_KT.dtype) + EPSILON
    moved_KT = values_KT - rate_K1.to(values_KT.dtype) * mean_KT / size_KT
    return moved_KT, {ADAM_MEAN: mean_KT, ADAM_SQUARE: square_KT, ADAM_STEPS: steps_K1}
