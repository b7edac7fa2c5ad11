"""In-memory problems: splits by a fixed permutation, and the network that the built-in problems share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainables.protocol import MultiTaskModel, Split, TableCodec, Task

if TYPE_CHECKING:
    from trainables.stacked.forward import Forward, Stack

SPLIT_SEED = 20180710  # of the permutation only: the splits are the same in every sweep and for every trial's seed
TRAIN_SHARE, VALIDATION_SHARE = 0.6, 0.2  # the rest is the test split


@dataclass(frozen=True, kw_only=True)
class InMemoryProblem:
    """A :class:`trainables.protocol.Problem` out of its parts."""

    tasks: Sequence[Task]
    train: Split
    validation: Split
    test: Split
    data_hash: str
    model: Callable[[], MultiTaskModel]
    codec: TableCodec | None = None  # None: it cannot be asked about the rows of a table

    def build_model(self) -> MultiTaskModel:
        return self.model()

    def to(self, *, device: torch.device, dtype: torch.dtype) -> InMemoryProblem:
        return replace(
            self,
            train=self.train.to(device=device, dtype=dtype),
            validation=self.validation.to(device=device, dtype=dtype),
            test=self.test.to(device=device, dtype=dtype),
        )


def in_memory_problem(
    inputs: Sequence[Tensor],
    targets: Mapping[str, Tensor],
    *,
    tasks: Sequence[Task],
    model: Callable[[], MultiTaskModel],
    rows: Sequence[Tensor] | None = None,
    codec: TableCodec | None = None,
) -> InMemoryProblem:
    """The problem over those tensors, each (rows, ...). ``rows`` are the row numbers of the training, the validation
    and the test split; those of :func:`split_rows` if not given.
    """
    rows = split_rows(len(inputs[0])) if rows is None else rows
    train, validation, test = (take_rows(inputs, targets, part) for part in rows)
    return InMemoryProblem(
        tasks=tasks,
        train=train,
        validation=validation,
        test=test,
        data_hash=hash_splits([train, validation, test]),
        model=model,
        codec=codec,
    )


def split_rows(num_rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers of train, validation and test: disjoint, together all rows, the same at every call."""
    order = torch.randperm(num_rows, generator=torch.Generator().manual_seed(SPLIT_SEED))
    first, second = int(num_rows * TRAIN_SHARE), int(num_rows * (TRAIN_SHARE + VALIDATION_SHARE))
    return order[:first], order[first:second], order[second:]


def take_rows(inputs: Sequence[Tensor], targets: Mapping[str, Tensor], rows: Tensor) -> Split:
    """A split of those rows, copied: no two splits share memory."""
    return Split(
        inputs=tuple(tensor[rows] for tensor in inputs),
        targets={name: tensor[rows] for name, tensor in targets.items()},
    )


def hash_tensors(tensors: Sequence[Tensor]) -> str:
    """SHA-256 over types, shapes and contents, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_splits(splits: Sequence[Split]) -> str:
    """Hash of the data and of the way it was split."""
    return hash_tensors(
        [tensor for split in splits for tensor in (*split.inputs, *(split.targets[k] for k in sorted(split.targets)))]
    )


class Trunk(nn.Module):
    """A stem that takes the problem's inputs, then layers one after another."""

    def __init__(self, stem: nn.Module, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.layers = nn.Sequential(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.layers(self.stem(*inputs))

    def stacked_forward(self, stack: Stack) -> Forward:
        """Of N of them (``trainables.stacked.forward.Stackable``)."""
        stem, layers = stack.forward(self.stem), stack.forward(self.layers)
        return lambda *inputs: layers(stem(*inputs))


def shared_bottom_model(
    *, stem: nn.Module, stem_width: int, hidden: Sequence[int], heads: Mapping[str, int], dropout: float
) -> MultiTaskModel:
    """``stem``, then a ReLU layer a width of ``hidden``; the last of them is the shared layer, each head one linear
    map.

    ``heads``: outputs by task; 0 means one output without a dimension of its own, (B,) in place of (B, 1). ``dropout``
    follows every ReLU; each head drops for itself.
    """
    if not hidden:
        raise ValueError("hidden must name at least one layer: the last one is the layer that the tasks share")
    layers: list[nn.Module] = []
    width = stem_width
    for next_width in hidden[:-1]:
        layers += [nn.Linear(width, next_width), nn.ReLU(), *_dropout(dropout)]
        width = next_width
    shared_layer = nn.Linear(width, hidden[-1])
    return MultiTaskModel(
        trunk=Trunk(stem, layers),
        shared_layer=shared_layer,
        heads={name: _head(hidden[-1], outputs, dropout) for name, outputs in heads.items()},
    )


def _head(width: int, outputs: int, dropout: float) -> nn.Module:
    layers = [nn.ReLU(), *_dropout(dropout), nn.Linear(width, max(1, outputs))]
    return nn.Sequential(*layers, nn.Flatten(0)) if outputs == 0 else nn.Sequential(*layers)


def _dropout(share: float) -> list[nn.Module]:
    return [nn.Dropout(share)] if share > 0 else []  # a module that does nothing still costs a call a step
