"""Per-task gradients at the shared layer, and the network's gradient for any weights, at the price of one backward
pass.

Shapes: B rows of a batch, T tasks, D parameters of the shared layer W (flattened and joined), H width of h.

The network is cut at h, the input of the shared layer. With h' = a detached copy of h,

    trunk                         h = trunk(x)                           once
    task i, down to the cut       (∂L_i/∂W, ∂L_i/∂h', ∂L_i/∂θ_i)         once each; θ_i is what its head uses besides W
    trunk                         h ← Σ_i w_i ∂L_i/∂h'                   once

so neither the heads nor the trunk are ever walked twice, whatever the weights are and however they follow from the
gradients. Everything below the cut is a first-order gradient: no graph of a gradient is ever built.

A parameter may be used in several places, by heads, trunk and shared layer alike, and a head may reach past W into the
trunk. Only a trunk that uses W itself is walked once more for each task, because ∇_W L_i then passes through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.protocol import MultiTaskModel, SeparateModels, Task

Targets = Mapping[str, Tensor]


class WeighableLosses(Protocol):
    """The losses of one batch, ready to be turned into the network's gradient once their weights are known."""

    @property
    def losses_T(self) -> Tensor:
        """The losses, detached."""
        ...

    def backward(self, weights_T: Tensor) -> None:
        """Add the gradient of Σ_i w_i L_i to every parameter's ``grad``, the weights taken as constants. May be called
        once.
        """
        ...


class TaskGradients(WeighableLosses, Protocol):
    """Losses whose gradients at the shared layer are known one by one."""

    @property
    def gradients_TD(self) -> Tensor:
        """∇_W L_i, one row a task, unweighted. Of tasks with a layer each, every row is 0 in the others' places."""
        ...

    @property
    def norms_T(self) -> Tensor:
        """n_i = ‖∇_W L_i‖₂, unweighted, in float32 or better."""
        ...

    @property
    def gramian_TT(self) -> Tensor:
        """⟨∇_W L_i, ∇_W L_j⟩, unweighted, in float32 or better."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlainLosses:
    """Losses whose gradients nobody asks for: one ordinary backward pass of the weighted sum."""

    attached_losses_T: Tensor  # with their graph

    @property
    def losses_T(self) -> Tensor:
        return self.attached_losses_T.detach()

    def backward(self, weights_T: Tensor) -> None:
        torch.autograd.backward(self.attached_losses_T, weights_T)


@dataclass(frozen=True, kw_only=True)
class SharedTaskGradients:
    """The gradients of T tasks that share one trunk and one shared layer."""

    losses_T: Tensor
    gradients_TD: Tensor  # ∇_W L_i, one row a task
    below_cut_TD: Tensor  # the part of it that comes from below the cut: all of it, unless the trunk uses W too
    shared_parameters: Sequence[nn.Parameter]  # W, in the order in which a row of gradients_TD joins them
    other_parameters: Sequence[nn.Parameter]  # the network's, without W
    other_gradients: Sequence[Sequence[Tensor | None]]  # per task, below the cut; None: not used there
    trunk_output: Tensor  # h, with the trunk's graph
    trunk_gradients: Sequence[Tensor | None]  # ∂L_i/∂h per task

    @property
    def norms_T(self) -> Tensor:
        return norms(self.gradients_TD)

    @property
    def gramian_TT(self) -> Tensor:
        return gramian(self.gradients_TD)

    def backward(self, weights_T: Tensor) -> None:
        weights_T = weights_T.to(self.below_cut_TD.dtype)
        sizes = [parameter.numel() for parameter in self.shared_parameters]
        combined_D = weights_T @ self.below_cut_TD
        for parameter, gradient in zip(self.shared_parameters, combined_D.split(sizes), strict=True):
            _add_gradient(parameter, gradient.view_as(parameter))
        weights = weights_T.unbind()
        for weight, gradients in zip(weights, self.other_gradients, strict=True):
            _add_gradients(self.other_parameters, gradients, weight)
        if self.trunk_output.requires_grad:  # adds to what parameters of the trunk have from below the cut
            parts = [w * g for w, g in zip(weights, self.trunk_gradients, strict=True) if g is not None]
            if parts:
                self.trunk_output.backward(torch.stack(parts).sum(0) if len(parts) > 1 else parts[0])


@dataclass(frozen=True, kw_only=True)
class SeparateTaskGradients:
    """The gradients of T tasks, each with a network of its own: nothing is shared, so the Gramian is diagonal."""

    parts: Sequence[SharedTaskGradients]  # one task each

    @property
    def losses_T(self) -> Tensor:
        return torch.cat([part.losses_T for part in self.parts])

    @property
    def gradients_TD(self) -> Tensor:
        return torch.block_diag(*[part.gradients_TD for part in self.parts])

    @property
    def norms_T(self) -> Tensor:
        return torch.cat([part.norms_T for part in self.parts])

    @property
    def gramian_TT(self) -> Tensor:
        return torch.diag(self.norms_T.square())

    def backward(self, weights_T: Tensor) -> None:
        for index, part in enumerate(self.parts):
            part.backward(weights_T[index : index + 1])


class Differentiator(Protocol):
    """A network with its tasks, ready to turn batches into losses and gradients. Made once, used at every step."""

    def plain_losses(self, inputs: Sequence[Tensor], targets: Targets) -> PlainLosses:
        """The losses of a batch with their graph, for the steps at which nobody asks for the tasks' gradients."""
        ...

    def task_gradients(self, inputs: Sequence[Tensor], targets: Targets) -> TaskGradients:
        """Each task differentiated down to the shared layer's input."""
        ...


def differentiator(
    model: MultiTaskModel | SeparateModels, tasks: Sequence[Task], *, autocast: torch.dtype | None = None
) -> Differentiator:
    """The differentiator that fits the network. The network must not gain or lose parameters afterwards.

    ``autocast``: the type in which the forward pass computes what is safe in it (``torch.autocast``). The parameters
    keep theirs, and so do their gradients; losses are computed from outputs in float32 or better.

    Raises:
        ValueError: a shared layer has no parameter that is trained.
    """
    if isinstance(model, SeparateModels):
        return SeparateDifferentiator(model, tasks, autocast=autocast)
    return SharedDifferentiator(model, tasks, autocast=autocast)


class SharedDifferentiator:
    """T tasks on one trunk and one shared layer."""

    def __init__(self, model: MultiTaskModel, tasks: Sequence[Task], *, autocast: torch.dtype | None = None) -> None:
        self._model = model
        self._autocast = autocast
        self._heads = [(task, model.heads[task.name]) for task in tasks]
        # Listed once: walking the modules at every step costs as much as a small network's forward pass.
        self._shared_parameters = _trained(model.shared_layer)
        shared = set(map(id, self._shared_parameters))
        # For every task all the others, whatever module lists them: a head may use a layer of the trunk or of another
        # head. Asking for a gradient that does not exist costs next to nothing.
        self._other_parameters = [parameter for parameter in _trained(model) if id(parameter) not in shared]
        self._trunk_uses_shared: bool | None = None  # not known before the first batch has gone through
        if not self._shared_parameters:
            raise ValueError(
                "the shared layer has no trainable parameter: there is nowhere to compare the tasks' gradients"
            )

    def plain_losses(self, inputs: Sequence[Tensor], targets: Targets) -> PlainLosses:
        with self._forward(inputs):
            outputs = self._outputs(self._model.trunk(*inputs))
        return PlainLosses(attached_losses_T=torch.stack(self._losses(outputs, targets)))

    def task_gradients(self, inputs: Sequence[Tensor], targets: Targets) -> SharedTaskGradients:
        with self._forward(inputs):
            trunk_output = self._model.trunk(*inputs)
            cut = trunk_output.detach().requires_grad_()
            outputs = self._outputs(cut)
        num_shared = len(self._shared_parameters)

        losses, rows, trunk_gradients, other_gradients = [], [], [], []
        for loss in self._losses(outputs, targets):
            down_to = [*self._shared_parameters, cut, *self._other_parameters]
            # Kept for the last task too: a head may reach into the trunk's graph past h, which is walked once more.
            gradients = torch.autograd.grad(loss, down_to, retain_graph=True, allow_unused=True)
            losses.append(loss.detach())
            rows.append(_joined(gradients[:num_shared], self._shared_parameters))
            trunk_gradients.append(gradients[num_shared])
            other_gradients.append(gradients[num_shared + 1 :])
        below_cut_TD = torch.stack(rows)
        return SharedTaskGradients(
            losses_T=torch.stack(losses),
            gradients_TD=self._with_trunk(below_cut_TD, trunk_output, trunk_gradients),
            below_cut_TD=below_cut_TD,
            shared_parameters=self._shared_parameters,
            other_parameters=self._other_parameters,
            other_gradients=other_gradients,
            trunk_output=trunk_output,
            trunk_gradients=trunk_gradients,
        )

    def _forward(self, inputs: Sequence[Tensor]) -> AbstractContextManager[object]:
        """What the forward pass runs in; the backward pass does not: each of its operations knows its own type."""
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(inputs[0].device.type, self._autocast)

    def _outputs(self, trunk_output: Tensor) -> list[Tensor]:
        shared_output = self._model.shared_layer(trunk_output)
        return [head(shared_output) for _, head in self._heads]

    def _losses(self, outputs: Sequence[Tensor], targets: Targets) -> list[Tensor]:
        return [
            task.loss(_at_least_float32(output), targets[task.name])
            for (task, _), output in zip(self._heads, outputs, strict=True)
        ]

    def _with_trunk(
        self, below_cut_TD: Tensor, trunk_output: Tensor, trunk_gradients: Sequence[Tensor | None]
    ) -> Tensor:
        """∇_W L_i, (T, D): what comes from below the cut, and through the trunk where that uses W too."""

        def through_trunk(gradient: Tensor) -> Sequence[Tensor | None]:
            return torch.autograd.grad(
                trunk_output, self._shared_parameters, gradient, retain_graph=True, allow_unused=True
            )

        if self._trunk_uses_shared is None:
            # Asked of the graph, since a module may use a layer that it does not list. Where there is no way from h to
            # W, nothing is computed.
            found = through_trunk(torch.zeros_like(trunk_output)) if trunk_output.requires_grad else ()
            self._trunk_uses_shared = any(gradient is not None for gradient in found)
        if not self._trunk_uses_shared:
            return below_cut_TD
        zeros = torch.zeros_like(trunk_output)  # of a task that does not use h
        rows = [through_trunk(zeros if gradient is None else gradient) for gradient in trunk_gradients]
        return below_cut_TD + torch.stack([_joined(row, self._shared_parameters) for row in rows])


class SeparateDifferentiator:
    """T tasks with a network each."""

    def __init__(self, model: SeparateModels, tasks: Sequence[Task], *, autocast: torch.dtype | None = None) -> None:
        self._parts = [SharedDifferentiator(model.network(task.name), [task], autocast=autocast) for task in tasks]

    def plain_losses(self, inputs: Sequence[Tensor], targets: Targets) -> PlainLosses:
        parts = [part.plain_losses(inputs, targets).attached_losses_T for part in self._parts]
        return PlainLosses(attached_losses_T=torch.cat(parts))

    def task_gradients(self, inputs: Sequence[Tensor], targets: Targets) -> SeparateTaskGradients:
        return SeparateTaskGradients(parts=[part.task_gradients(inputs, targets) for part in self._parts])


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _joined(gradients: Sequence[Tensor | None], parameters: Sequence[nn.Parameter]) -> Tensor:
    """One row of gradients_TD; a parameter that a task does not use counts as zero."""
    return torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).flatten()
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ]
    )


def _add_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None], weight: Tensor) -> None:
    """Add w_i times a task's gradients. Adds, because two tasks may use a parameter."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            _add_gradient(parameter, weight * gradient)


def _add_gradient(parameter: nn.Parameter, gradient: Tensor) -> None:
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def norms(gradients_TD: Tensor) -> Tensor:
    """‖g_i‖₂ of each row, shape (T,), in float32 or better."""
    return torch.linalg.vector_norm(_at_least_float32(gradients_TD), dim=1)


def gramian(gradients_TD: Tensor) -> Tensor:
    """⟨g_i, g_j⟩ of the rows, shape (T, T), in float32 or better."""
    rows_TD = _at_least_float32(gradients_TD)
    return rows_TD @ rows_TD.mT


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
