"""Where training first went wrong, found without asking the device at every step.

Shapes: T tasks, S steps; of N lanes that are watched together, (N, T) where it says T.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max
STEPS_A_LOOK = 64  # so many steps' numbers are put aside at most


class NonFiniteError(ArithmeticError):
    """A loss, gradient norm or metric is NaN or infinite. The message names it, its task and the step."""


class FiniteWatch:
    """Keeps, on the device, the first step at which each task's loss or gradient norm was not finite.

    The numbers of a step are put aside, and those of many steps looked at together: a look costs as many calls whatever
    it looks at. ``first_bad_2T``: row 0 losses, row 1 gradient norms; NEVER where all was well.
    """

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        """``shape``: of one step's losses, and of its norms."""
        self._first_bad_2T = torch.full((2, *shape), NEVER, dtype=torch.int64, device=device)
        self._unseen: list[Tensor] = []  # of each step the losses, then the norms
        self._last_step = 0

    def see(self, step: int, losses_T: Tensor, norms_T: Tensor | None) -> None:
        """Take one step's numbers, which nobody changes afterwards. Steps are counted from 1, none is left out."""
        # Where no norms were taken, the losses stand in for them: they are told first anyway.
        self._unseen += (losses_T, losses_T if norms_T is None else norms_T)
        self._last_step = step
        if len(self._unseen) >= 2 * STEPS_A_LOOK:
            self._look()

    def _look(self) -> None:
        if not self._unseen:
            return
        values_S2T = torch.stack(self._unseen).unflatten(0, (-1, 2))
        self._unseen = []
        first = self._last_step - len(values_S2T) + 1
        steps_S = torch.arange(first, self._last_step + 1, device=values_S2T.device)
        steps_S11 = steps_S.view(-1, *[1] * (values_S2T.dim() - 1))
        bad_S2T = torch.where(values_S2T.isfinite(), NEVER, steps_S11)
        self._first_bad_2T = torch.minimum(self._first_bad_2T, bad_S2T.amin(0))

    @property
    def first_bad_2T(self) -> Tensor:
        """Of each loss and norm the first step at which it was not finite, or NEVER; on the device."""
        self._look()
        return self._first_bad_2T

    def take(self, first_bad_2T: Tensor, *, steps_before: int) -> None:
        """Take what another watch has seen of the steps after ``steps_before``, which it counted from 1."""
        bad_2T = torch.where(first_bad_2T == NEVER, NEVER, first_bad_2T + steps_before)
        self._first_bad_2T = torch.minimum(self._first_bad_2T, bad_2T)

    def check(self, task_names: Sequence[str]) -> None:
        """Wait for the device and tell the first fault.

        Raises:
            NonFiniteError: there was one; the earliest is named, a loss before a gradient norm of the same step.
        """
        rows = self.first_bad_2T.tolist()
        step, row, index = min((rows[row][i], row, i) for row in range(2) for i in range(len(task_names)))
        if step != NEVER:
            what = ("loss", "gradient norm at the shared layer")[row]
            raise NonFiniteError(f"task {task_names[index]!r}: the {what} was not finite at step {step}")
