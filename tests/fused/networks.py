"""Networks and losses of many kinds, in problems of 60 training rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.losses import poisson_deviance
from trainables.problems.tabular import InMemoryProblem, Trunk, in_memory_problem
from trainables.protocol import MultiTaskModel, Task
from trainables.stacked.forward import Forward, Stack

NUM_ROWS, NUM_FEATURES, WIDTH = 100, 5, 6
HEADS = ("one", "two")

Build = Callable[[], MultiTaskModel]


def numbers(*shape: int, seed: int = 20180710) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem_of(
    build: Build,
    tasks: Sequence[Task] | None = None,
    targets: Mapping[str, Tensor] | None = None,
    inputs: Sequence[Tensor] | None = None,
) -> InMemoryProblem:
    """A problem with that network; two regressions of different scale over five features where nothing else is said."""
    features = numbers(NUM_ROWS, NUM_FEATURES)
    if tasks is None:
        tasks = [Task(name=name, kind=TaskKind.REGRESSION, loss=functional.mse_loss) for name in HEADS]
    if targets is None:
        directions = numbers(len(tasks), NUM_FEATURES, 2, seed=1)
        targets = {t.name: (1 + 2 * i) * torch.tanh(features @ directions[i]) for i, t in enumerate(tasks)}
    return in_memory_problem([features] if inputs is None else inputs, targets, tasks=tasks, model=build)


def model_of(
    trunk: nn.Module | None = None, shared_layer: nn.Module | None = None, heads: Mapping[str, nn.Module] | None = None
) -> MultiTaskModel:
    """A smooth network: a ReLU that is about to switch would turn rounding into another path."""
    return MultiTaskModel(
        trunk=trunk if trunk is not None else smooth_trunk(),
        shared_layer=shared_layer if shared_layer is not None else nn.Linear(WIDTH, WIDTH),
        heads=heads if heads is not None else {name: smooth_head() for name in HEADS},
    )


def smooth_trunk() -> nn.Module:
    return nn.Sequential(nn.Linear(NUM_FEATURES, WIDTH), nn.Tanh())


def smooth_head(outputs: int = 2) -> nn.Module:
    return nn.Sequential(nn.Tanh(), nn.Linear(WIDTH, outputs))


class OwnForward(nn.Module):
    """A user's module: a parameter and a buffer of its own, a gate, an attention over the features, dropout in it."""

    scale: Tensor

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.into = nn.Linear(NUM_FEATURES, WIDTH)
        self.gate = nn.Parameter(torch.randn(WIDTH) / 3)
        self.dropout = self.by_another_name = nn.Dropout(dropout)
        self.register_buffer("scale", 1 + torch.rand(WIDTH))
        self.register_buffer("shift", torch.rand(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(torch.tanh(self.into(x)))
        shares = torch.softmax(h.unsqueeze(1) * h.unsqueeze(2), dim=-1)
        return (
            self.scale * torch.sigmoid(self.gate) * (shares @ self.by_another_name(h).unsqueeze(2)).squeeze(2)
            + self.shift
        )


class Tied(nn.Module):
    """One layer used twice, once transposed, listed under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(NUM_FEATURES, WIDTH)
        self.first = nn.Linear(WIDTH, WIDTH)
        self.second = nn.Linear(WIDTH, WIDTH)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(self.into(x)))) @ self.first.weight)


class WithIdle(nn.Module):
    """A layer, and one beside it that nothing uses."""

    def __init__(self, used: nn.Module) -> None:
        super().__init__()
        self.used = used
        self.idle = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Residual(nn.Module):
    """What goes in and what a module makes of it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class CategoriesAndNumbers(nn.Module):
    """Two inputs: categories to look up, one of them the padding, and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 3, padding_idx=0)
        self.layer = nn.Linear(2 * 3 + NUM_FEATURES, WIDTH)

    def forward(self, categories: Tensor, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(torch.cat([self.table(categories).flatten(1), x], dim=1)))


class Sequences(nn.Module):
    """Rows of several steps: a linear layer and a layer norm over (B, S, F), dropout on what is transposed."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layer = nn.Linear(1, WIDTH)
        self.norm = nn.LayerNorm([NUM_FEATURES, WIDTH])
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.norm(self.layer(x.unsqueeze(-1))))
        return self.dropout(h.mT).mean(-1)


class Scaled(Trunk):
    """Derived from a trunk that knows how it is stacked, with a forward pass of its own."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return 1.5 * super().forward(*inputs)


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def with_frozen_bias() -> nn.Module:
    layer = nn.Linear(WIDTH, WIDTH)
    layer.bias.requires_grad_(False)
    return layer


def in_place_heads() -> Mapping[str, nn.Module]:
    """Of one head alone, that changes what both are given."""
    return {"one": nn.Sequential(nn.ReLU(inplace=True), nn.Linear(WIDTH, 2)), "two": smooth_head()}


def convolutional() -> MultiTaskModel:
    trunk = nn.Sequential(
        nn.Unflatten(1, (1, NUM_FEATURES)), nn.Conv1d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.GELU(), nn.Flatten()
    )
    return model_of(trunk, nn.Linear(4 * NUM_FEATURES, WIDTH))


def drawn_dropout() -> MultiTaskModel:
    """The share is drawn with the weights: another one for each seed, none for some."""
    share = max(0.0, float(torch.rand(())) - 0.3)
    trunk = nn.Sequential(nn.Linear(NUM_FEATURES, WIDTH), nn.Tanh(), nn.Dropout(share))
    return model_of(trunk, heads={name: nn.Sequential(nn.Dropout(share), smooth_head()) for name in HEADS})


class WithNan(nn.Module):
    """Keeps a number that is none, such as the best of what it has not seen yet."""

    def __init__(self) -> None:
        super().__init__()
        self.best = float("nan")
        self.others = {"worst": float("nan")}

    def forward(self, x: Tensor) -> Tensor:
        return x


class Backbone(nn.Module):
    """What was trained before: it stays in evaluation mode, and so drops nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner.eval()

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        self.inner.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def stacked_forward(self, stack: Stack) -> Forward:
        return stack.forward(self.inner)


class VmappedBackbone(Backbone):
    """The same, as code that nobody has a rule for."""

    def forward(self, x: Tensor) -> Tensor:
        return 1.0 * super().forward(x)


def dropping_trunk() -> nn.Module:
    return nn.Sequential(nn.Linear(NUM_FEATURES, WIDTH), nn.Tanh(), nn.Dropout(0.4))


def frozen_layer_of_heads() -> MultiTaskModel:
    layer = frozen(nn.Linear(WIDTH, WIDTH))
    return model_of(heads={name: nn.Sequential(layer, smooth_head()) for name in HEADS})


def hooked_modules() -> MultiTaskModel:
    model = model_of()
    model.trunk.register_forward_hook(lambda module, inputs, output: 1.1 * output)
    model.heads["one"].register_forward_pre_hook(lambda module, inputs: 0.9 * inputs[0])
    return model


NETWORKS: Mapping[str, Build] = {
    "layer norms": lambda: model_of(
        nn.Sequential(smooth_trunk(), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, elementwise_affine=False)),
        heads={name: nn.Sequential(nn.LayerNorm(WIDTH, bias=False), smooth_head()) for name in HEADS},
    ),
    "a forward pass of one's own": lambda: model_of(OwnForward()),
    "dropout in a forward pass of one's own": lambda: model_of(OwnForward(dropout=0.4)),
    "dropout of a share that differs": drawn_dropout,
    "steps in a row, dropout of what is transposed": lambda: model_of(Sequences(0.3)),
    "a convolution": convolutional,
    "a frozen trunk": lambda: model_of(frozen(smooth_trunk())),
    "a frozen bias in the shared layer": lambda: model_of(shared_layer=with_frozen_bias()),
    "a frozen head": lambda: model_of(heads={"one": frozen(smooth_head()), "two": smooth_head()}),
    "a frozen layer that heads have in common": frozen_layer_of_heads,
    "a backbone in evaluation mode": lambda: model_of(nn.Sequential(Backbone(dropping_trunk()), nn.Dropout(0.1))),
    "a vmapped backbone in evaluation mode": lambda: model_of(VmappedBackbone(dropping_trunk())),
    "hooks on modules": hooked_modules,
    "an attribute that is NaN": lambda: model_of(nn.Sequential(smooth_trunk(), WithNan())),
    "no bias": lambda: model_of(shared_layer=nn.Linear(WIDTH, WIDTH, bias=False)),
    "parameters that are tied": lambda: model_of(Tied()),
    "a trunk that nothing learns in": lambda: model_of(nn.Identity(), nn.Linear(NUM_FEATURES, WIDTH)),
    "a residual block": lambda: model_of(nn.Sequential(smooth_trunk(), Residual(nn.Sequential(nn.Linear(6, 6))))),
    "parts of a trunk that nothing uses": lambda: model_of(WithIdle(smooth_trunk())),
    "parts of a head that nothing uses": lambda: model_of(heads={"one": WithIdle(smooth_head()), "two": smooth_head()}),
    "a trunk that is derived from another": lambda: model_of(Scaled(smooth_trunk(), [nn.Linear(6, 6), nn.Tanh()])),
    "a head that works in place": lambda: model_of(heads=in_place_heads()),
    "weights by their direction": lambda: model_of(nn.utils.parametrizations.weight_norm(nn.Linear(5, 6))),
    "a block as shared layer": lambda: model_of(
        shared_layer=nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6))
    ),
}


def _categories() -> Tensor:
    return torch.randint(0, 7, (NUM_ROWS, 2), generator=torch.Generator().manual_seed(5))


def looked_up() -> InMemoryProblem:
    """An embedding alone, with a padding."""

    def build() -> MultiTaskModel:
        return model_of(nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Tanh()))

    return problem_of(build, inputs=[_categories()])


def two_inputs() -> InMemoryProblem:
    categories = _categories()
    return problem_of(lambda: model_of(CategoriesAndNumbers()), inputs=[categories, numbers(NUM_ROWS, NUM_FEATURES)])


def _classes() -> Tensor:
    return numbers(NUM_ROWS, NUM_FEATURES)[:, :3].argmax(1)


def _unlabelled(classes_B: Tensor) -> Tensor:
    return torch.where(torch.arange(NUM_ROWS) % 4 == 0, -100, classes_B)


def _counts() -> Tensor:
    return (numbers(NUM_ROWS, 2).exp() * 2).long()


def _first_class(targets: Tensor) -> Tensor:
    return torch.zeros(3, dtype=torch.float64)


def _task(name: str, kind: TaskKind, loss: Callable[[Tensor, Tensor], Tensor], num_classes: int = 0) -> Task:
    return Task(name=name, kind=kind, loss=loss, num_classes=num_classes)


_WEIGHTED = partial(functional.cross_entropy, weight=torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64))

# Of a task: the loss with its kind, the targets, the outputs of its head.
LOSSES: Mapping[str, tuple[Task, Callable[[], Tensor], int]] = {
    "a lambda": (
        _task("one", TaskKind.REGRESSION, lambda y, t: (y - t).abs().pow(1.5).mean()),
        lambda: _counts() + 0.5,
        2,
    ),
    "classes by number": (_task("one", TaskKind.MULTICLASS, functional.cross_entropy, 3), _classes, 3),
    "classes of different weight": (
        Task(name="one", kind=TaskKind.MULTICLASS, loss=_WEIGHTED, num_classes=3, constant=_first_class),
        _classes,
        3,
    ),
    "classes by share": (
        Task(name="one", kind=TaskKind.MULTICLASS, loss=functional.cross_entropy, constant=_first_class),
        lambda: functional.one_hot(_classes(), 3) * 0.9 + 0.1 / 3,
        3,
    ),
    "rows without a label": (
        Task(name="one", kind=TaskKind.MULTICLASS, loss=functional.cross_entropy, num_classes=3, constant=_first_class),
        lambda: _unlabelled(_classes()),
        3,
    ),
    "counts": (_task("one", TaskKind.COUNT, poisson_deviance), lambda: _counts().double(), 2),
    "counts as whole numbers": (
        Task(name="one", kind=TaskKind.COUNT, loss=poisson_deviance, constant=lambda t: t.double().mean(0).log()),
        _counts,
        2,
    ),
    "smooth lengths": (_task("one", TaskKind.REGRESSION, functional.smooth_l1_loss), lambda: _counts() + 0.5, 2),
    "several answers of yes and no": (
        _task("one", TaskKind.BINARY, functional.binary_cross_entropy_with_logits),
        lambda: (_counts() > 1).double(),
        2,
    ),
}


def problem_with_loss(name: str) -> InMemoryProblem:
    task, targets, outputs = LOSSES[name]
    second = _task("two", TaskKind.REGRESSION, functional.mse_loss)
    return problem_of(
        lambda: model_of(heads={"one": smooth_head(outputs), "two": smooth_head()}),
        tasks=[task, second],
        targets={"one": targets(), "two": torch.tanh(numbers(NUM_ROWS, 2))},
    )
