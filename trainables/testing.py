"""A tiny problem for tests: trains in milliseconds, and fails on request in each of the ways a trial can fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.metrics import auc, binary_accuracy, rmse
from trainables.problems.tabular import InMemoryProblem, in_memory_problem, shared_bottom_model
from trainables.protocol import Task

NUM_ROWS, NUM_FEATURES, DATA_SEED = 80, 5, 1711

Fault = Literal["none", "nan", "crash", "out_of_memory", "zero_initial_loss"]


def tiny_problem(
    *,
    num_tasks: int = 2,
    hidden: Sequence[int] = (8, 6),
    dropout: float = 0.0,
    fault: Fault = "none",
    fault_at: int = 1,
) -> InMemoryProblem:
    """Tasks ``task_0`` (regression), ``task_1`` (binary), ``task_2`` (regression), ..., of growing scale.

    ``fault`` strikes in the loss of the last task, at its ``fault_at``-th call in training (counted from 1, over all
    lanes that use this very object); validation is left alone. A step of lanes that are trained together is one call;
    before their first, there is one for each of them and one for all.
    """
    generator = torch.Generator().manual_seed(DATA_SEED)
    inputs_BF = torch.randn(NUM_ROWS, NUM_FEATURES, generator=generator, dtype=torch.float64).float()
    tasks, targets = [], {}
    for index in range(num_tasks):
        direction_F = torch.randn(NUM_FEATURES, generator=generator)
        score_B = torch.tanh(inputs_BF @ direction_F)
        name = f"task_{index}"
        loss = functional.binary_cross_entropy_with_logits if index % 2 else functional.mse_loss
        if index == num_tasks - 1 and fault != "none":
            loss = _FaultyLoss(loss, fault, fault_at)
        tasks.append(_task(name, index, loss))
        targets[name] = (score_B > 0).float() if index % 2 else (1 + 3 * index) * score_B
    return in_memory_problem(
        [inputs_BF],
        targets,
        tasks=tasks,
        model=partial(
            shared_bottom_model,
            stem=nn.Identity(),
            stem_width=NUM_FEATURES,
            hidden=tuple(hidden),
            heads={task.name: 0 for task in tasks},
            dropout=dropout,
        ),
    )


def _task(name: str, index: int, loss: Callable[[Tensor, Tensor], Tensor]) -> Task:
    if index % 2:
        metrics = {"auc": auc, "accuracy": binary_accuracy}
        return Task(name=name, kind=TaskKind.BINARY, loss=loss, metrics=metrics, num_classes=2)
    return Task(name=name, kind=TaskKind.REGRESSION, loss=loss, metrics={"rmse": rmse})


class _FaultyLoss:
    """A loss that works until its ``fault_at``-th call with gradients."""

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], fault: Fault, fault_at: int) -> None:
        self._loss = loss
        self._fault = fault
        self._fault_at = fault_at
        self._calls = 0

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        value = self._loss(output, target)
        if not torch.is_grad_enabled():  # within vmap no tensor says that it requires a gradient
            return value
        self._calls += 1
        if self._calls < self._fault_at:
            return value
        if self._fault == "crash":
            raise ZeroDivisionError("the loss of a test divides by zero")
        if self._fault == "out_of_memory":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 TB")
        return value * (float("nan") if self._fault == "nan" else 0.0)
