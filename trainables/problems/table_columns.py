"""Columns of a user's table as inputs and targets.

Shapes: B rows, C categorical columns, F numeric columns (with an indicator for each that has missing values).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from trainables.catalog import METRICS_OF_KIND, TaskKind
from trainables.losses import poisson_deviance
from trainables.metrics import auc, binary_accuracy, mae, multiclass_accuracy, rmse
from trainables.problems.encoding import Categories, encode_categories, standardise
from trainables.problems.table_file import DataError
from trainables.protocol import Task

if TYPE_CHECKING:
    import pandas as pd

MISSING = ""  # what a missing category is as a text: a category of its own, and the same as an empty one
MAX_CLASSES = 1000
LARGEST, SMALLEST = 1e15, 1e-15  # of a target's spread: its square must fit float32
_YES, _NO = ("1", "true"), ("0", "false")  # a binary column of these needs no word on which is which


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a network sees of a table, fitted to the training split."""

    categories: Categories | None  # None: there is no categorical column
    numeric_BF: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """In the order in which the network takes them."""
        return (self.numeric_BF,) if self.categories is None else (self.categories.codes_BC, self.numeric_BF)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A task's column, ready to be learnt. The head's output is ``scale`` · (what its last layer gives) + ``shift``."""

    task: Task
    values: Tensor  # (B,)
    shift: float = 0.0
    scale: float = 1.0

    @property
    def num_outputs(self) -> int:
        """As many as classes; 0: one, without a dimension of its own."""
        return self.task.num_classes if self.task.kind == TaskKind.MULTICLASS else 0


def encode_inputs(table: pd.DataFrame, categorical: Sequence[str], train_rows: Sequence[int]) -> Inputs:
    """All columns of the table: texts and those listed as categories, all else as numbers.

    Raises:
        DataError: a column is neither, is infinite somewhere, or looks like an identifier of the rows.
    """
    texts: list[Sequence[str]] = []
    numbers: list[Tensor] = []
    indicators: list[Tensor] = []
    for name in table.columns:
        column = cast("pd.Series", table[name])
        if name in categorical or _is_text(column):
            cells = as_texts(column)
            _refuse_identifier(name, [cells[row] for row in train_rows])
            texts.append(cells)
            continue
        values_B = _numbers(name, column)
        numbers.append(values_B)
        if bool(values_B.isnan().any()):
            indicators.append(values_B.isnan().float())
    num_rows = len(table)
    standard = standardise(numbers, train_rows) if numbers else torch.zeros(num_rows, 0)
    return Inputs(
        categories=encode_categories(texts, train_rows) if texts else None,
        numeric_BF=torch.cat([standard, *(indicator_B.unsqueeze(1) for indicator_B in indicators)], dim=1),
    )


def encode_target(name: str, description: Mapping[str, str], column: pd.Series, train_rows: Sequence[int]) -> Target:
    """A task's column, without missing values, as its kind asks for.

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


def as_texts(column: pd.Series) -> list[str]:
    """Each cell as a text; whole numbers without a fraction, so that a column reads the same with a missing value in it
    and without.
    """
    return [_as_text(value, missing) for value, missing in zip(column.tolist(), column.isna().tolist(), strict=True)]


def _as_text(value: Any, missing: bool) -> str:
    if missing:
        return MISSING
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


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
    return True


def _numbers(name: str, column: pd.Series) -> Tensor:
    """A numeric or boolean column in float64, NaN where a value is missing."""
    from pandas.api import types

    is_real = types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype)
    if not is_real and not types.is_bool_dtype(column.dtype):
        raise DataError(f"{name}: its type, {column.dtype}, is no number and no text; list it in drop, or convert it")
    values_B = torch.from_numpy(column.to_numpy(dtype="float64", na_value=math.nan, copy=True))
    if bool(values_B.isinf().any()):
        raise DataError(f"{name} is infinite in some row; replace that value, or leave the cell empty")
    return values_B


def _refuse_identifier(name: str, train_cells: Sequence[str]) -> None:
    num_different = len(set(train_cells))
    if num_different > max(100, len(train_cells) // 2):
        raise DataError(
            f"column {name!r} has {num_different} different texts in {len(train_cells)} training rows: it looks like "
            f"an identifier or free text, from which nothing can be learnt; list it in drop"
        )


def _binary(name: str, what: str, column: pd.Series, positive: str | None, train_rows: Sequence[int]) -> Target:
    cells = as_texts(column)
    found = sorted(set(cells))
    shown = ", ".join(map(repr, found[:5])) + (", ..." if len(found) > 5 else "")
    if positive is None:
        if not {cell.lower() for cell in found} <= {*_YES, *_NO}:
            raise DataError(f"{what} has the values {shown}: say which one is 1, such as positive: {found[-1]!r}")
        is_positive = [cell.lower() in _YES for cell in cells]
    elif positive not in found:
        raise DataError(f"{what} never has the positive value {positive!r}; it has {shown}")
    else:
        is_positive = [cell == positive for cell in cells]
    if len({is_positive[row] for row in train_rows}) < 2:
        raise DataError(f"{what} has one class only in the training rows; a binary task needs both")
    loss = functional.binary_cross_entropy_with_logits
    values_B = torch.tensor(is_positive, dtype=torch.float32)
    return Target(task=_task(name, TaskKind.BINARY, loss, num_classes=2), values=values_B)


def _multiclass(name: str, what: str, column: pd.Series, train_rows: Sequence[int]) -> Target:
    cells = as_texts(column)
    classes = sorted(set(cells))
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{what} has {len(classes)} different values, at most {MAX_CLASSES} can be classes")
    if len({cells[row] for row in train_rows}) < 2:
        raise DataError(f"{what} has one class only in the training rows; at least two are needed")
    number = {value: index for index, value in enumerate(classes)}
    values_B = torch.tensor([number[cell] for cell in cells])
    task = _task(name, TaskKind.MULTICLASS, functional.cross_entropy, num_classes=len(classes))
    return Target(task=task, values=values_B)


def _regression(name: str, what: str, values_B: Tensor, train_rows: Sequence[int]) -> Target:
    fitted = values_B[train_rows]
    spread = fitted.std().item()
    if spread <= 1e-12 * fitted.abs().max().item():
        raise DataError(f"{what} has the same value in every training row; nothing can be learnt from it")
    if not SMALLEST < spread < LARGEST or values_B.abs().max().item() > LARGEST:
        raise DataError(f"{what} has values that do not fit single precision; give it in another unit")
    task = _task(name, TaskKind.REGRESSION, functional.mse_loss)
    return Target(task=task, values=values_B.float(), shift=fitted.mean().item(), scale=spread)


def _count(name: str, what: str, values_B: Tensor, train_rows: Sequence[int]) -> Target:
    if bool(((values_B < 0) | (values_B != values_B.round())).any()):
        raise DataError(f"{what} is a count, so it must be whole numbers from 0 on; take kind: regression")
    if values_B.max().item() > 2**24:
        raise DataError(f"{what} has counts above {2**24}, which single precision cannot hold; take kind: regression")
    fitted = values_B[train_rows]
    if bool((fitted == fitted[0]).all()):
        raise DataError(f"{what} has the same value in every training row; nothing can be learnt from it")
    task = _task(name, TaskKind.COUNT, poisson_deviance)
    return Target(task=task, values=values_B.float(), shift=fitted.mean().log().item())


def _task(name: str, kind: TaskKind, loss: Callable[[Tensor, Tensor], Tensor], *, num_classes: int = 0) -> Task:
    metrics = {metric: _METRICS[kind, metric] for metric in METRICS_OF_KIND[kind]}
    return Task(name=name, kind=kind, loss=loss, metrics=metrics, num_classes=num_classes)


def _of_rate(metric: Callable[[Tensor, Tensor], Tensor], log_rates_B: Tensor, counts_B: Tensor) -> Tensor:
    return metric(log_rates_B.exp(), counts_B)


_METRICS: Mapping[tuple[TaskKind, str], Callable[[Tensor, Tensor], Tensor]] = {
    (TaskKind.BINARY, "auc"): auc,
    (TaskKind.BINARY, "accuracy"): binary_accuracy,
    (TaskKind.MULTICLASS, "accuracy"): multiclass_accuracy,
    (TaskKind.REGRESSION, "rmse"): rmse,
    (TaskKind.REGRESSION, "mae"): mae,
    (TaskKind.COUNT, "rmse"): partial(_of_rate, rmse),
    (TaskKind.COUNT, "mae"): partial(_of_rate, mae),
}
