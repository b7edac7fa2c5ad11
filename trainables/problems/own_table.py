"""A table of a user's own: CSV or Parquet, a task a column, without any code.

Every other column is an input. Numbers are standardised by the training split, a missing one is its mean and sets an
indicator; texts are embedded, a missing one is a category of its own, one that the training split lacks says nothing.

Targets stay in the unit that they come in, as in ``census_income``: the losses then differ in scale as they do for
anybody who adds them up. But a regression's output starts at its training mean and moves in its training spread, and a
count's at the logarithm of its mean: from 0 on, a network would need thousands of steps to find a mean of 50,000.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torch import Tensor, nn

from trainables.problems import encoding
from trainables.problems.table_codec import ColumnCodec
from trainables.problems.table_columns import fit_inputs, fit_target
from trainables.problems.table_encoding import TableEncoding
from trainables.problems.table_file import DataError, data_roots, find_file, read_table, require_columns, split_of_rows
from trainables.problems.tabular import InMemoryProblem, in_memory_problem

if TYPE_CHECKING:
    import pandas as pd

Rescale = encoding.Rescale  # models that were saved under this name find their class here


def tabular(
    *,
    data: str,
    tasks: Mapping[str, Mapping[str, str]],
    drop: Sequence[str] = (),
    categorical: Sequence[str] = (),
    split: str = "random",
    split_column: str = "",
    missing_targets: str = "refuse",
    hidden: Sequence[int] = (128, 64),
    embedding_dim: int = 4,
    dropout: float = 0.0,
) -> InMemoryProblem:
    """The problem. Its parameters are described in the catalogue.

    Raises:
        DataError: the file may not or cannot be read, or is not what the parameters say.
    """
    path = find_file(data, data_roots())
    stat = path.stat()
    learnt, inputs, targets, rows = _load(
        path,
        (stat.st_mtime_ns, stat.st_size),
        tuple((name, tuple(sorted(tasks[name].items()))) for name in sorted(tasks)),
        tuple(drop),
        tuple(categorical),
        split,
        split_column,
        missing_targets == "drop_rows",
    )
    codec = ColumnCodec(encoding=learnt, hidden=tuple(hidden), embedding_dim=embedding_dim, dropout=dropout)
    return in_memory_problem(inputs, targets, tasks=codec.tasks, model=codec.build_model, rows=rows, codec=codec)


@functools.lru_cache(maxsize=1)
def _load(
    path: Path,
    _stamp: tuple[int, int],  # of the file: another one is read again
    tasks: tuple[tuple[str, tuple[tuple[str, str], ...]], ...],
    drop: tuple[str, ...],
    categorical: tuple[str, ...],
    split: str,
    split_column: str,
    drop_incomplete: bool,
) -> tuple[TableEncoding, tuple[Tensor, ...], Mapping[str, Tensor], tuple[Tensor, Tensor, Tensor]]:
    """Read, learnt and encoded once a process; the tensors are never written to (splits are copies)."""
    descriptions = {name: dict(fields) for name, fields in tasks}
    columns = {name: fields.get("column", name) for name, fields in descriptions.items()}
    _refuse_names(columns)
    table = read_table(path)
    for name, column in columns.items():
        require_columns(table, [column], what=f"tasks: {name}")
    require_columns(table, drop, what="drop")
    require_columns(table, categorical, what="categorical")
    table = _with_targets(table, columns, drop_incomplete=drop_incomplete)
    rows = split_of_rows(table, split=split, split_column=split_column)
    train_rows = rows[0].tolist()
    fitted = {
        name: fit_target(name, descriptions[name], cast("pd.Series", table[column]), train_rows)
        for name, column in columns.items()
    }
    used = {*columns.values(), *drop, *([split_column] if split == "column" else [])}
    inputs_table = table.drop(columns=sorted(used))
    if inputs_table.shape[1] == 0:
        raise DataError("data: no column is left as an input: all are tasks' columns or in drop")
    categories, numbers = fit_inputs(inputs_table, categorical, train_rows)
    learnt = TableEncoding(
        categories=categories, numbers=numbers, targets=tuple(target for target, _ in fitted.values())
    )
    return learnt, learnt.encode(inputs_table), {name: values_B for name, (_, values_B) in fitted.items()}, rows


def _refuse_names(columns: Mapping[str, str]) -> None:
    for name in columns:
        if hasattr(nn.ModuleDict(), name):
            raise DataError(f"tasks: a network cannot have a part of the name {name!r}; give the task another one")


def _with_targets(table: pd.DataFrame, columns: Mapping[str, str], *, drop_incomplete: bool) -> pd.DataFrame:
    """The rows that have every task's value, numbered anew."""
    missing = table[list(dict.fromkeys(columns.values()))].isna()
    if not missing.to_numpy().any():
        return table
    if drop_incomplete:
        return table.loc[~missing.any(axis=1)].reset_index(drop=True)
    counts = ", ".join(f"{name!r} in {number}" for name, number in missing.sum().items() if number)
    raise DataError(
        f"data: of {len(table)} rows, a task's column is empty: {counts}; "
        f"fill them in, or set missing_targets: drop_rows"
    )
