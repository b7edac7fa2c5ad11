"""Whether lanes can be trained as one, and why not: found out before the first step, never taken on trust.

What cannot be stacked either raises (data that decides what is computed, random numbers), or changes something in a
step that every lane would have to have for itself (running statistics, counters). And because a module may hide what no
rule foresees, a step of the stack is compared with the step that each lane would take alone.

Shapes: N lanes, P numbers that a network trains.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables.batches import rows_of
from trainables.engine.endings import is_out_of_memory
from trainables.engine.lane import LaneTraining
from trainables.engine.lane_stack import LaneStack
from trainables.gradients import differentiator
from trainables.protocol import Problem
from trainables.seeding import capture_rng, restore_rng
from trainables.stacked.errors import NotStackableError

# A parameter's gradient in the stack may differ from the lane's own by this share of its length. Rounding makes 1e-6
# and 1e-15 of it, a ReLU that rounding switches some 1e-4; a layer that is computed wrongly is off by far more.
_TOLERANCES = {torch.float32: 1e-2, torch.float64: 1e-6}
_NEGLIGIBLE = 1e-3  # of the whole gradient's length: a parameter with less is compared with this
_OTHERWISE = "comes out otherwise than in a network by itself"
_OF_A_LAYER = "a layer keeps or looks up something outside of its parameters and buffers"
_NAN = object()  # equal to itself, which a NaN is not
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_SHORT = 100  # items that are looked at one by one


def check_alike(lanes: Sequence[LaneTraining]) -> None:
    """Refuse lanes that differ in more than numbers.

    Raises:
        NotStackableError: they do; says in what.
    """
    first = lanes[0]
    for name, value in (("micro_batches", 1), ("autocast", "none")):
        if any(getattr(lane.settings, name) != value for lane in lanes):
            raise NotStackableError(f"{name} is not {value}")
    for lane in lanes[1:]:
        for name in ("batch_size", "dtype"):
            if getattr(lane.settings, name) != getattr(first.settings, name):
                raise NotStackableError(f"their {name} differs")
        if _structure(lane.model) != _structure(first.model):
            raise NotStackableError("their networks differ in layers, or in the shapes of parameters")


@dataclass(frozen=True, kw_only=True)
class _Alone:
    """What a batch of a lane gives in its network by itself, of Σ_i w_i L_i."""

    losses_T: Tensor
    weights_T: Tensor
    gradients: Mapping[str, Tensor | None]  # by parameter


def prove(problem: Problem, lanes: Sequence[LaneTraining], *, draws_alike: bool | None = None) -> Collection[str]:
    """Differentiate a batch of each lane in the stack, and of each alone, without moving anything.

    The answer are the names of the parameters that no task reaches.

    ``draws_alike``: whether dropout in the stack draws the masks that a lane draws alone, see
    :mod:`trainables.stacked.draws`; where it does not, neither drops anything. None: as it is on the lanes' device.

    Raises:
        NotStackableError: it cannot be done, or what comes out differs.
    """
    if draws_alike is None:
        draws_alike = lanes[0].draws.device.type == "cpu"
    starts = [lane.draws.get_state() for lane in lanes]
    try:
        with nullcontext() if draws_alike else _without_dropout([lane.model for lane in lanes]):
            return _compared(problem, lanes, starts)
    finally:
        for lane, state in zip(lanes, starts, strict=True):
            lane.draws.set_state(state)


def _compared(problem: Problem, lanes: Sequence[LaneTraining], draws: Sequence[Tensor]) -> Collection[str]:
    own = [_alone(problem, lane, state) for lane, state in zip(lanes, draws, strict=True)]
    unused = [name for name, gradient in own[0].gradients.items() if gradient is None]
    if any([name for name, gradient in one.gradients.items() if gradient is None] != unused for one in own[1:]):
        raise NotStackableError("their tasks reach different parameters")
    losses_NT, gradients_NP = _stacked(problem, lanes, unused, torch.stack([one.weights_T for one in own]))
    for one, losses_T, gradients_P in zip(own, losses_NT.unbind(), gradients_NP.unbind(), strict=True):
        _compare_gradients(one.gradients, gradients_P)
        _compare_losses(one, losses_T, [task.name for task in problem.tasks])
    return unused


def _alone(problem: Problem, lane: LaneTraining, draws: Tensor) -> _Alone:
    """The lane by itself; its network is left without gradients."""
    model = lane.model
    inputs, targets = rows_of(problem.train, lane.batches.first_rows())
    with _borrowed_generators(draws, inputs[0].device), _unchanged(model):
        found = differentiator(model, problem.tasks).plain_losses(inputs, targets)
        weights_T = _weights(found.losses_T, lane.constant_losses_T)
        found.backward(weights_T)
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    gradients = {name: parameter.grad for name, parameter in named.items()}
    model.zero_grad()
    return _Alone(losses_T=found.losses_T, weights_T=weights_T, gradients=gradients)


def _weights(losses_T: Tensor, constant_losses_T: Tensor) -> Tensor:
    """One over each loss: beside a large one, a small one would not be seen. Of a task that is learnt, what is left of
    its loss is rounding, so that there a constant's loss is the scale.
    """
    weights_T = 1 / torch.maximum(losses_T.abs(), constant_losses_T.to(losses_T.dtype))
    return torch.where(weights_T.isfinite() & (weights_T > 0), weights_T, 1.0)


def _stacked(
    problem: Problem, lanes: Sequence[LaneTraining], unused: Collection[str], weights_NT: Tensor
) -> tuple[Tensor, Tensor]:
    """The same of all lanes in a stack: losses (N, T) and gradients (N, P)."""
    try:
        stack = LaneStack(problem, lanes, unused=unused)
        found = stack.network.task_gradients(*stack.batch([lane.batches.first_rows() for lane in lanes]))
        found.put_gradients(weights_NT)
    except NotStackableError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise NotStackableError(f"torch.func cannot run them together: {_short(error)}") from error
    return found.losses_NT, stack.parameters.gradients_NP


def _compare_gradients(own: Mapping[str, Tensor | None], found_P: Tensor) -> None:
    """A lane whose gradient is not finite shows that alone as well: what is finite of it is compared."""
    tolerance = _TOLERANCES[found_P.dtype]
    reached = {name: gradient.flatten() for name, gradient in own.items() if gradient is not None}
    parts = found_P.split([gradient.numel() for gradient in reached.values()])
    finite = {
        name: (gradient, part)
        for (name, gradient), part in zip(reached.items(), parts, strict=True)
        if bool(gradient.isfinite().all())
    }
    lengths = {name: _length(gradient) for name, (gradient, _) in finite.items()}
    least = _NEGLIGIBLE * math.hypot(*lengths.values())
    for name, (gradient, part) in finite.items():
        if not _length(part - gradient) <= tolerance * max(lengths[name], least):  # nor NaN
            raise NotStackableError(f"the gradient of {name} {_OTHERWISE}: {_OF_A_LAYER}")


def _compare_losses(own: _Alone, found_T: Tensor, names: Sequence[str]) -> None:
    errors_T = (found_T - own.losses_T).abs() * own.weights_T
    is_off_T = own.losses_T.isfinite() & ~(errors_T <= _TOLERANCES[found_T.dtype])
    for name, is_off in zip(names, is_off_T.tolist(), strict=True):
        if is_off:
            raise NotStackableError(f"the loss of task {name!r} {_OTHERWISE}: {_OF_A_LAYER}")


def _length(tensor_P: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor_P, dtype=torch.float64))


@contextmanager
def _without_dropout(models: Sequence[nn.Module]) -> Iterator[None]:
    """Of the layers that the stack has a rule for: any other that draws is refused, and has to show that it does."""
    layers = {module: module.p for model in models for module in model.modules() if type(module) is nn.Dropout}
    for layer in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, share in layers.items():
            layer.p = share


@contextmanager
def _borrowed_generators(draws: Tensor, device: torch.device) -> Iterator[None]:
    """Torch's global generator as the lane's own, and afterwards as it was. The others must not be drawn from."""
    before = capture_rng()
    if device.type == "cuda":
        torch.cuda.set_rng_state(draws, device)
    else:
        torch.set_rng_state(draws)
    try:
        yield
        after = capture_rng()
    finally:
        restore_rng(before)
    if _plain(after.python) != _plain(before.python) or _plain(after.numpy) != _plain(before.numpy):
        raise NotStackableError("the network draws from Python's or NumPy's random numbers")


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Refuse a network that a step changes in more than its parameters."""
    buffers = dict(model.named_buffers())
    versions = {name: buffer._version for name, buffer in buffers.items()}
    own = {name: _own_attributes(module) for name, module in model.named_modules()}  # held: no new one gets its place
    marks = {name: _marks(attributes) for name, attributes in own.items()}
    yield
    for name, buffer in model.named_buffers():
        if buffer is not buffers.get(name) or buffer._version != versions[name]:
            raise NotStackableError(f"a step changes {name}, as BatchNorm does with its running statistics")
    for name, module in model.named_modules():
        after = _marks(_own_attributes(module))
        if changed := [key for key, mark in after.items() if marks[name].get(key) != mark]:
            raise NotStackableError(f"a step changes the attribute {changed[0]!r} of {name or 'the network'}")


def _own_attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps beside its parameters, buffers and modules."""
    return {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}


def _marks(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _mark(value) for key, value in attributes.items()}


def _mark(value: Any, *, depth: int = 2) -> Any:
    """Another one after most changes of a value: of numbers, tensors, and short lists and dicts of such."""
    if isinstance(value, float) and math.isnan(value):
        return _NAN
    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return id(value), value._version
    if isinstance(value, dict | list | tuple) and depth and len(value) <= _SHORT:
        items = value.items() if isinstance(value, dict) else value
        return [_mark(item, depth=depth - 1) for item in items]
    return (id(value), len(value)) if isinstance(value, Sized) and not isinstance(value, nn.Module) else id(value)


def _structure(model: nn.Module) -> Sequence[Any]:
    # By name: a layer whose parameters are parametrized has a class of its own.
    modules = [
        (name, type(module).__module__, type(module).__qualname__, type(module).__mro__[1:])
        for name, module in model.named_modules()
    ]
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return [*modules, *((name, tensor.shape, tensor.dtype, tensor.requires_grad) for name, tensor in named)]


def _plain(state: Any) -> Any:
    """A generator's state as dicts, lists and numbers, which can be compared."""
    if isinstance(state, Mapping):
        return {key: _plain(item) for key, item in state.items()}
    return state.tolist() if isinstance(state, Tensor) else state


def _short(error: Exception) -> str:
    """The first sentence of what torch says, which can be a page."""
    first = " ".join(f"{type(error).__name__}: {error}".split()).split(". ")[0]
    return first if len(first) <= 300 else f"{first[:300]}…"
