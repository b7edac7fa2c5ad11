"""Networks that cannot be trained as one, each for a reason of its own."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

import numpy as np
import torch
from networks import HEADS, NUM_FEATURES, WIDTH, Build, model_of, smooth_head, smooth_trunk
from torch import Tensor, nn
from torch.nn import functional

from trainables.protocol import MultiTaskModel


class Doing(nn.Module):
    """A layer, and what is done to its output."""

    def __init__(self, what: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer = nn.Linear(NUM_FEATURES, WIDTH)
        self.what = what

    def forward(self, x: Tensor) -> Tensor:
        return self.what(torch.tanh(self.layer(x)))


class Counting(nn.Module):
    """Counts its calls in a number, in a list or in a tensor, and lets them matter to nobody."""

    def __init__(self, start: object) -> None:
        super().__init__()
        self.calls = start

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.calls, list):
            self.calls.append(len(x))
        else:
            self.calls = self.calls + 1  # pyright: ignore[reportOperatorIssue]
        return x


class RunningMean(nn.Module):
    """Puts a new buffer in the place of the old one, and looks at it when it is asked, not when it trains."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
            return x
        return x - self.mean


class Constant(nn.Module):
    """A constant of its own for each seed, where no parameter and no buffer shows it."""

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x * self.value  # pyright: ignore[reportOperatorIssue]


class HiddenUse(nn.Module):
    """A head that uses a layer of the trunk without listing it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.unlisted = [layer]
        self.last = nn.Linear(WIDTH, 2)

    def forward(self, z: Tensor) -> Tensor:
        return self.last(torch.tanh(self.unlisted[0](z)))


def after_trunk(make: Callable[[], nn.Module]) -> Build:
    return lambda: model_of(nn.Sequential(smooth_trunk(), make()))


def doing(what: Callable[[Tensor], Tensor]) -> Build:
    return lambda: model_of(Doing(what))


def common_layer_of_heads() -> MultiTaskModel:
    layer = nn.Linear(WIDTH, 2)
    return model_of(heads={name: nn.Sequential(nn.Tanh(), layer) for name in HEADS})


def common_layer_of_trunk_and_head(*, is_listed: bool) -> MultiTaskModel:
    layer = nn.Linear(WIDTH, WIDTH)
    using = nn.Sequential(layer, nn.Linear(WIDTH, 2)) if is_listed else HiddenUse(layer)
    return model_of(nn.Sequential(smooth_trunk(), layer), heads={"one": smooth_head(), "two": using})


def with_hook_on_a_parameter() -> MultiTaskModel:
    model = model_of()
    next(model.trunk.parameters()).register_hook(lambda gradient: 0.5 * gradient)
    return model


def with_hook_after_a_gradient() -> MultiTaskModel:
    def shorten(parameter: Tensor) -> None:
        assert parameter.grad is not None
        parameter.grad.clamp_(-0.1, 0.1)

    model = model_of()
    next(model.trunk.parameters()).register_post_accumulate_grad_hook(shorten)
    return model


def by_chance_wider() -> MultiTaskModel:
    width = int(torch.randint(2, 2000, ()))
    return model_of(nn.Sequential(nn.Linear(NUM_FEATURES, width), nn.Tanh(), nn.Linear(width, WIDTH)))


def drawn() -> float:
    return float(torch.rand(()))


def _plus_noise(noise: Callable[[Tensor], Tensor]) -> Build:
    return doing(lambda h: h + 0.1 * noise(h))


# Of a network: how it is built, and what the reason says.
REFUSED: Mapping[str, tuple[Build, str]] = {
    "running statistics": (after_trunk(lambda: nn.BatchNorm1d(WIDTH)), "a step changes .*num_batches_tracked|running_"),
    "a buffer in the place of another": (after_trunk(RunningMean), "a step changes trunk.1.mean"),
    "a number read": (doing(lambda h: h * h.sum().item()), "torch.func cannot run them together.*item"),
    "a branch on data": (doing(lambda h: h if h.sum() > 0 else 2 * h), "torch.func cannot run them together.*control"),
    "noise of torch": (_plus_noise(torch.rand_like), "torch.func cannot run them together.*random"),
    "functional dropout": (doing(lambda h: functional.dropout(h, 0.3)), "torch.func cannot run them together.*random"),
    "dropout of channels": (after_trunk(lambda: nn.AlphaDropout(0.3)), "torch.func cannot run them together.*random"),
    "noise of NumPy": (_plus_noise(lambda h: h.new_tensor(np.random.normal())), "Python's or NumPy's random numbers"),
    "noise of Python": (_plus_noise(lambda h: h.new_tensor(random.random())), "Python's or NumPy's random numbers"),
    "calls counted in a number": (after_trunk(lambda: Counting(0)), "a step changes the attribute 'calls' of trunk.1"),
    "calls counted in a list": (after_trunk(lambda: Counting([])), "a step changes the attribute 'calls' of trunk.1"),
    "calls counted in a tensor": (
        after_trunk(lambda: Counting(torch.zeros(()))),
        "a step changes the attribute 'calls' of trunk.1",
    ),
    "heads with a layer in common": (common_layer_of_heads, "one and two have a parameter in common"),
    "a head with a layer of the trunk": (
        lambda: common_layer_of_trunk_and_head(is_listed=True),
        "trunk and two have a parameter in common",
    ),
    "a head with a layer of the trunk that it does not list": (
        lambda: common_layer_of_trunk_and_head(is_listed=False),
        "comes out otherwise",
    ),
    "a number of its own for each lane": (after_trunk(lambda: Constant(0.5 + drawn())), "comes out otherwise"),
    "a tensor of its own for each lane": (
        after_trunk(lambda: Constant(torch.rand(WIDTH, dtype=torch.float64))),
        "comes out otherwise",
    ),
    "a hook on a parameter": (with_hook_on_a_parameter, "a hook is on the gradient of trunk.0.weight"),
    "a hook after a gradient": (with_hook_after_a_gradient, "a hook is on the gradient of trunk.0.weight"),
    "another width for each lane": (by_chance_wider, "differ in layers, or in the shapes"),
}
