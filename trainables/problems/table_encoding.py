"""What was learnt of a table's columns, as a value: written beside a network, read again, applied to any rows.

Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Self, cast

from torch import Tensor

from trainables.catalog import TaskKind
from trainables.problems.encoding import CategoryColumn, Cells, NumberColumn, encode_categories, encode_numbers
from trainables.problems.table_columns import as_numbers, as_texts
from trainables.problems.table_file import DataError, hint_at, parse_table
from trainables.problems.targets import TargetColumn

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TableEncoding:
    """The columns of a table as its training split shows them."""

    categories: tuple[CategoryColumn, ...]
    numbers: tuple[NumberColumn, ...]
    targets: tuple[TargetColumn, ...]
    # Of a CSV that may come without a header, its columns' names in order; every cell of it is then read as it stands,
    # and no word means that one is missing. Empty: there must be a header.
    positions: tuple[str, ...] = ()

    def read(self, file: BinaryIO, form: str) -> pd.DataFrame:
        """See the protocol :class:`trainables.protocol.TableCodec`.

        What looks like a number stays a text where the training file had texts.
        """
        if form == ".parquet":
            return parse_table(file, form)
        if self.positions:
            return self._named(
                parse_table(file, form, header=None, dtype=str, keep_default_na=False, skip_blank_lines=True)
            )
        texts = {column.name: str for column in self.categories if column.cells is Cells.TEXTS}
        return parse_table(file, form, dtype=texts)

    def encode(self, table: pd.DataFrame) -> tuple[Tensor, ...]:
        """See the protocol :class:`trainables.protocol.TableCodec`."""
        self._require_columns(list(table.columns))
        texts = [as_texts(cast("pd.Series", table[column.name]), column.cells) for column in self.categories]
        values = [as_numbers(cast("pd.Series", table[column.name])) for column in self.numbers]
        return self.encoded(texts, values, num_rows=len(table))

    def encoded(self, texts: Sequence[Sequence[str]], values: Sequence[Tensor], *, num_rows: int) -> tuple[Tensor, ...]:
        """The columns' cells, categories as texts and numbers in float64, as the network takes them.

        Raises:
            DataError: a number is so far from those of the training split that no network could take it.
        """
        numeric_BF = encode_numbers(self.numbers, values, num_rows)
        if not bool(numeric_BF.isfinite().all()):
            row, index = (~numeric_BF.isfinite()).nonzero()[0].tolist()
            value = values[index][row].item()
            raise DataError(f"row {row + 1}: {self.numbers[index].name} is {value:g}, which is out of its range")
        return (encode_categories(self.categories, texts), numeric_BF) if self.categories else (numeric_BF,)

    def decode(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Sequence[str] | Tensor]:
        """See the protocol :class:`trainables.protocol.TableCodec`."""
        columns: dict[str, Sequence[str] | Tensor] = {}
        for target in self.targets:
            columns |= target.answers(outputs[target.name])
        return columns

    def document(self) -> Mapping[str, Any]:
        """All of it, as JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "categories": [asdict(column) for column in self.categories],
            "numbers": [asdict(column) for column in self.numbers],
            "targets": [asdict(target) for target in self.targets],
            "positions": list(self.positions),
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What :meth:`document` was taken from.

        Raises:
            ValueError: the document is of another version, or no such thing at all.
        """
        version = document.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(f"its format is {version}; {FORMAT_VERSION} is what can be read here")
        try:
            return cls(
                categories=tuple(
                    CategoryColumn(**{**column, "cells": Cells(column["cells"]), "known": tuple(column["known"])})
                    for column in document["categories"]
                ),
                numbers=tuple(NumberColumn(**column) for column in document["numbers"]),
                targets=tuple(
                    TargetColumn(**{**column, "kind": TaskKind(column["kind"]), "classes": tuple(column["classes"])})
                    for column in document["targets"]
                ),
                positions=tuple(document["positions"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is incomplete or damaged: {error}") from error

    def _require_columns(self, columns: Sequence[str]) -> None:
        wanted = [column.name for column in (*self.categories, *self.numbers)]
        missing = [name for name in wanted if name not in columns]
        if missing:
            many = "columns" if len(missing) > 1 else "column"
            raise DataError(f"no {many} {', '.join(map(repr, missing))}; {hint_at(missing[0], columns)}")

    def _named(self, cells: pd.DataFrame) -> pd.DataFrame:
        """A table of texts whose first row may be its header."""
        first = [] if cells.empty else [str(cell).strip() for cell in cells.iloc[0]]
        if not set(first).isdisjoint(self.positions):
            if len(set(first)) < len(first):
                raise DataError("two columns have the same name")
            named = cells.iloc[1:].reset_index(drop=True)
            return named.set_axis(first, axis=1)
        expected = len(self.positions)
        if cells.shape[1] not in (expected, expected - 1):
            raise DataError(
                f"without a header it must have the {expected} columns of the original in their order, the last of "
                f"which may be absent, but it has {cells.shape[1]}"
            )
        return cells.set_axis(list(self.positions[: cells.shape[1]]), axis=1)
