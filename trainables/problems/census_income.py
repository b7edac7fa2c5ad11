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
from torch import Tensor
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.metrics import auc, binary_accuracy, mae, rmse
from trainables.problems.encoding import Categories, TableStem, encode_categories, standardise
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
    """The parsed file. B rows, F continuous columns."""

    categories: Categories
    continuous_BF: Tensor  # standardised by the training split
    targets: Mapping[str, Tensor]


CensusStem = TableStem  # models that were saved under this name find their class here


def census_income(
    *, hidden: Sequence[int] = (128, 64), embedding_dim: int = 4, dropout: float = 0.0
) -> InMemoryProblem:
    """The problem. Its parameters are described in the catalogue."""
    table = _load()
    inputs = (table.categories.codes_BC, table.continuous_BF)
    train, validation, test = (take_rows(inputs, table.targets, rows) for rows in split_rows(len(inputs[0])))
    return InMemoryProblem(
        tasks=TASKS,
        train=train,
        validation=validation,
        test=test,
        data_hash=hash_splits([train, validation, test]),
        model=partial(
            _model,
            num_codes=table.categories.num_codes,
            unknown_codes=table.categories.unknown_codes,
            embedding_dim=embedding_dim,
            hidden=tuple(hidden),
            dropout=dropout,
        ),
    )


def _model(
    *, num_codes: int, unknown_codes: Sequence[int], embedding_dim: int, hidden: Sequence[int], dropout: float
) -> MultiTaskModel:
    return shared_bottom_model(
        stem=TableStem(num_codes=num_codes, unknown_codes=unknown_codes, embedding_dim=embedding_dim),
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
    return _Table(
        categories=encode_categories([columns[column] for column in CATEGORICAL], train_rows),
        continuous_BF=standardise([_numbers(column, columns[column]) for column in CONTINUOUS], train_rows),
        targets={
            "income": torch.tensor([float(cell.startswith("50000+")) for cell in columns[INCOME]]),
            "never_married": torch.tensor([float(cell.strip() == "Never married") for cell in columns[MARITAL_STATUS]]),
            "weeks_worked": torch.tensor([float(cell) for cell in columns[WEEKS_WORKED]]),
        },
    )


def _numbers(column: int, cells: Sequence[str]) -> Tensor:
    """Money on a logarithmic scale, all else as it is."""
    values_B = torch.tensor([float(cell) for cell in cells], dtype=torch.float64)
    return values_B.log1p() if column in MONEY else values_B
