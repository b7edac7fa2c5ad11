"""Metrics of a whole split, in torch, so that evaluating needs no copy to the host and no further package.

Shapes: B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def auc(logits_B: Tensor, targets_B: Tensor) -> Tensor:
    """Area under the ROC curve, exact: P(score of a positive > score of a negative) + ½ P(equal). Targets are 0 or 1.

    0.5, a coin's, where the rows are all of one class and the area is not defined.
    """
    scores_B = logits_B.flatten().contiguous()
    positive_B = targets_B.flatten() > 0.5
    ordered_B = scores_B.sort().values
    below_B = torch.searchsorted(ordered_B, scores_B, right=False)
    up_to_B = torch.searchsorted(ordered_B, scores_B, right=True)
    ranks_B = (below_B + up_to_B + 1).double() / 2  # equal scores share their mean rank
    num_positive = positive_B.sum().double()
    num_pairs = num_positive * (positive_B.numel() - num_positive)
    rank_sum = torch.where(positive_B, ranks_B, torch.zeros_like(ranks_B)).sum()
    wins = rank_sum - num_positive * (num_positive + 1) / 2
    return torch.where(num_pairs > 0, wins / num_pairs.clamp(min=1), torch.full_like(wins, 0.5))


def binary_accuracy(logits_B: Tensor, targets_B: Tensor) -> Tensor:
    """Share of rows on the right side of logit 0."""
    return ((logits_B > 0) == (targets_B > 0.5)).double().mean()


def multiclass_accuracy(logits_BC: Tensor, targets_B: Tensor) -> Tensor:
    """Share of rows whose largest logit is the right one."""
    return (logits_BC.argmax(dim=-1) == targets_B).double().mean()


def rmse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Root of the mean squared error over all elements, in the target's unit."""
    return (outputs - targets).square().mean().sqrt()


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean absolute error over all elements, in the target's unit."""
    return (outputs - targets).abs().mean()
