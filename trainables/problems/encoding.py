"""A table's columns as tensors. Everything is fitted to the training split alone; what it never showed is "unknown".

Shapes: B rows, C categorical columns, F numeric columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Categories:
    """Categorical columns as rows of one embedding table, in which each column has a range of its own."""

    codes_BC: Tensor
    num_codes: int
    unknown_codes: tuple[int, ...]  # one a column: what the training split never showed


def encode_categories(columns: Sequence[Sequence[str]], train_rows: Sequence[int]) -> Categories:
    """Number the categories of the training split, column after column; the first number of a column is "unknown"."""
    codes, unknown_codes, offset = [], [], 0
    for cells in columns:
        known = sorted({cells[row] for row in train_rows})
        number = {value: offset + 1 + index for index, value in enumerate(known)}
        codes.append(torch.tensor([number.get(cell, offset) for cell in cells]))
        unknown_codes.append(offset)
        offset += 1 + len(known)
    return Categories(codes_BC=torch.stack(codes, dim=1), num_codes=offset, unknown_codes=tuple(unknown_codes))


def standardise(columns: Sequence[Tensor], train_rows: Sequence[int]) -> Tensor:
    """Columns of float64, (B,) each, to mean 0 and spread 1 on the training split, (B, F) in float32.

    A missing value (NaN) becomes 0, the mean. So does all of a column that is the same in every training row: nothing
    could be learnt from it, and divided by next to nothing any other value would be enormous.
    """
    return torch.stack([_standardised(values_B, train_rows) for values_B in columns], dim=1).float()


def _standardised(values_B: Tensor, train_rows: Sequence[int]) -> Tensor:
    fitted = values_B[train_rows]
    fitted = fitted[~fitted.isnan()]
    if len(fitted) < 2 or fitted.std() <= 1e-12 * fitted.abs().max():
        return torch.zeros_like(values_B)
    return ((values_B - fitted.mean()) / fitted.std()).nan_to_num(nan=0.0)


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
        return torch.cat([embedded.view(len(codes_BC), -1), numeric_BF], dim=1)
