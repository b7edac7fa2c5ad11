"""What of a table's problem outlives its data: what was learnt of the columns, and the network's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from torch import Tensor, nn

from trainables.problems.encoding import Rescale, TableStem, num_codes, unknown_codes
from trainables.problems.table_encoding import TableEncoding
from trainables.problems.tabular import shared_bottom_model
from trainables.protocol import MultiTaskModel, Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class ColumnCodec:
    """Implements :class:`trainables.protocol.TableCodec` for problems whose inputs and targets are columns."""

    encoding: TableEncoding
    hidden: tuple[int, ...]
    embedding_dim: int
    dropout: float

    @property
    def tasks(self) -> Sequence[Task]:
        return tuple(target.task for target in self.encoding.targets)

    def build_model(self) -> MultiTaskModel:
        encoding = self.encoding
        stem: nn.Module = nn.Identity()
        stem_width = len(encoding.numbers) + sum(column.has_indicator for column in encoding.numbers)
        if encoding.categories:
            stem = TableStem(
                num_codes=num_codes(encoding.categories),
                unknown_codes=unknown_codes(encoding.categories),
                embedding_dim=self.embedding_dim,
            )
            stem_width += len(encoding.categories) * self.embedding_dim
        heads = {target.name: target.num_outputs for target in encoding.targets}
        model = shared_bottom_model(
            stem=stem, stem_width=stem_width, hidden=self.hidden, heads=heads, dropout=self.dropout
        )
        for target in encoding.targets:
            if (target.scale, target.shift) != (1.0, 0.0):
                rescale = Rescale(scale=target.scale, shift=target.shift)
                model.heads[target.name] = nn.Sequential(model.heads[target.name], rescale)
        return model

    def read(self, file: BinaryIO, form: str) -> pd.DataFrame:
        return self.encoding.read(file, form)

    def encode(self, table: pd.DataFrame) -> tuple[Tensor, ...]:
        return self.encoding.encode(table)

    def decode(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Sequence[str] | Tensor]:
        return self.encoding.decode(outputs)

    def document(self) -> Mapping[str, Any]:
        return self.encoding.document()


def column_codec(
    document: Mapping[str, Any], *, hidden: Sequence[int], embedding_dim: int, dropout: float, **_of_the_data: Any
) -> ColumnCodec:
    """The codec whose document that is, with the parameters of its problem.

    Raises:
        ValueError: the document cannot be read.
    """
    encoding = TableEncoding.from_document(document)
    return ColumnCodec(encoding=encoding, hidden=tuple(hidden), embedding_dim=embedding_dim, dropout=dropout)
