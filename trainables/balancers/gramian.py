"""What the balancers that read the Gramian of the task gradients have in common.

Shapes: T tasks.

The originals compare the gradients of the whole trunk, and most of them leave the heads their own, unweighted
gradients. Here the gradients of the shared layer are compared, and the weights weigh the losses: trunk and heads alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from trainables.balancers.base import WEIGHTS, Balancer, GradientInfo, Needs, State, ones
from trainables.protocol import Task
from trainables.settings import TrainingSettings

Array = NDArray[np.float64]

# Added to the diagonal of a matrix of cosines. What a float32 Gramian tells of nearly parallel gradients is wrong by
# about as much; and a task exactly between others, or opposite to another, then still has one answer, of moderate size.
RIDGE = 1e-6


class GramianBalancer(Balancer):
    """A method without a memory: a step's weights follow from that step's Gramian. A subclass gives ``balance``."""

    needs = Needs.GRAMIAN

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> Self:
        return cls()

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        return {WEIGHTS: ones(num_tasks, device, dtype)}

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: Generator
    ) -> tuple[Tensor, State]:
        if gradients.gramian_TT is None:
            raise ValueError(f"{self.name} needs the Gramian of the task gradients at the shared layer")
        weights_T = self.balance(gradients.gramian_TT.double(), generator).to(losses_T.dtype)
        return weights_T, {WEIGHTS: weights_T}

    def balance(self, gramian_TT: Tensor, generator: Generator) -> Tensor:
        """The weights for a Gramian, both in float64: NaN where it is not finite, finite in every other case.

        May wait for the device where it calls a solver.
        """
        raise NotImplementedError


class SolverBalancer(GramianBalancer):
    """A method whose weights a solver finds on the CPU: it waits for the device at every step."""

    def balance(self, gramian_TT: Tensor, generator: Generator) -> Tensor:
        gramian: Any = gramian_TT.cpu().numpy()
        if not np.isfinite(gramian).all():
            return torch.full_like(gramian_TT[0], torch.nan)
        return torch.from_numpy(self.solve(gramian, generator)).to(gramian_TT.device)

    def solve(self, gramian_TT: Array, generator: Generator) -> Array:
        """The weights for a finite Gramian."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Directions:
    """A Gramian G = N C N taken apart into lengths and angles, so that no method depends on how far the tasks' scales
    are apart.

    A task without a gradient counts as orthogonal to the others and of their mean length (1 if there are none). Where G
    is not finite, all lengths are NaN and the angles right ones: NaN comes out in the end, and no solver meets it.
    """

    norms_T: Tensor  # the diagonal of N
    cosines_TT: Tensor  # C, with RIDGE on its diagonal

    @classmethod
    def of(cls, gramian_TT: Tensor) -> Directions:
        """Take a Gramian apart. Does not wait for the device."""
        found_T = gramian_TT.diagonal().clamp(min=0).sqrt()
        has_gradient_T = found_T > 0
        mean = found_T.sum() / has_gradient_T.sum()  # NaN where there are none
        norms_T = torch.where(has_gradient_T, found_T, torch.where(mean > 0, mean, torch.ones_like(mean)))
        cosines_TT = (gramian_TT / norms_T / norms_T.unsqueeze(1)).clamp(-1, 1)
        identity_TT = torch.eye(len(found_T), dtype=gramian_TT.dtype, device=gramian_TT.device)
        is_finite = gramian_TT.isfinite().all()
        cosines_TT = torch.where(is_finite & (identity_TT == 0), cosines_TT, identity_TT)
        return cls(
            norms_T=torch.where(is_finite, norms_T, torch.nan),
            cosines_TT=cosines_TT + RIDGE * identity_TT,
        )


def square_root(gramian_TT: Tensor) -> tuple[Array, Array]:
    """(R, n) with G = (R N)'(R N), N = diag(n), for a finite Gramian of :class:`Directions`: the columns of R have the
    length 1, so that a solver meets no numbers of different sizes.
    """
    directions = Directions.of(gramian_TT)
    values_T, vectors_TT = np.linalg.eigh(directions.cosines_TT.numpy())
    root_TT = np.sqrt(values_T.clip(min=RIDGE))[:, np.newaxis] * vectors_TT.T
    return root_TT, directions.norms_T.numpy()
