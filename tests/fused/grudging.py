"""A layer that is told how many lanes go through it, and may take time, or memory that is not there, accordingly."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from networks import model_of, problem_of, smooth_trunk
from torch import Tensor, nn

from trainables.problems.tabular import InMemoryProblem

# Called with the number of lanes at every pass forward in training.
OnLanes = Callable[[int], None]


class _Told(torch.autograd.Function):
    """The identity. Over lanes torch calls ``vmap`` with all of them."""

    @staticmethod
    def forward(x: Tensor, on_lanes: OnLanes) -> Tensor:
        on_lanes(1)
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, on_lanes: OnLanes) -> tuple[Tensor, int]:  # pyright: ignore
        on_lanes(info.batch_size)
        return _Identity.apply(x), in_dims[0]


class _Identity(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Grudging(nn.Module):
    def __init__(self, on_lanes: OnLanes) -> None:
        super().__init__()
        self.on_lanes = on_lanes

    def forward(self, x: Tensor) -> Tensor:
        return _Told.apply(x, self.on_lanes) if self.training else x


def grudging_problem(on_lanes: OnLanes) -> InMemoryProblem:
    return problem_of(lambda: model_of(nn.Sequential(smooth_trunk(), Grudging(on_lanes))))


class Calls:
    """Counts the passes of more than ``most`` lanes, and raises at the one with the number ``at``, counted from 1."""

    def __init__(self, error: Callable[[], Exception], *, most: int, at: int = 1) -> None:
        self._error, self._most, self._at = error, most, at
        self.seen = 0

    def __deepcopy__(self, memo: Any) -> Calls:
        return self  # one for all copies of a layer

    def __call__(self, num_lanes: int) -> None:
        if num_lanes > self._most:
            self.seen += 1
            if self.seen >= self._at:
                raise self._error()


def seconds_of(seconds: Callable[[int], float]) -> OnLanes:
    """Be busy for so long, by the number of lanes."""

    def be_busy(num_lanes: int) -> None:
        until = time.perf_counter() + seconds(num_lanes)
        while time.perf_counter() < until:
            pass

    return be_busy
