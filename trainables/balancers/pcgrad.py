"""Projecting conflicting gradients (Yu, Kumar, Gupta, Levine, Hausman, Finn: NeurIPS 2020, arXiv 2001.06782).

Shapes: T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator

from trainables.balancers.gramian import Array, SolverBalancer


@dataclass(frozen=True, kw_only=True)
class PcGrad(SolverBalancer):
    """From each task's gradient, what points against another's is taken away; the results are added up.

    Algorithm 1: g_i^PC starts as g_i; for all the other tasks j, in an order drawn anew from the lane's generator, it
    loses its part along g_j where g_i^PC · g_j < 0. All of it happens in the coordinates u of g_i^PC = Σ_k u_k g_k,
    where g_i^PC · g_j = (G u)_j: the Gramian is enough. w is the sum of all u. A projection only ever adds to a weight,
    hence w_i ≥ 1, and w = 1 where no two tasks conflict. The paper adds too, so nothing is scaled.

    The original compares the gradients of the whole trunk; this one those of the shared layer.

    Not TorchJD's, since that draws from torch's global generator: the network's own draws would then depend on the
    balancer, or the global state be put aside at every step.
    """

    name = "pcgrad"

    def solve(self, gramian_TT: Array, generator: Generator) -> Array:
        num_tasks = len(gramian_TT)
        coordinates_TT = np.eye(num_tasks)
        for i, own_T in enumerate(coordinates_TT):
            for j in torch.randperm(num_tasks, generator=generator).tolist():
                along = gramian_TT[j] @ own_T
                if j != i and along < 0 and gramian_TT[j, j] > 0:
                    own_T[j] -= along / gramian_TT[j, j]
        return coordinates_TT.sum(0)
