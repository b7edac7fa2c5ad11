"""Small problems that differ in the kind of their shared layer, in float64, all of them smooth: a ReLU that is about to
switch would turn rounding into another path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.problems.tabular import InMemoryProblem, in_memory_problem
from trainables.protocol import MultiTaskModel, Task

NUM_ROWS, SIDE = 90, 5  # rows; height and width of an image
WIDTH = 6


class Scaled(nn.Module):
    """A layer with a parameter of its own beside those of a module inside it, and a bias that some tasks never use."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, WIDTH))
        self.inner = nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return self.scale * self.inner(h)


def _linear() -> MultiTaskModel:
    return _model(_flat_trunk(), nn.Linear(WIDTH, WIDTH), width=WIDTH)


def _convolution() -> MultiTaskModel:
    trunk = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh())
    return _model(trunk, nn.Conv2d(3, 2, 2), width=2 * (SIDE - 3) ** 2)


def _block() -> MultiTaskModel:
    block = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Tanh(), Scaled())
    return _model(_flat_trunk(), block, width=WIDTH)


def _flat_trunk() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, WIDTH), nn.Tanh())


def _model(trunk: nn.Module, shared_layer: nn.Module, *, width: int) -> MultiTaskModel:
    # All heads; a problem of fewer tasks takes the first ones.
    heads = {f"task_{i}": nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(width, 2)) for i in range(10)}
    return MultiTaskModel(trunk=trunk, shared_layer=shared_layer, heads=heads)


SHARED_LAYERS: dict[str, Callable[[], MultiTaskModel]] = {
    "Linear": _linear,
    "Conv2d": _convolution,
    "block of several parameters": _block,
}


def layer_problem(shared_layer: str, num_tasks: int, order: Sequence[int] | None = None) -> InMemoryProblem:
    """Tasks of scales from 1 to 2^(T−1) (at most 64) over images; with ``order`` the same tasks in another order."""
    generator = torch.Generator().manual_seed(20180710)
    images = torch.randn(NUM_ROWS, 1, SIDE, SIDE, generator=generator, dtype=torch.float64)
    targets = {}
    for index in range(num_tasks):
        direction = torch.randn(SIDE * SIDE, 2, generator=generator, dtype=torch.float64)
        targets[f"task_{index}"] = min(2.0**index, 64.0) * torch.tanh(images.flatten(1) @ direction)
    names = [f"task_{index}" for index in order or range(num_tasks)]

    def build() -> MultiTaskModel:
        model = SHARED_LAYERS[shared_layer]()
        model.heads = nn.ModuleDict({name: model.heads[name] for name in names})
        return model

    return in_memory_problem(
        [images],
        {name: targets[name] for name in names},
        tasks=[Task(name=name, kind=TaskKind.REGRESSION, loss=functional.mse_loss) for name in names],
        model=build,
    )
