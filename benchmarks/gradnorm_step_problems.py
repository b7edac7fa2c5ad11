"""The networks on which a step is timed. What they learn does not matter here, only what a step of them costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.problems.tabular import InMemoryProblem, in_memory_problem
from trainables.problems.toy_regression import toy_regression
from trainables.protocol import MultiTaskModel, Task

CHANNELS, SIDE, CLASSES = 3, 16, 10
DATA_SEED = 1711


def convnet(*, num_tasks: int, rows: int) -> InMemoryProblem:
    """Pictures of noise, 3 × 16 × 16, ten classes a task: three 3 × 3 convolutions, each followed by ReLU and pooling,
    then a fourth, which is the shared layer; a head is ReLU and one linear map.
    """
    generator = torch.Generator().manual_seed(DATA_SEED)
    pictures = torch.randn(rows, CHANNELS, SIDE, SIDE, generator=generator)
    names = [f"task_{index}" for index in range(num_tasks)]
    tasks = tuple(
        Task(name=name, kind=TaskKind.MULTICLASS, loss=functional.cross_entropy, num_classes=CLASSES) for name in names
    )
    targets = {name: torch.randint(CLASSES, (rows,), generator=generator) for name in names}
    return in_memory_problem([pictures], targets, tasks=tasks, model=lambda: _convnet_model(names))


def _convnet_model(names: list[str]) -> MultiTaskModel:
    layers: list[nn.Module] = []
    for before, after in ((CHANNELS, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    numbers = 64 * (SIDE // 8) ** 2  # three times halved
    return MultiTaskModel(
        trunk=nn.Sequential(*layers),
        shared_layer=nn.Conv2d(64, 64, 3, padding=1),
        heads={name: nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(numbers, CLASSES)) for name in names},
    )


def mlp(*, num_tasks: int, rows: int) -> InMemoryProblem:
    """The toy of the paper's §4: 250 inputs, four hidden layers of 100, the last of them shared, 100 outputs a task."""
    return toy_regression(num_tasks=num_tasks, rows=rows)


PROBLEMS: Mapping[str, Callable[..., InMemoryProblem]] = {"mlp": mlp, "convnet": convnet}
