"""A task's column of a table: how it is learnt, and how the network's answers are read again.

Shapes: B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from trainables.catalog import METRICS_OF_KIND, TaskKind
from trainables.losses import poisson_deviance
from trainables.metrics import auc, binary_accuracy, mae, multiclass_accuracy, rmse
from trainables.protocol import Task


@dataclass(frozen=True, kw_only=True)
class TargetColumn:
    """What is known of a task's column. The head's output is ``scale`` · (what its last layer gives) + ``shift``."""

    name: str  # the task's
    kind: TaskKind
    classes: tuple[str, ...] = ()  # binary: of 0 and of 1; multiclass: of each output; as the file has them
    shift: float = 0.0
    scale: float = 1.0

    @property
    def task(self) -> Task:
        """The task as the engine trains it."""
        metrics = {metric: _METRICS[self.kind, metric] for metric in METRICS_OF_KIND[self.kind]}
        return Task(
            name=self.name, kind=self.kind, loss=_LOSSES[self.kind], metrics=metrics, num_classes=len(self.classes)
        )

    @property
    def num_outputs(self) -> int:
        """As many as classes; 0: one, without a dimension of its own."""
        return len(self.classes) if self.kind == TaskKind.MULTICLASS else 0

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The columns of :meth:`answers`, in their order."""
        if self.kind == TaskKind.BINARY:
            return (self.name, f"{self.name}.p")
        if self.kind == TaskKind.MULTICLASS:
            return (self.name, *(f"{self.name}.p.{label}" for label in self.classes))
        return (self.name,)

    def answers(self, output: Tensor) -> Mapping[str, Sequence[str] | Tensor]:
        """What a person reads of the task's output, by column, each (B,).

        Binary: the class, and ``<task>.p``, the probability of the one that is 1. Multiclass: the likeliest class, and
        ``<task>.p.<class>``. Regression: the number in the column's unit. Count: the rate.
        """
        if self.kind == TaskKind.BINARY:
            classes = [self.classes[is_one] for is_one in (output > 0).tolist()]
            columns: Sequence[Sequence[str] | Tensor] = (classes, torch.sigmoid(output))
        elif self.kind == TaskKind.MULTICLASS:
            classes = [self.classes[index] for index in output.argmax(dim=-1).tolist()]
            columns = (classes, *torch.softmax(output, dim=-1).unbind(dim=-1))
        else:
            columns = (output.exp() if self.kind == TaskKind.COUNT else output,)
        return dict(zip(self.answer_columns, columns, strict=True))


def _of_rate(metric: Callable[[Tensor, Tensor], Tensor], log_rates_B: Tensor, counts_B: Tensor) -> Tensor:
    return metric(log_rates_B.exp(), counts_B)


_LOSSES: Mapping[TaskKind, Callable[[Tensor, Tensor], Tensor]] = {
    TaskKind.BINARY: functional.binary_cross_entropy_with_logits,
    TaskKind.MULTICLASS: functional.cross_entropy,
    TaskKind.REGRESSION: functional.mse_loss,
    TaskKind.COUNT: poisson_deviance,
}
_METRICS: Mapping[tuple[TaskKind, str], Callable[[Tensor, Tensor], Tensor]] = {
    (TaskKind.BINARY, "auc"): auc,
    (TaskKind.BINARY, "accuracy"): binary_accuracy,
    (TaskKind.MULTICLASS, "accuracy"): multiclass_accuracy,
    (TaskKind.REGRESSION, "rmse"): rmse,
    (TaskKind.REGRESSION, "mae"): mae,
    (TaskKind.COUNT, "rmse"): partial(_of_rate, rmse),
    (TaskKind.COUNT, "mae"): partial(_of_rate, mae),
}
