"""A table of a user's own: CSV or Parquet, a task a column, without any code.

Every other column is an input. Numbers are standardised by the training split, a missing one is its mean and sets an
indicator; texts are embedded, a missing one is a category of its own, one that the training split lacks says nothing.

Targets stay in the unit that they come in, as in ``census_income``: the losses then differ in scale as they do for
anybody who adds them up. But a regression's output starts at its training mean and moves in its training spread, and a
count's at the logarithm of its mean: from 0 on, a network would need thousands of steps to find a mean of 50,000.

Shapes: B rows, C categorical columns, F numeric ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from trainables.problems.encoding import TableStem
from trainables.problems.table_columns import Inputs, Target, encode_inputs, encode_target
from trainables.problems.table_file import DataError, data_roots, find_file, read_table, require_columns, split_of_rows
from trainables.problems.tabular import InMemoryProblem, hash_splits, shared_bottom_model, take_rows
from trainables.protocol import MultiTaskModel

if TYPE_CHECKING:
    import pandas as pd


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
    inputs, targets, rows = _load(
        path,
        (stat.st_mtime_ns, stat.st_size),
        tuple((name, tuple(sorted(tasks[name].items()))) for name in sorted(tasks)),
        tuple(drop),
        tuple(categorical),
        split,
        split_column,
        missing_targets == "drop_rows",
    )
    values = {target.task.name: target.values for target in targets}
    train, validation, test = (take_rows(inputs.tensors, values, part) for part in rows)
    return InMemoryProblem(
        tasks=tuple(target.task for target in targets),
        train=train,
        validation=validation,
        test=test,
        data_hash=hash_splits([train, validation, test]),
        model=partial(
            _model,
            inputs=inputs,
            targets=targets,
            hidden=tuple(hidden),
            embedding_dim=embedding_dim,
            dropout=dropout,
        ),
    )


def _model(
    *, inputs: Inputs, targets: Sequence[Target], hidden: Sequence[int], embedding_dim: int, dropout: float
) -> MultiTaskModel:
    stem: nn.Module = nn.Identity()
    stem_width = inputs.numeric_BF.shape[1]
    if inputs.categories is not None:
        num_codes, unknown_codes = inputs.categories.num_codes, inputs.categories.unknown_codes
        stem = TableStem(num_codes=num_codes, unknown_codes=unknown_codes, embedding_dim=embedding_dim)
        stem_width += inputs.categories.codes_BC.shape[1] * embedding_dim
    heads = {target.task.name: target.num_outputs for target in targets}
    model = shared_bottom_model(stem=stem, stem_width=stem_width, hidden=hidden, heads=heads, dropout=dropout)
    for target in targets:
        if (target.scale, target.shift) != (1.0, 0.0):
            head = model.heads[target.task.name]
            model.heads[target.task.name] = nn.Sequential(head, Rescale(scale=target.scale, shift=target.shift))
    return model


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
) -> tuple[Inputs, tuple[Target, ...], tuple[Tensor, Tensor, Tensor]]:
    """Read and encoded once a process; the tensors are never written to (splits are copies)."""
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
    targets = tuple(
        encode_target(name, descriptions[name], cast("pd.Series", table[column]), train_rows)
        for name, column in columns.items()
    )
    used = {*columns.values(), *drop, *([split_column] if split == "column" else [])}
    inputs_table = table.drop(columns=sorted(used))
    if inputs_table.shape[1] == 0:
        raise DataError("data: no column is left as an input: all are tasks' columns or in drop")
    return encode_inputs(inputs_table, categorical, train_rows), targets, rows


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
