"""A table's columns as tensors: what is learnt of them from the training split, and what becomes of any rows by it.

The first is a value that can be written down and read again (``table_codec``); the second is the same for the rows that
a network is trained on and for those that it is asked about years later. What training never showed is "unknown".

Shapes: B rows, C categorical columns, F numeric columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from trainables.stacked.forward import Forward, Stack


class Cells(StrEnum):
    """What a column of categories holds: the same category may be written in several ways, and is one text here."""

    TEXTS = "texts"
    NUMBERS = "numbers"  # 7, 7.0 and "7" are one
    BOOLEANS = "booleans"  # True and "true" are one


@dataclass(frozen=True, kw_only=True)
class CategoryColumn:
    """A column whose values are looked up in an embedding table."""

    name: str
    cells: Cells = Cells.TEXTS
    known: tuple[str, ...]  # what the training split shows, sorted

    @classmethod
    def fitted(
        cls, name: str, cells: Sequence[str], train_rows: Sequence[int], *, kind: Cells = Cells.TEXTS
    ) -> CategoryColumn:
        """The column as its training rows show it."""
        return cls(name=name, cells=kind, known=tuple(sorted(set(map(cells.__getitem__, train_rows)))))


@dataclass(frozen=True, kw_only=True)
class NumberColumn:
    """A column of numbers that is brought to mean 0 and spread 1 of the training split."""

    name: str
    mean: float
    spread: float  # 0: it is the same in every training row, and says nothing
    is_log: bool = False  # mean and spread are those of log(1 + value)
    has_indicator: bool = False  # an input more says where it is missing

    @classmethod
    def fitted(
        cls,
        name: str,
        values_B: Tensor,
        train_rows: Sequence[int],
        *,
        is_log: bool = False,
        has_indicator: bool = False,
    ) -> NumberColumn:
        """The column as its training rows show it; values in float64, NaN where one is missing.

        One that is the same in every training row gets no spread: nothing could be learnt from it, and divided by next
        to nothing any other value would be enormous.
        """
        fitted = values_B[train_rows]
        fitted = fitted[~fitted.isnan()]
        fitted = fitted.log1p() if is_log else fitted
        is_constant = len(fitted) < 2 or bool(fitted.std() <= 1e-12 * fitted.abs().max())
        return cls(
            name=name,
            mean=0.0 if is_constant else fitted.mean().item(),
            spread=0.0 if is_constant else fitted.std().item(),
            is_log=is_log,
            has_indicator=has_indicator,
        )

    def standardised(self, values_B: Tensor) -> Tensor:
        """Values in float64, on the scale that the network knows; a missing one (NaN) becomes 0, the mean."""
        if self.spread == 0:
            return torch.zeros_like(values_B)
        scaled_B = values_B.log1p() if self.is_log else values_B
        return ((scaled_B - self.mean) / self.spread).where(~values_B.isnan(), 0.0)


def num_codes(columns: Collection[CategoryColumn]) -> int:
    """Rows of the embedding table in which each column has a range of its own: one for "unknown", then its own."""
    return sum(1 + len(column.known) for column in columns)


def unknown_codes(columns: Sequence[CategoryColumn]) -> tuple[int, ...]:
    """Each column's code of what the training split never showed, the first of its range."""
    return tuple(num_codes(columns[:index]) for index in range(len(columns)))


def encode_categories(columns: Sequence[CategoryColumn], cells: Sequence[Sequence[str]]) -> Tensor:
    """The codes of each column's cells, (B, C)."""
    codes = []
    for column, offset, texts in zip(columns, unknown_codes(columns), cells, strict=True):
        number = {value: offset + 1 + index for index, value in enumerate(column.known)}
        found = np.fromiter(map(number.get, texts, itertools.repeat(offset)), dtype=np.int64, count=len(texts))
        codes.append(torch.from_numpy(found))
    return torch.stack(codes, dim=1)


def encode_numbers(columns: Sequence[NumberColumn], values: Sequence[Tensor], num_rows: int) -> Tensor:
    """The columns' values, float64 and (B,) each, as a network takes them: (B, F) in float32, then the indicators."""
    if not columns:
        return torch.zeros(num_rows, 0)
    pairs = list(zip(columns, values, strict=True))
    standard_BF = torch.stack([column.standardised(values_B) for column, values_B in pairs], dim=1).float()
    indicators = [values_B.isnan().float().unsqueeze(1) for column, values_B in pairs if column.has_indicator]
    return torch.cat([standard_BF, *indicators], dim=1)


class TableStem(nn.Module):
    """A row as numbers: all categorical columns through one embedding table (a single gather), then the numeric."""

    def __init__(self, *, num_codes: int, unknown_codes: Sequence[int], embedding_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, embedding_dim)
        with torch.no_grad():  # never trained: no value must say "no information", not noise
            self.embedding.weight[list(unknown_codes)] = 0.0

    def forward(self, codes_BC: Tensor, numeric_BF: Tensor) -> Tensor:
        # index_select in place of the module's call: its gradient is seven times cheaper on a CPU, and the same.
        embedded = self.embedding.weight.index_select(0, codes_BC.flatten())
        num_rows, num_columns = codes_BC.shape
        return torch.cat([embedded.view(num_rows, num_columns * embedded.shape[1]), numeric_BF], dim=1)

    def stacked_forward(self, stack: Stack) -> Forward:
        """Of N of them (``trainables.stacked.forward.Stackable``): the tables one below the other, and one gather."""
        tables = stack.tensor(self.embedding.weight)

        def forward(codes_NBC: Tensor, numeric_NBF: Tensor) -> Tensor:
            table_NKD = tables()
            num_lanes, num_codes, width = table_NKD.shape
            first_N11 = torch.arange(0, num_lanes * num_codes, num_codes, device=codes_NBC.device).view(-1, 1, 1)
            # reshape: the lanes' tables lie apart, in a matrix of all parameters.
            embedded = table_NKD.reshape(-1, width).index_select(0, (codes_NBC + first_N11).flatten())
            return torch.cat([embedded.view(*codes_NBC.shape[:2], -1), numeric_NBF], dim=2)

        return forward


class Rescale(nn.Module):
    """A head's last step: from numbers of mean 0 and spread 1 to the target's own."""

    def __init__(self, *, scale: float, shift: float) -> None:
        super().__init__()
        self.scale: Tensor
        self.shift: Tensor
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("shift", torch.tensor(shift))

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs * self.scale + self.shift
