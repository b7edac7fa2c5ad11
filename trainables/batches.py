"""The order in which a lane sees its training rows.

Shapes: B rows of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.protocol import Split


@dataclass(frozen=True, kw_only=True)
class BatchPosition:
    """Where in the data a lane is: enough to go on with exactly the batch that would have come next."""

    epoch_rng: Tensor  # state of the generator before it drew the present epoch's order
    batches_taken: int  # in the present epoch


class Batches:
    """Shuffled epochs without end.

    An epoch is a permutation of the rows, drawn from the lane's own generator. What is left over at its end is dropped
    when it does not fill a batch; a split smaller than one batch is one batch.
    """

    def __init__(
        self, split: Split, *, batch_size: int, generator: torch.Generator, position: BatchPosition | None = None
    ) -> None:
        if len(split) == 0:
            raise ValueError("the training split has no rows")
        self._split = split
        self._size = min(batch_size, len(split))
        self._per_epoch = len(split) // self._size
        self._generator = generator
        if position is not None:
            generator.set_state(position.epoch_rng.cpu())
        self._start_epoch()
        self._taken = position.batches_taken if position is not None else 0

    def take(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        """The next batch: inputs in the split's order, targets by task name."""
        return rows_of(self._split, self.take_rows())

    def take_rows(self) -> Tensor:
        """The numbers of the next batch's rows, (B,)."""
        if self._taken == self._per_epoch:
            self._start_epoch()
        rows_B = self._order[self._taken * self._size : (self._taken + 1) * self._size]
        self._taken += 1
        return rows_B

    def first_rows(self) -> Tensor:
        """The numbers of the rows that this epoch began with, (B,). Takes none of them."""
        return self._order[: self._size]

    @property
    def position(self) -> BatchPosition:
        """What a new instance needs to go on from here."""
        return BatchPosition(epoch_rng=self._epoch_rng, batches_taken=self._taken)

    def _start_epoch(self) -> None:
        self._epoch_rng = self._generator.get_state()
        order = torch.randperm(len(self._split), generator=self._generator)
        self._order = moved_without_waiting(order, self._split.inputs[0].device)
        self._taken = 0


def rows_of(split: Split, rows_B: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Those rows of a split: inputs in its order, targets by task name."""
    inputs = [tensor.index_select(0, rows_B) for tensor in split.inputs]
    return inputs, {name: tensor.index_select(0, rows_B) for name, tensor in split.targets.items()}


def moved_without_waiting(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device, where it is usable at once by whatever is queued there after this call.

    A GPU copies in the background from pinned memory only; from any other the host waits until all that was queued
    before is done.
    """
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)
