"""A table of a user's own, read from the file that a spec names, and the parts of the data that its rows go to."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from trainables.problems.tabular import TRAIN_SHARE, VALIDATION_SHARE, split_rows

if TYPE_CHECKING:
    import pandas as pd

DATA_ROOTS = "SWEEP_DATA_ROOTS"
FORMS = (".csv", ".csv.gz", ".parquet")  # of files with tables, by the endings of their names
MIN_ROWS = 50  # below, a split of 20 % says nothing
SPLIT_NAMES = ("train", "validation", "test")


class DataError(ValueError):
    """The data cannot be what the spec says it is. The message names the column and the way out."""


def data_roots() -> tuple[Path, ...]:
    """The folders whose files a spec may name here: SWEEP_DATA_ROOTS, absolute paths with ':' in between.

    Read where the data is, in the process that trains: nodes may keep it in different places. None by default, since a
    spec comes from outside, and this process may be able to read much that is nobody's data.
    """
    return tuple(Path(root).resolve() for root in os.environ.get(DATA_ROOTS, "").split(os.pathsep) if root)


def find_file(data: str, roots: Sequence[Path]) -> Path:
    """The file that ``data`` names, links followed; a relative path is looked up in one root after another.

    Raises:
        DataError: it is outside of the roots, or is no file, or there are no roots.
    """
    if not roots:
        raise DataError(
            f"data: no file may be read here: {DATA_ROOTS}, the folders that data may come from, is not set"
        )
    if "://" in data:
        raise DataError(f"data: {data!r} is a URL; only the path of a file in {DATA_ROOTS} can be read")
    inside = [path for root in roots if (path := (root / data).resolve()).is_relative_to(root)]
    if not inside:
        raise DataError(f"data: {data!r} is outside of {DATA_ROOTS} ({_listed(map(str, roots))})")
    found = next((path for path in inside if path.is_file()), None)
    if found is None:
        raise DataError(f"data: there is no file {data!r} in {DATA_ROOTS} ({_listed(map(str, roots))}) on this machine")
    return found


def read_table(path: Path) -> pd.DataFrame:
    """The table in a file, by its name's ending.

    Raises:
        DataError: it has another ending, cannot be read as what its ending says, or has a column's name twice.
    """
    form = table_form(path.name)
    if form is None:
        raise DataError(f"data: {path.name!r} must end in {_listed(FORMS)}")
    try:
        with path.open("rb") as file:
            return parse_table(file, form)
    except (DataError, OSError) as error:
        raise DataError(f"data: {path.name!r} cannot be read: {error}") from error


def table_form(name: str) -> str | None:
    """Which of FORMS a file's name ends in."""
    return next((form for form in FORMS if name.lower().endswith(form)), None)


def parse_table(file: BinaryIO, form: str, **csv_options: Any) -> pd.DataFrame:
    """The table in an open file of that form. ``csv_options`` are pandas' own, for CSV.

    Raises:
        DataError: it cannot be read as what it is said to be, or has a column's name twice.
    """
    import pandas as pd  # takes a second to import, and only a table needs it

    try:
        if form == ".parquet":
            table = pd.read_parquet(file, engine="pyarrow")
        else:
            compression = "gzip" if form.endswith(".gz") else None
            # By itself pandas would take the first field of rows that are longer than the header for their names.
            options: dict[str, Any] = {"skipinitialspace": True, "low_memory": False, "index_col": False, **csv_options}
            with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
                table = pd.read_csv(file, compression=compression, **options)
    except Warning as warning:
        raise DataError("its rows have more fields than its first line has names") from warning
    except Exception as error:
        raise DataError(str(error).strip()) from error
    names = [str(column) for column in table.columns]
    table.columns = names
    if len(set(names)) < len(names):
        raise DataError("two columns have the same name")
    for column in table.columns:
        if pd.api.types.is_object_dtype(table[column].dtype) and pd.api.types.infer_dtype(table[column]) == "decimal":
            table[column] = table[column].astype(float)  # a Parquet type, and no number to NumPy
    return table.reset_index(drop=True)


def require_columns(table: pd.DataFrame, names: Iterable[str], *, what: str) -> None:
    """Refuse a name that is no column.

    Raises:
        DataError: names it, the nearest ones, and the parameter (``what``) that asks for it.
    """
    columns = list(table.columns)
    for name in names:
        if name not in columns:
            raise DataError(f"{what}: the data has no column {name!r}; {hint_at(name, columns)}")


def hint_at(name: str, columns: Sequence[str]) -> str:
    """What may have been meant by a name that is no column's."""
    close = difflib.get_close_matches(name, columns, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {_listed(map(repr, columns))}"


def split_of_rows(table: pd.DataFrame, *, split: str, split_column: str) -> tuple[Tensor, Tensor, Tensor]:
    """Row numbers of train, validation and test: disjoint, together all rows.

    Raises:
        DataError: too few rows, or a split column that is missing, leaves a split empty or says something else.
    """
    num_rows = len(table)
    if num_rows < MIN_ROWS:
        raise DataError(f"data: {num_rows} rows are too few to split and learn from; at least {MIN_ROWS} are needed")
    if split != "column":
        if split_column:
            raise DataError("split_column: it is read with split: column only; set that, or leave it out")
        if split == "random":
            return split_rows(num_rows)
        first, second = int(num_rows * TRAIN_SHARE), int(num_rows * (TRAIN_SHARE + VALIDATION_SHARE))
        rows = torch.arange(num_rows)
        return rows[:first], rows[first:second], rows[second:]
    require_columns(table, [split_column], what="split_column")
    names = table[split_column].astype(object)
    others = sorted({str(value) for value in names[~names.isin(SPLIT_NAMES)]})
    if others:
        raise DataError(f"split_column: {split_column!r} must say {_listed(SPLIT_NAMES)}, not {_listed(others)}")
    train, validation, test = (torch.tensor((names == name).to_numpy().nonzero()[0]) for name in SPLIT_NAMES)
    for name, rows in zip(SPLIT_NAMES, (train, validation, test), strict=True):
        if len(rows) == 0:
            raise DataError(f"split_column: {split_column!r} gives no row to {name}")
    return train, validation, test


def _listed(words: Iterable[str], most: int = 12) -> str:
    all_words = list(words)
    return ", ".join(all_words[:most]) + (", ..." if len(all_words) > most else "")
