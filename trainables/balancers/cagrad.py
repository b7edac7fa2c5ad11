"""Conflict-averse gradient descent (Liu, Liu, Jin, Stone, Liu: NeurIPS 2021, arXiv 2110.14048).

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Generator

from trainables.balancers.gramian import Array, Directions, SolverBalancer
from trainables.protocol import Task
from trainables.settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class CaGrad(SolverBalancer):
    r"""The direction, no further than c ‖g_0‖ from the average gradient g_0, along which the worst-off task falls most.

        maximise over d   min_i g_i · d   with ‖d − g_0‖ ≤ c ‖g_0‖
        dual:             minimise over a ≥ 0, Σ_i a_i = 1   g_a · g_0 + c ‖g_0‖ ‖g_a‖,   g_a = Σ_i a_i g_i
        d = g_0 + c ‖g_0‖ g_a / ‖g_a‖,   hence   w_i = 1 + T a_i c ‖g_0‖ / ‖g_a‖

    times T, because the paper averages and the sum of the losses is w = 1 here: that is what c = 0 gives; a large c
    approaches the direction of ``mgda``. The weights sum to T (1 + c ‖g_0‖ / ‖g_a‖). This is the paper's Algorithm 1;
    its authors' code divides by 1 + c² besides. Where no direction serves all tasks, g_a is next to 0, and RIDGE bounds
    what is divided by it. A task without a gradient is left out of the minimum and has w = 1.

    The original compares the gradients of the whole trunk; this one those of the shared layer.

    Not TorchJD's: it builds a problem of cvxpy's at every step, which takes 3.9 ms for three tasks, and cvxpy with its
    solvers is 180 MB. scipy's SLSQP, which the authors used, takes 0.4 ms with the gradient written out.
    """

    c: float

    name = "cagrad"

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> CaGrad:
        return cls(c=settings.cagrad_c)

    def solve(self, gramian_TT: Array, generator: Generator) -> Array:
        weights_T = np.ones(len(gramian_TT))
        has_gradient_T = gramian_TT.diagonal() > 0
        sum_length = np.sqrt(max(0.0, gramian_TT.sum()))  # T ‖g_0‖
        if self.c > 0 and sum_length > 0:
            directions = Directions.of(torch.from_numpy(gramian_TT[np.ix_(has_gradient_T, has_gradient_T)]))
            cosines_TT, norms_T = directions.cosines_TT.numpy(), directions.norms_T.numpy()
            lengths_T = _dual(cosines_TT, norms_T, self.c)
            weights_T[has_gradient_T] += self.c * sum_length * lengths_T / norms_T
        return weights_T


def _dual(cosines_TT: Array, norms_T: Array, c: float) -> Array:
    r"""a_i n_i / ‖g_a‖ for the a of the dual, by sequential least squares.

    Solved for x_i = a_i n_i / min_j n_j, in units of ‖g_0‖ min_j n_j, so that the solver meets numbers of one size:

        minimise over x ≥ 0, Σ_i x_i min_j n_j / n_i = 1   Σ_i x_i cos(g_i, g_0) + c √(x'Cx)
    """
    along_T = cosines_TT @ norms_T
    along_T /= np.sqrt(norms_T @ along_T)
    shares_T = norms_T.min() / norms_T

    def objective(lengths_T: Array) -> tuple[float, Array]:
        products_T = cosines_TT @ lengths_T
        length = np.sqrt(lengths_T @ products_T)
        return float(along_T @ lengths_T + c * length), along_T + c * products_T / length

    found = minimize(
        objective,
        np.full(len(norms_T), 1 / shares_T.sum()),
        jac=True,
        method="SLSQP",
        bounds=[(0.0, None)] * len(norms_T),
        constraints={"type": "eq", "fun": lambda lengths_T: shares_T @ lengths_T - 1, "jac": lambda _: shares_T},
        options={"ftol": 1e-12, "maxiter": 200},
    )
    lengths_T = found.x.clip(min=0)
    return lengths_T / np.sqrt(lengths_T @ cosines_TT @ lengths_T)
