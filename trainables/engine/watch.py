"""Where training first went wrong, found without asking the device at every step.

Shapes: T tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NEVER = torch.iinfo(torch.int64).max


class NonFiniteError(ArithmeticError):
    """A loss, gradient norm or metric is NaN or infinite. The message names it, its task and the step."""


class FiniteWatch:
    """Keeps, on the device, the first step at which each task's loss or gradient norm was not finite.

    ``first_bad_2T``: row 0 losses, row 1 gradient norms; NEVER where all was well.
    """

    def __init__(self, num_tasks: int, device: torch.device) -> None:
        self._first_bad_2T = torch.full((2, num_tasks), NEVER, dtype=torch.int64, device=device)

    def see(self, step: int, losses_T: Tensor, norms_T: Tensor | None) -> None:
        """Look at one step's numbers. Steps are counted from 1."""
        # Where no norms were taken, the losses stand in for them: they are told first anyway.
        values_2T = torch.stack([losses_T, losses_T if norms_T is None else norms_T])
        self._first_bad_2T.masked_fill_(~values_2T.isfinite() & (self._first_bad_2T == NEVER), step)

    def check(self, task_names: Sequence[str]) -> None:
        """Wait for the device and tell the first fault.

        Raises:
            NonFiniteError: there was one; the earliest is named, a loss before a gradient norm of the same step.
        """
        rows = self._first_bad_2T.tolist()
        step, row, index = min((rows[row][i], row, i) for row in range(2) for i in range(len(task_names)))
        if step != NEVER:
            what = ("loss", "gradient norm at the shared layer")[row]
            raise NonFiniteError(f"task {task_names[index]!r}: the {what} was not finite at step {step}")
