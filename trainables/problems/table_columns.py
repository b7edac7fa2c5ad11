"""Columns of a user's table as inputs and targets: what is learnt of them, and their cells as texts and numbers.

Shapes: B rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from trainables.catalog import TaskKind
from trainables.problems.encoding import CategoryColumn, Cells, NumberColumn
from trainables.problems.table_file import DataError
from trainables.problems.targets import TargetColumn

if TYPE_CHECKING:
    import pandas as pd

MISSING = ""  # what a missing category is as a text: a category of its own, and the same as an empty one
MAX_CLASSES = 1000
LARGEST, SMALLEST = 1e15, 1e-15  # of a target's spread: its square must fit float32
_YES, _NO = ("1", "true"), ("0", "false")  # a binary column of these needs no word on which is which


def fit_inputs(
    table: pd.DataFrame, categorical: Sequence[str], train_rows: Sequence[int]
) -> tuple[tuple[CategoryColumn, ...], tuple[NumberColumn, ...]]:
    """All columns of the table as their training rows show them: texts and those listed as categories, all else as
    numbers. A column of numbers that lacks some, in whichever rows, gets an indicator.

    Raises:
        DataError: a column is neither, is infinite somewhere, or looks like an identifier of the rows.
    """
    categories: list[CategoryColumn] = []
    numbers: list[NumberColumn] = []
    for name in table.columns:
        column = cast("pd.Series", table[name])
        if name in categorical or _is_text(column):
            kind = _kind_of_cells(column)
            cells = as_texts(column, kind)
            _refuse_identifier(name, [cells[row] for row in train_rows])
            categories.append(CategoryColumn.fitted(name, cells, train_rows, kind=kind))
            continue
        values_B = _numbers(name, column)
        has_indicator = bool(values_B.isnan().any())
        numbers.append(NumberColumn.fitted(name, values_B, train_rows, has_indicator=has_indicator))
    return tuple(categories), tuple(numbers)


def fit_target(
    name: str, description: Mapping[str, str], column: pd.Series, train_rows: Sequence[int]
) -> tuple[TargetColumn, Tensor]:
    """A task's column, without missing values, as its kind asks for; and its values, (B,).

    Raises:
        DataError: the column cannot be what the task's kind says.
    """
    kind = TaskKind(description["kind"])
    what = f"task {name!r}: column {str(column.name)!r}"
    if kind == TaskKind.BINARY:
        return _binary(name, what, column, description.get("positive"), train_rows)
    if kind == TaskKind.MULTICLASS:
        return _multiclass(name, what, column, train_rows)
    if _is_text(column):
        example = next((text for text in as_texts(column) if not _is_number(text)), "")
        raise DataError(f"{what} holds texts such as {example!r}, but a {kind.value} needs numbers")
    values_B = _numbers(what, column)
    encode = _count if kind == TaskKind.COUNT else _regression
    return encode(name, what, values_B, train_rows)


def as_texts(column: pd.Series, kind: Cells = Cells.TEXTS) -> list[str]:
    """Each cell as a text; whole numbers without a fraction, so that a column reads the same with a missing value in it
    and without.
    """
    as_text = _AS_TEXT[kind]
    missing = column.isna().tolist()
    return [MISSING if is_missing else as_text(cell) for cell, is_missing in zip(column.tolist(), missing, strict=True)]


def as_numbers(column: pd.Series) -> Tensor:
    """Each cell as a number in float64, NaN where it is missing: numbers, booleans, and texts of either.

    Raises:
        DataError: a cell is none of these, or infinite; names its row, counted from 1.
    """
    if _is_real(column):
        values_B = _as_float64(column)
    else:
        missing = column.isna().tolist()
        cells = zip(column.tolist(), missing, strict=True)
        numbers = [math.nan if is_missing else _as_number(cell) for cell, is_missing in cells]
        if None in numbers:
            row = numbers.index(None)
            raise DataError(f"row {row + 1}: {column.name!s} is {column.iloc[row]!r}, not a number")
        values_B = torch.tensor(numbers, dtype=torch.float64)
    if bool((is_infinite_B := values_B.isinf()).any()):
        raise DataError(f"row {int(is_infinite_B.nonzero()[0]) + 1}: {column.name!s} is infinite")
    return values_B


def _as_text(cell: Any) -> str:
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


def _number_as_text(cell: Any) -> str:
    if not isinstance(cell, str):
        return _as_text(cell)
    text = cell.strip()
    if text.lstrip("-").isdecimal():
        return str(int(text))  # not by way of a float: it has 53 bits
    return _as_text(float(text)) if _is_number(text) else cell


def _boolean_as_text(cell: Any) -> str:
    text = str(cell)
    return text.capitalize() if text.lower() in ("true", "false") else _as_text(cell)


_AS_TEXT = {Cells.TEXTS: _as_text, Cells.NUMBERS: _number_as_text, Cells.BOOLEANS: _boolean_as_text}


def _as_number(cell: Any) -> float | None:
    """None: it is not one."""
    text = str(cell).strip().lower()
    if text in ("", "true", "false"):
        return {"": math.nan, "true": 1.0, "false": 0.0}[text]
    return float(text) if _is_number(text) else None


def _kind_of_cells(column: pd.Series) -> Cells:
    kinds = {type(cell) for cell in column[column.notna()].tolist()}
    if kinds == {bool}:
        return Cells.BOOLEANS
    return Cells.NUMBERS if kinds and kinds <= {int, float} else Cells.TEXTS


def _is_text(column: pd.Series) -> bool:
    from pandas.api import types

    return (
        types.is_object_dtype(column.dtype)
        or types.is_string_dtype(column.dtype)
        or isinstance(column.dtype, types.CategoricalDtype)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # Python's own way of writing 1_000


def _numbers(name: str, column: pd.Series) -> Tensor:
    """A numeric or boolean column in float64, NaN where a value is missing."""
    if not _is_real(column):
        raise DataError(f"{name}: its type, {column.dtype}, is no number and no text; list it in drop, or convert it")
    values_B = _as_float64(column)
    if bool(values_B.isinf().any()):
        raise DataError(f"{name} is infinite in some row; replace that value, or leave the cell empty")
    return values_B


def _is_real(column: pd.Series) -> bool:
    """Numbers or booleans by the column's type."""
    from pandas.api import types

    is_number = types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype)
    return is_number or types.is_bool_dtype(column.dtype)


def _as_float64(column: pd.Series) -> Tensor:
    return torch.from_numpy(column.to_numpy(dtype="float64", na_value=math.nan, copy=True))


def _refuse_identifier(name: str, train_cells: Sequence[str]) -> None:
    num_different = len(set(train_cells))
    if num_different > max(100, len(train_cells) // 2):
        raise DataError(
            f"column {name!r} has {num_different} different texts in {len(train_cells)} training rows: it looks like "
            f"an identifier or free text, from which nothing can be learnt; list it in drop"
        )


def _binary(
    name: str, what: str, column: pd.Series, positive: str | None, train_rows: Sequence[int]
) -> tuple[TargetColumn, Tensor]:
    cells = as_texts(column)
    found = sorted(set(cells))
    shown = ", ".join(map(repr, found[:5])) + (", ..." if len(found) > 5 else "")
    if positive is None:
        if not {cell.lower() for cell in found} <= {*_YES, *_NO}:
            raise DataError(f"{what} has the values {shown}: say which one is 1, such as positive: {found[-1]!r}")
        ones = [cell for cell in found if cell.lower() in _YES]
    elif positive not in found:
        raise DataError(f"{what} never has the positive value {positive!r}; it has {shown}")
    else:
        ones = [positive]
    is_positive = [cell in ones for cell in cells]
    if len({is_positive[row] for row in train_rows}) < 2:
        raise DataError(f"{what} has one class only in the training rows; a binary task needs both")
    zeros = [cell for cell in found if cell not in ones]
    negative = zeros[0] if positive is None or len(zeros) == 1 else f"not {positive}"
    target = TargetColumn(name=name, kind=TaskKind.BINARY, classes=(negative, ones[0]))
    return target, torch.tensor(is_positive, dtype=torch.float32)


def _multiclass(name: str, what: str, column: pd.Series, train_rows: Sequence[int]) -> tuple[TargetColumn, Tensor]:
    cells = as_texts(column)
    classes = sorted(set(cells))
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{what} has {len(classes)} different values, at most {MAX_CLASSES} can be classes")
    if len({cells[row] for row in train_rows}) < 2:
        raise DataError(f"{what} has one class only in the training rows; at least two are needed")
    number = {value: index for index, value in enumerate(classes)}
    target = TargetColumn(name=name, kind=TaskKind.MULTICLASS, classes=tuple(classes))
    return target, torch.tensor([number[cell] for cell in cells])


def _regression(name: str, what: str, values_B: Tensor, train_rows: Sequence[int]) -> tuple[TargetColumn, Tensor]:
    fitted = values_B[train_rows]
    spread = fitted.std().item()
    if spread <= 1e-12 * fitted.abs().max().item():
        raise DataError(f"{what} has the same value in every training row; nothing can be learnt from it")
    if not SMALLEST < spread < LARGEST or values_B.abs().max().item() > LARGEST:
        raise DataError(f"{what} has values that do not fit single precision; give it in another unit")
    target = TargetColumn(name=name, kind=TaskKind.REGRESSION, shift=fitted.mean().item(), scale=spread)
    return target, values_B.float()


def _count(name: str, what: str, values_B: Tensor, train_rows: Sequence[int]) -> tuple[TargetColumn, Tensor]:
    if bool(((values_B < 0) | (values_B != values_B.round())).any()):
        raise DataError(f"{what} is a count, so it must be whole numbers from 0 on; take kind: regression")
    if values_B.max().item() > 2**24:
        raise DataError(f"{what} has counts above {2**24}, which single precision cannot hold; take kind: regression")
    fitted = values_B[train_rows]
    if bool((fitted == fitted[0]).all()):
        raise DataError(f"{what} has the same value in every training row; nothing can be learnt from it")
    target = TargetColumn(name=name, kind=TaskKind.COUNT, shift=fitted.mean().log().item())
    return target, values_B.float()
