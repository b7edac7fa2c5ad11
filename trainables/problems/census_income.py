"""Census-Income (KDD): three tasks on one table, of very different scale.

Data: a 20,000-row random sample of the official training file (``trainables/data/README.md`` has the credit). The tasks
of the multi-gate mixture-of-experts paper (Ma et al., KDD 2018) plus one:

===============  ==========  =========================================================
income           binary      earns more than 50,000 dollars a year (6 % do)
never_married    binary      marital status is "Never married" (43 %)
weeks_worked     regression  weeks worked in the year, 0 to 52, **in weeks**
===============  ==========  =========================================================

Weeks are left in weeks on purpose. Their squared error starts near 1,100 and the cross-entropies near 0.7, so the plain
sum of the losses is almost the third one alone: the case that balancing is for, and what happens to anybody who adds up
losses in the units they come in. Divide the target by its spread and there is little left to balance.

Dropped columns: the three targets, and column 24, the instance weight, which is a matter of the survey's design. All
others are kept, as in the paper. So nobody should read a low loss as insight into people; some columns come close to
giving a target away: 30 (people at the employer) is 0 exactly where no weeks were worked, 22 and 23 (place in the
household) spell out "never married" or "spouse" for part of the rows, 19 (tax filer) says "joint" for couples. Rows
differ in how far this helps, equally for every balancer.
"""

from __future__ import annotations

import csv
import functools
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.metrics import auc, binary_accuracy, mae, rmse
from trainables.problems.tabular import InMemoryProblem, hash_splits, shared_bottom_model, split_rows, take_rows
from trainables.protocol import MultiTaskModel, Task

NUM_COLUMNS = 42
INCOME, MARITAL_STATUS, WEEKS_WORKED, INSTANCE_WEIGHT = 41, 7, 39, 24
AGE, NUM_EMPLOYED = 0, 30
MONEY = (5, 16, 17, 18)  # wage per hour, capital gains, capital losses, dividends: mostly 0, else over four decades
CONTINUOUS = (AGE, NUM_EMPLOYED, *MONEY)
CATEGORICAL = tuple(
    column
    for column in range(NUM_COLUMNS)
    if column not in {INCOME, MARITAL_STATUS, WEEKS_WORKED, INSTANCE_WEIGHT, *CONTINUOUS}
)

TASKS = (
    Task(
        name="income",
        kind=TaskKind.BINARY,
        loss=functional.binary_cross_entropy_with_logits,
        metrics={"auc": auc, "accuracy": binary_accuracy},
        num_classes=2,
    ),
    Task(
        name="never_married",
        kind=TaskKind.BINARY,
        loss=functional.binary_cross_entropy_with_logits,
        metrics={"auc": auc, "accuracy": binary_accuracy},
        num_classes=2,
    ),
    Task(name="weeks_worked", kind=TaskKind.REGRESSION, loss=functional.mse_loss, metrics={"rmse": rmse, "mae": mae}),
)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The parsed file. C categorical columns, F continuous ones."""

    codes_BC: Tensor  # row of the embedding table; each column has a range of its own
    continuous_BF: Tensor  # standardised by the training split
    targets: Mapping[str, Tensor]
    num_codes: int
    unknown_codes: tuple[int, ...]  # one a column: what the training split never showed


class CensusStem(nn.Module):
    """A row as numbers: all categorical columns through one embedding table (a single gather), then the continuous."""

    def __init__(self, *, num_codes: int, unknown_codes: Sequence[int], embedding_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_codes, embedding_dim)
        with torch.no_grad():  # never trained: no value must say "no information", not noise
            self.embedding.weight[list(unknown_codes)] = 0.0

    def forward(self, codes_BC: Tensor, continuous_BF: Tensor) -> Tensor:
        # index_select in place of the module's call: its gradient is seven times cheaper on a CPU, and the same.
        embedded = self.embedding.weight.index_select(0, codes_BC.flatten())
        return torch.cat([embedded.view(len(codes_BC), -1), continuous_BF], dim=1)


def census_income(
    *, hidden: Sequence[int] = (128, 64), embedding_dim: int = 4, dropout: float = 0.0
) -> InMemoryProblem:
    """The problem. Its parameters are described in the catalogue."""
    table = _load()
    inputs = (table.codes_BC, table.continuous_BF)
    train, validation, test = (take_rows(inputs, table.targets, rows) for rows in split_rows(len(table.codes_BC)))
    return InMemoryProblem(
        tasks=TASKS,
        train=train,
        validation=validation,
        test=test,
        data_hash=hash_splits([train, validation, test]),
        model=partial(
            _model,
            num_codes=table.num_codes,
            unknown_codes=table.unknown_codes,
            embedding_dim=embedding_dim,
            hidden=tuple(hidden),
            dropout=dropout,
        ),
    )


def _model(
    *, num_codes: int, unknown_codes: Sequence[int], embedding_dim: int, hidden: Sequence[int], dropout: float
) -> MultiTaskModel:
    return shared_bottom_model(
        stem=CensusStem(num_codes=num_codes, unknown_codes=unknown_codes, embedding_dim=embedding_dim),
        stem_width=len(CATEGORICAL) * embedding_dim + len(CONTINUOUS),
        hidden=hidden,
        heads={task.name: 0 for task in TASKS},
        dropout=dropout,
    )


@functools.lru_cache(maxsize=1)
def _load() -> _Table:
    """Parse the file once a process; the tensors are never written to (splits are copies)."""
    source = resources.files("trainables") / "data" / "census20k.csv.gz"
    with source.open("rb") as file, gzip.open(file, "rt", encoding="utf-8", newline="") as text:
        columns = list(zip(*csv.reader(text, skipinitialspace=True), strict=True))
    if len(columns) != NUM_COLUMNS:
        raise ValueError(f"the census file has {len(columns)} columns, not {NUM_COLUMNS}")
    train_rows = split_rows(len(columns[AGE]))[0].tolist()
    codes_BC, unknown_codes, num_codes = _encode(columns, train_rows)
    return _Table(
        codes_BC=codes_BC,
        continuous_BF=_standardise(columns, train_rows),
        targets={
            "income": torch.tensor([float(cell.startswith("50000+")) for cell in columns[INCOME]]),
            "never_married": torch.tensor([float(cell.strip() == "Never married") for cell in columns[MARITAL_STATUS]]),
            "weeks_worked": torch.tensor([float(cell) for cell in columns[WEEKS_WORKED]]),
        },
        num_codes=num_codes,
        unknown_codes=unknown_codes,
    )


def _encode(table: Sequence[Sequence[str]], train_rows: Sequence[int]) -> tuple[Tensor, tuple[int, ...], int]:
    """Number the categories of the training split, column after column; the first number of a column is "unknown"."""
    columns, unknown_codes, offset = [], [], 0
    for column in CATEGORICAL:
        cells = table[column]
        known = sorted({cells[row] for row in train_rows})
        number = {value: offset + 1 + index for index, value in enumerate(known)}
        columns.append(torch.tensor([number.get(cell, offset) for cell in cells]))
        unknown_codes.append(offset)
        offset += 1 + len(known)
    return torch.stack(columns, dim=1), tuple(unknown_codes), offset


def _standardise(table: Sequence[Sequence[str]], train_rows: Sequence[int]) -> Tensor:
    """Mean 0 and spread 1 on the training split; money on a logarithmic scale first."""
    columns = []
    for column in CONTINUOUS:
        values_B = torch.tensor([float(cell) for cell in table[column]], dtype=torch.float64)
        if column in MONEY:
            values_B = values_B.log1p()
        fitted = values_B[train_rows]
        columns.append((values_B - fitted.mean()) / fitted.std().clamp(min=1e-12))
    return torch.stack(columns, dim=1).float()
