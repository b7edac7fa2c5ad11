"""Multiple-gradient descent (Désidéri: C. R. Math. 2012; Sener, Koltun: NeurIPS 2018, arXiv 1810.04650).

Shapes: T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Generator

from trainables.balancers.gramian import Array, SolverBalancer, square_root


@dataclass(frozen=True, kw_only=True)
class Mgda(SolverBalancer):
    r"""Weights of the shortest vector between the task gradients.

        minimise ‖Σ_i a_i g_i‖²   over a_i ≥ 0, Σ_i a_i = 1          (Sener & Koltun, eq. 3);   w = T a

    No task's loss rises along it; its length is 0 where the tasks can no longer all be improved.
    The task with the smallest gradient gets the largest weight: of two orthogonal ones, w_i ∝ 1/n_i². One without a
    gradient gets all of it, by the definition. The weights sum to T, as in the field's comparisons (Navon et al., ICML
    2022).

    The original compares the gradients of the whole trunk; this one those of the shared layer.

    Not by the paper's Frank-Wolfe steps, of which TorchJD 0.18 takes 100 at most: with T = 10 they leave a off by 0.03,
    and a thousand of them cost 35 ms. Minimising ‖Σ a_i g_i‖² + (Σ a_i − 1)² over a ≥ 0 has its minimum in the same
    direction: along any ray, it is d²/(1 + d²) at best, d the length at Σ a = 1. That is a least-squares problem that
    Lawson and Hanson's method solves exactly, in microseconds.
    """

    name = "mgda"

    def solve(self, gramian_TT: Array, generator: Generator) -> Array:
        num_tasks = len(gramian_TT)
        is_zero_T = gramian_TT.diagonal() <= 0
        if is_zero_T.any():
            return num_tasks * is_zero_T / is_zero_T.sum()
        root_TT, norms_T = square_root(torch.from_numpy(gramian_TT))
        rows = np.vstack([root_TT * (norms_T / norms_T.min()), np.ones(num_tasks)])
        shares_T, _ = nnls(rows, np.eye(num_tasks + 1)[-1], maxiter=100 * num_tasks)
        return num_tasks * shares_T / shares_T.sum()
