"""Unconflicting projection of gradients (Quinton, Rey: Jacobian descent, 2024, arXiv 2406.16232).

Shapes: T tasks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Generator, Tensor
from torchjd.aggregation import UPGradWeighting
from torchjd.linalg import DualConeProjector, PSDMatrix

from trainables.balancers.gramian import Array, SolverBalancer, square_root


class NonNegativeProjector(DualConeProjector):
    r"""TorchJD's port for the projection on the dual cone of the gradients: minimise v' G v with v ≥ u, for each row u.

    With G = (R N)'(R N) and v = u + N⁻¹ s, that is ‖R s + R N u‖² over s ≥ 0: least squares with non-negative unknowns,
    which scipy solves exactly. TorchJD's own projector needs quadprog, whose licence is the GPL.
    """

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:
        """v for every row of U, (T, T); G (T, T) finite, both on the CPU in float64."""
        root_TT, norms_T = square_root(G)
        largest = norms_T.max()
        rows = []
        for wanted_T in U.numpy():
            target_T = root_TT @ (wanted_T * norms_T / largest)
            added_T, _ = nnls(root_TT, -target_T, maxiter=100 * len(norms_T))
            rows.append(wanted_T + added_T * largest / norms_T)
        return torch.from_numpy(np.stack(rows))


_WEIGHTING = UPGradWeighting(projector=NonNegativeProjector())


@dataclass(frozen=True, kw_only=True)
class UpGrad(SolverBalancer):
    """Each task's gradient is moved as little as possible until it conflicts with no task's; the results are added up.

    The mean of the projections of the g_i on the dual cone {x: x · g_j ≥ 0 for all j}. Times T, because
    the paper averages: w_i ≥ 1, and w = 1 where no two tasks conflict. To first order, no task's loss rises along the
    combined gradient.

    The original compares the gradients of the whole trunk; this one those of the shared layer.
    """

    name = "upgrad"

    def solve(self, gramian_TT: Array, generator: Generator) -> Array:
        return len(gramian_TT) * _WEIGHTING(torch.from_numpy(gramian_TT)).numpy()
