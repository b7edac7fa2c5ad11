"""Impartial multi-task learning, by gradients (Liu, Li, Kuang, Xue, Chen, Yang, Liao, Zhang: ICLR 2021).

Shapes: T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torchjd.aggregation import IMTLGWeighting

from trainables.balancers.gramian import Directions, GramianBalancer

_WEIGHTING = IMTLGWeighting()


@dataclass(frozen=True, kw_only=True)
class ImtlG(GramianBalancer):
    r"""Weights for which the combined gradient g = Σ_i w_i g_i has the same projection on every task's gradient.

        g · g_i / n_i equal for all i   ⇔   C (N w) ∝ 1,   with g_i · g_j = n_i C_ij n_j
        w ∝ N⁻¹ b,   b = C⁺ 1

    b is TorchJD's weighting of the cosines C, which generalises the paper's to gradients that depend on each other; of
    the cosines rather than of the Gramian, because the pseudo-inverse of a float32 Gramian loses a task whose gradient
    is a thousandth of another's. The weights sum to T (1 in the paper). Of two tasks, w_i ∝ 1/n_i.

    With three tasks or more some b_i may be negative: one gradient lies between the others. The paper lets it be, since
    its weights touch the trunk alone. Here they would have that task's head climb its own loss, so negative ones are 0
    and the projections then not all equal.

    The original compares the gradients of the whole trunk; this one those of the shared layer.
    """

    name = "imtl_g"

    def balance(self, gramian_TT: Tensor, generator: Generator) -> Tensor:
        directions = Directions.of(gramian_TT)
        shares_T = _WEIGHTING(directions.cosines_TT).clamp(min=0)
        weights_T = shares_T / directions.norms_T
        return weights_T * (len(weights_T) / torch.sum(weights_T))
