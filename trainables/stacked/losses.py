"""The losses of N lanes at once.

Shapes: N lanes, B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainables.protocol import Task

# Takes outputs and targets, each (N, B, ...), and gives each lane's loss, (N,).
StackedLoss = Callable[[Tensor, Tensor], Tensor]


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape != targets.shape:  # spread over each other, with a warning; lanes have a dimension more in front
        return _vmapped(functional.mse_loss)(outputs, targets)
    return _mean_by_lane(functional.mse_loss(outputs, targets, reduction="none"))


def _binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return _mean_by_lane(functional.binary_cross_entropy_with_logits(logits, targets, reduction="none"))


def _cross_entropy(logits_NBC: Tensor, targets: Tensor) -> Tensor:
    """Of classes by number; of shares of classes, and of more dimensions, the vmapped function knows what to do."""
    if logits_NBC.dim() != 3 or targets.is_floating_point():
        return _vmapped(functional.cross_entropy)(logits_NBC, targets)
    num_lanes, num_rows, _ = logits_NBC.shape
    losses = functional.cross_entropy(logits_NBC.flatten(0, 1), targets.flatten(), reduction="none")
    is_counted_NB = targets != -100  # the rows that cross_entropy leaves out
    return losses.view(num_lanes, num_rows).sum(1) / is_counted_NB.sum(1)


# The functions that most tasks name. vmapped they are the same, out of several times as many calls.
_RULES: Mapping[Any, StackedLoss] = {
    functional.mse_loss: _mse,
    functional.binary_cross_entropy_with_logits: _binary_cross_entropy,
    functional.cross_entropy: _cross_entropy,
}


def stacked_loss(task: Task) -> StackedLoss:
    """The task's loss, over lanes."""
    try:
        rule = _RULES.get(task.loss)
    except TypeError:  # it cannot be hashed
        rule = None
    return rule or _vmapped(task.loss)


def _vmapped(loss: Callable[[Tensor, Tensor], Tensor]) -> StackedLoss:
    return torch.vmap(loss, randomness="error")


def _mean_by_lane(losses: Tensor) -> Tensor:
    return losses.flatten(1).mean(1)
