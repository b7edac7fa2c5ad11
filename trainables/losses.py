"""Losses that torch does not have. Shapes: B rows."""

from __future__ import annotations

import torch
from torch import Tensor


def poisson_deviance(log_rates_B: Tensor, counts_B: Tensor) -> Tensor:
    r"""Mean over the rows of 2 (y log(y/μ) − (y − μ)), with μ = exp(output): 0 where μ = y, else above 0.

    A Poisson likelihood without its constant differs from half of it by what depends on y alone, and may be negative:
    L(t)/L(0) would mean nothing. With d = log μ − log y a row is 2 y (eᵈ − 1 − d), which loses no digits near d = 0.
    """
    is_zero_B = counts_B == 0
    difference_B = log_rates_B - torch.where(is_zero_B, torch.ones_like(counts_B), counts_B).log()
    rows_B = torch.where(is_zero_B, log_rates_B.exp(), counts_B * (torch.expm1(difference_B) - difference_B))
    return 2 * rows_B.clamp(min=0).mean()  # rounding may leave the least bit below 0
