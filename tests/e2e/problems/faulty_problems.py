"""A problem that fails as it is told: NaN, an exception, a killed process, or just slow."""
# ruff: noqa: T201

import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from trainables.catalog import TaskKind
from trainables.problems.tabular import InMemoryProblem, hash_splits, split_rows, take_rows
from trainables.protocol import MultiTaskModel, Task


class Trunk(nn.Module):
    """Counts its training passes and does at one of them what it was built for."""

    def __init__(self, fault: str, at_step: int, delay_ms: float) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 8)
        self.passes = 0
        self.fault, self.at_step, self.delay_s = fault, at_step, delay_ms / 1000

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.passes += 1
            time.sleep(self.delay_s)
            if self.passes == self.at_step:
                self._fail()
        hidden = torch.relu(self.layer(inputs))
        return hidden * float("nan") if self.fault == "nan" and self.passes >= self.at_step else hidden

    def _fail(self) -> None:
        if self.fault == "raise":
            warnings.warn("about to raise", stacklevel=1)
            raise ValueError("the trunk was told to raise")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)


def faulty(*, fault: str, at_step: int, delay_ms: float) -> InMemoryProblem:
    print(f"what will go wrong: {fault}")
    print(f"GPUs that can be seen: {os.environ.get('CUDA_VISIBLE_DEVICES')}")
    logging.getLogger("faulty").info("%d rows", 400)
    return _problem(lambda: Trunk(fault, at_step, delay_ms))


def normalised() -> InMemoryProblem:
    """Whose network keeps running statistics, as no batched one can."""
    return _problem(lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()))


def _problem(trunk: Callable[[], nn.Module]) -> InMemoryProblem:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(400, 4, generator=generator)
    targets: Mapping[str, Tensor] = {"near": inputs.sum(1), "far": 100 * inputs.prod(1)}
    train, validation, test = (take_rows((inputs,), targets, rows) for rows in split_rows(len(inputs)))
    return InMemoryProblem(
        tasks=tuple(Task(name=name, kind=TaskKind.REGRESSION, loss=_squared) for name in targets),
        train=train,
        validation=validation,
        test=test,
        data_hash=hash_splits([train, validation, test]),
        model=lambda: MultiTaskModel(
            trunk=trunk(), shared_layer=nn.Linear(8, 8), heads={name: nn.Linear(8, 1) for name in targets}
        ),
    )


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return mse_loss(output.squeeze(-1), target)
