"""Several processes that train one network together, each on its part of every batch (data parallel)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class Ranks(Protocol):
    """The processes that share a step. Every one of them makes the same calls in the same order."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0 on."""
        ...

    @property
    def size(self) -> int:
        """How many there are."""
        ...

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks. They have the same shapes on all ranks, and one type."""
        ...

    def of_the_first(self, answer: bool) -> bool:
        """The answer of rank 0, whatever this rank's is."""
        ...


class OneProcess:
    """No other process: nothing to exchange."""

    rank = 0
    size = 1

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        pass

    def of_the_first(self, answer: bool) -> bool:
        return answer


ONE_PROCESS = OneProcess()


@dataclass(frozen=True, kw_only=True)
class ProcessGroupRanks:
    """The processes of a group of ``torch.distributed`` (gloo, NCCL, ...), the default group if none is given."""

    device: torch.device  # where the group's backend takes tensors from
    group: dist.ProcessGroup | None = None

    @property
    def rank(self) -> int:
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        return dist.get_world_size(self.group)

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        # One message for all of them: a network has many small parameters, and each message has its own latency.
        joined = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(joined, group=self.group)
        parts = joined.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def of_the_first(self, answer: bool) -> bool:
        said = torch.tensor([int(answer)], device=self.device)
        dist.broadcast(said, group=self.group, group_src=0)
        return bool(said.item())
