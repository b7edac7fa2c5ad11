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

The file has no header: its columns go by their numbers, and by ``COLUMN_NAMES`` where somebody brings a table with one.
"""

from __future__ import annotations

import csv
import functools
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

import torch
from torch import Tensor

from trainables.catalog import TaskKind
from trainables.problems.encoding import CategoryColumn, NumberColumn, TableStem
from trainables.problems.table_codec import ColumnCodec
from trainables.problems.table_encoding import TableEncoding
from trainables.problems.tabular import InMemoryProblem, in_memory_problem, split_rows
from trainables.problems.targets import TargetColumn

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

COLUMN_NAMES = (
    *("age", "class_of_worker", "industry_code", "occupation_code", "education", "wage_per_hour", "enrolled_last_week"),
    *("marital_status", "major_industry", "major_occupation", "race", "hispanic_origin", "sex", "union_member"),
    *("reason_for_unemployment", "employment_status", "capital_gains", "capital_losses", "dividends", "tax_filer"),
    *("previous_region", "previous_state", "household_detail", "household_summary", "instance_weight"),
    *("migration_msa", "migration_region", "migration_within_region", "same_house_last_year", "migration_sunbelt"),
    *("num_employed", "parents_of_under_18", "father_born_in", "mother_born_in", "born_in", "citizenship"),
    *("self_employed", "veterans_questionnaire", "veterans_benefits", "weeks_worked", "year", "income"),
)
"""Of all columns, in the order of the file."""

TARGETS = (
    TargetColumn(name="income", kind=TaskKind.BINARY, classes=("- 50000.", "50000+.")),
    TargetColumn(name="never_married", kind=TaskKind.BINARY, classes=("not Never married", "Never married")),
    TargetColumn(name="weeks_worked", kind=TaskKind.REGRESSION),
)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The parsed file, and what was learnt of it."""

    encoding: TableEncoding
    inputs: tuple[Tensor, ...]
    targets: Mapping[str, Tensor]


CensusStem = TableStem  # models that were saved under this name find their class here


def census_income(
    *, hidden: Sequence[int] = (128, 64), embedding_dim: int = 4, dropout: float = 0.0
) -> InMemoryProblem:
    """The problem. Its parameters are described in the catalogue."""
    table = _load()
    codec = ColumnCodec(encoding=table.encoding, hidden=tuple(hidden), embedding_dim=embedding_dim, dropout=dropout)
    return in_memory_problem(table.inputs, table.targets, tasks=codec.tasks, model=codec.build_model, codec=codec)


@functools.lru_cache(maxsize=1)
def _load() -> _Table:
    """Parse the file once a process; the tensors are never written to (splits are copies)."""
    source = resources.files("trainables") / "data" / "census20k.csv.gz"
    with source.open("rb") as file, gzip.open(file, "rt", encoding="utf-8", newline="") as text:
        columns = list(zip(*csv.reader(text, skipinitialspace=True), strict=True))
    if len(columns) != NUM_COLUMNS:
        raise ValueError(f"the census file has {len(columns)} columns, not {NUM_COLUMNS}")
    train_rows = split_rows(len(columns[AGE]))[0].tolist()
    texts = {column: columns[column] for column in CATEGORICAL}
    values = {column: _numbers(columns[column]) for column in CONTINUOUS}
    encoding = TableEncoding(
        categories=tuple(
            CategoryColumn.fitted(COLUMN_NAMES[column], cells, train_rows) for column, cells in texts.items()
        ),
        numbers=tuple(
            NumberColumn.fitted(COLUMN_NAMES[column], values_B, train_rows, is_log=column in MONEY)
            for column, values_B in values.items()
        ),
        targets=TARGETS,
        positions=COLUMN_NAMES,
    )
    return _Table(
        encoding=encoding,
        inputs=encoding.encoded(list(texts.values()), list(values.values()), num_rows=len(columns[AGE])),
        targets={
            "income": torch.tensor([float(cell.startswith("50000+")) for cell in columns[INCOME]]),
            "never_married": torch.tensor([float(cell.strip() == "Never married") for cell in columns[MARITAL_STATUS]]),
            "weeks_worked": _numbers(columns[WEEKS_WORKED]).float(),
        },
    )


def _numbers(cells: Sequence[str]) -> Tensor:
    return torch.tensor([float(cell) for cell in cells], dtype=torch.float64)
