"""Losses, gradients at the shared layer and the network's gradient, of N networks at once.

Shapes: N lanes, B rows of a batch, T tasks, D parameters of a lane's shared layer W (flattened and joined).

As for one network (:mod:`trainables.gradients`), it is cut at z, the output of the shared layer, and every head gets a
copy z_i of its own. One backward pass of Σ_n Σ_i L_ni then brings every lane's and every task's ∂L_ni/∂z_ni: no lane
reaches another's numbers, and no task another's copy. Each head's parameters are its task's alone, so that what the
pass leaves there is that task's gradient, to be weighted once the weights are known. After it,

    shared layer     ∇_W L_ni = (∂z/∂W)ᵀ g_ni            once a task
    trunk            h, trunk ← Σ_i w_ni g_ni            once

whatever N is, and whatever the lanes' balancers are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.gradients import trained_parameters
from trainables.protocol import MultiTaskModel, SeparateModels, Task, writes_in_place
from trainables.shared_rows import Gradients
from trainables.stacked.errors import NotStackableError
from trainables.stacked.forward import Stack, as_rows
from trainables.stacked.losses import stacked_loss
from trainables.stacked.parameters import StackedParameters
from trainables.tapped_linear import has_hooks, is_linear
from trainables.task_gradients import at_least_float32

StackedTargets = Mapping[str, Tensor]  # task name -> (N, B, ...)


class StackedLosses(Protocol):
    """One batch a lane, gone through forward; ready for the network's gradient once the weights are known."""

    @property
    def losses_NT(self) -> Tensor:
        """The losses, detached."""
        ...

    def put_gradients(self, weights_NT: Tensor) -> None:
        """Put the gradient of Σ_i w_ni L_ni into the parameters' matrix, the weights taken as constants. Once."""
        ...


class StackedTaskGradients(StackedLosses, Protocol):
    """Losses whose gradients at the shared layer are known one by one."""

    @property
    def norms_NT(self) -> Tensor:
        """n_ni = ‖∇_W L_ni‖₂."""
        ...

    @property
    def gramians_NTT(self) -> Tensor:
        """⟨∇_W L_ni, ∇_W L_nj⟩."""
        ...


class StackedNetwork(Protocol):
    """N networks with their tasks."""

    def losses(self, inputs: Sequence[Tensor], targets: StackedTargets) -> StackedLosses: ...

    def task_gradients(self, inputs: Sequence[Tensor], targets: StackedTargets) -> StackedTaskGradients: ...


def stacked_network(
    stack: Stack, parameters: StackedParameters, model: nn.Module, tasks: Sequence[Task]
) -> StackedNetwork:
    """N networks of one structure; ``model`` is the first of them.

    Raises:
        NotStackableError: they cannot be trained as one.
    """
    if isinstance(model, SeparateModels):
        parts = [_SharedNetwork(stack, parameters, model.network(task.name), [task]) for task in tasks]
        return _SeparateNetworks(parts)
    assert isinstance(model, MultiTaskModel)
    return _SharedNetwork(stack, parameters, model, tasks)


class _SharedNetwork:
    """T tasks on one trunk and one shared layer, N times."""

    def __init__(
        self, stack: Stack, parameters: StackedParameters, model: MultiTaskModel, tasks: Sequence[Task]
    ) -> None:
        heads = {task.name: model.heads[task.name] for task in tasks}
        _refuse_common_parameters({"trunk": model.trunk, "shared layer": model.shared_layer, **heads})
        self.names = list(heads)
        self.parameters = parameters
        self.trunk = stack.forward(model.trunk)
        self.shared_layer = stack.forward(model.shared_layer)
        self.heads = [stack.forward(head) for head in heads.values()]
        self.writes = [writes_in_place(head) for head in heads.values()]
        self.stacked_losses = [stacked_loss(task) for task in tasks]
        shared = trained_parameters(model.shared_layer)
        self.is_linear = is_linear(model.shared_layer, shared) and not has_hooks(model.shared_layer, shared)
        self.shared_places = self._places(model.shared_layer)
        self.trunk_places = self._places(model.trunk)
        self.head_places = [self._places(head) for head in heads.values()]
        if not self.shared_places:
            raise NotStackableError("no task reaches its shared layer")

    def losses(self, inputs: Sequence[Tensor], targets: StackedTargets) -> StackedLosses:
        shared = self.shared_layer(self.trunk(*inputs))
        losses = [self._loss(index, shared, targets) for index in range(len(self.heads))]
        return _PlainLosses(network=self, attached_NT=torch.stack(losses, dim=1))

    def task_gradients(self, inputs: Sequence[Tensor], targets: StackedTargets) -> _TaskGradients:
        h = self.trunk(*inputs)
        z = self.shared_layer(h)
        copies = [z.detach().requires_grad_() for _ in self.heads]
        losses = [self._loss(index, copy, targets) for index, copy in enumerate(copies)]
        leaves = [self.parameters.leaves[place] for places in self.head_places for place in places]
        attached_NT = torch.stack(losses, dim=1)
        found = torch.autograd.grad(attached_NT, [*copies, *leaves], torch.ones_like(attached_NT), allow_unused=True)
        cut_gradients = [torch.zeros_like(z) if gradient is None else gradient for gradient in found[: len(copies)]]
        return _TaskGradients(
            network=self,
            losses_NT=attached_NT.detach(),
            cut_output=z,
            cut_gradients=cut_gradients,
            rows=[self._rows(h, z, gradient) for gradient in cut_gradients],
            head_gradients=found[len(copies) :],
        )

    def _loss(self, index: int, shared: Tensor, targets: StackedTargets) -> Tensor:
        output = self.heads[index](shared.clone() if self.writes[index] else shared)
        name, dtype = self.names[index], self.parameters.values_NP.dtype
        loss_N = self.stacked_losses[index](at_least_float32(output), targets[name])
        if loss_N.dim() != 1:
            raise NotStackableError(f"the loss of task {name!r} is not one number")
        return loss_N if loss_N.dtype == dtype else loss_N.to(dtype)

    def _rows(self, h: Tensor, z: Tensor, gradient: Tensor) -> list[Tensor]:
        """∇_W L_i by parameter of W, each (N, ...), from the gradient at z."""
        if self.is_linear:
            of_output, of_input = as_rows(gradient), as_rows(h.detach())
            of_weight = torch.bmm(of_output.mT, of_input)
            return [of_weight, *(of_output.sum(1) for _ in self.shared_places[1:])]
        leaves = [self.parameters.leaves[place] for place in self.shared_places]
        found = torch.autograd.grad(z, leaves, gradient, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]

    def _places(self, module: nn.Module) -> list[int]:
        places = [self.parameters.place(parameter) for parameter in trained_parameters(module)]
        return [place for place in places if place is not None]


@dataclass(frozen=True, kw_only=True)
class _PlainLosses:
    """Losses whose gradients nobody asks for: one ordinary backward pass of the weighted sum."""

    network: _SharedNetwork
    attached_NT: Tensor  # with their graph

    @property
    def losses_NT(self) -> Tensor:
        return self.attached_NT.detach()

    def put_gradients(self, weights_NT: Tensor) -> None:
        network = self.network
        places = [*network.trunk_places, *network.shared_places, *(p for head in network.head_places for p in head)]
        leaves = [network.parameters.leaves[place] for place in places]
        found = torch.autograd.grad(self.attached_NT, leaves, weights_NT, allow_unused=True)
        _put(network.parameters, places, found)


@dataclass(frozen=True, kw_only=True)
class _TaskGradients:
    network: _SharedNetwork
    losses_NT: Tensor
    cut_output: Tensor  # z, with the graph of trunk and shared layer
    cut_gradients: Sequence[Tensor]  # g_i per task
    rows: Sequence[Sequence[Tensor]]  # ∇_W L_i by task and parameter
    head_gradients: Gradients  # unweighted, of all heads, one after another

    @property
    def norms_NT(self) -> Tensor:
        lengths = [
            torch.stack([torch.linalg.vector_norm(part.flatten(1), dim=1) for part in row], dim=1) for row in self.rows
        ]
        return torch.linalg.vector_norm(torch.stack(lengths, dim=1), dim=2)

    @property
    def gramians_NTT(self) -> Tensor:
        rows_NTD = torch.stack([torch.cat([part.flatten(1) for part in row], dim=1) for row in self.rows], dim=1)
        return rows_NTD @ rows_NTD.mT

    def put_gradients(self, weights_NT: Tensor) -> None:
        network, weights = self.network, weights_NT.unbind(1)
        gradients = iter(self.head_gradients)
        for weight_N, places in zip(weights, network.head_places, strict=True):
            for place in places:
                _put_weighted(network.parameters.gradient(place), next(gradients), weight_N)
        for parts, place in zip(zip(*self.rows, strict=True), network.shared_places, strict=True):
            network.parameters.gradient(place).copy_(_weighted_sum(parts, weights))
        if network.trunk_places:
            leaves = [network.parameters.leaves[place] for place in network.trunk_places]
            at_cut = _weighted_sum(self.cut_gradients, weights)
            found = torch.autograd.grad(self.cut_output, leaves, at_cut, allow_unused=True)
            _put(network.parameters, network.trunk_places, found)


class _SeparateNetworks:
    """T tasks with a network each, N times."""

    def __init__(self, parts: Sequence[_SharedNetwork]) -> None:
        self._parts = parts

    def losses(self, inputs: Sequence[Tensor], targets: StackedTargets) -> StackedLosses:
        return _SeparateLosses([part.losses(inputs, targets) for part in self._parts])

    def task_gradients(self, inputs: Sequence[Tensor], targets: StackedTargets) -> StackedTaskGradients:
        return _SeparateTaskGradients([part.task_gradients(inputs, targets) for part in self._parts])


class _SeparateLosses:
    def __init__(self, parts: Sequence[StackedLosses]) -> None:
        self._parts = parts

    @property
    def losses_NT(self) -> Tensor:
        return torch.cat([part.losses_NT for part in self._parts], dim=1)

    def put_gradients(self, weights_NT: Tensor) -> None:
        for part, weights_N1 in zip(self._parts, weights_NT.split(1, dim=1), strict=True):
            part.put_gradients(weights_N1)


class _SeparateTaskGradients(_SeparateLosses):
    """Nothing is shared, so the Gramian is diagonal."""

    def __init__(self, parts: Sequence[_TaskGradients]) -> None:
        super().__init__(parts)
        self._gradients = parts

    @property
    def norms_NT(self) -> Tensor:
        return torch.cat([part.norms_NT for part in self._gradients], dim=1)

    @property
    def gramians_NTT(self) -> Tensor:
        return torch.diag_embed(self.norms_NT.square())


def _refuse_common_parameters(parts: Mapping[str, nn.Module]) -> None:
    """A trained parameter of two parts gets gradients of several tasks, which one backward pass cannot tell apart."""
    owner: dict[int, str] = {}
    for name, module in parts.items():
        for parameter in trained_parameters(module):
            other = owner.setdefault(id(parameter), name)
            if other != name:
                raise NotStackableError(f"{other} and {name} have a parameter in common")


def _put(parameters: StackedParameters, places: Sequence[int], gradients: Gradients) -> None:
    for place, gradient in zip(places, gradients, strict=True):
        target = parameters.gradient(place)
        _ = target.zero_() if gradient is None else target.copy_(gradient)


def _put_weighted(target: Tensor, gradient: Tensor | None, weight_N: Tensor) -> None:
    if gradient is None:
        target.zero_()
    else:
        torch.mul(gradient, _like(weight_N, gradient), out=target)


def _weighted_sum(parts: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    total = parts[0] * _like(weights[0], parts[0])
    for part, weight_N in zip(parts[1:], weights[1:], strict=True):
        total.addcmul_(part, _like(weight_N, part))
    return total


def _like(weight_N: Tensor, tensor: Tensor) -> Tensor:
    """(N,) as (N, 1, ...), which meets the tensor."""
    return weight_N.view(-1, *[1] * (tensor.dim() - 1))
