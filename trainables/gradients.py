"""Per-task gradients at the shared layer, and the network's gradient for any weights, at little more than the price of
one backward pass.

Shapes: B rows of a batch, T tasks, D parameters of the shared layer W (flattened and joined).

The network is cut at z, the output of the shared layer; every head gets a detached copy z_i of its own. With g_i =
∂L_i/∂z_i,

    trunk and shared layer        h = trunk(x), z = W(h)                 once
    heads, down to the cut        g_i, and the gradients of θ_i          once; θ_i is what a head uses
    shared layer                  ∇_W L_i = (∂z/∂W)ᵀ g_i                 once a task: all that comparing them costs
    trunk, down from the cut      h, trunk ← Σ_i w_i g_i                 once

so neither heads nor trunk are ever walked twice, whatever the weights are and however they follow from the gradients.
Nothing but first-order gradients is ever built: there is no graph of a gradient.

Where the weights are known before the step (GradNorm's are), one backward pass of Σ_i w_i L_i serves all heads, and
leaves w_i g_i at each cut. Where they follow from the gradients (mgda, cagrad, ...), every task is differentiated for
itself.

A parameter may be used in several places, by heads, trunk and shared layer alike, and a head may reach past the cut
into trunk and shared layer: each part is autograd's own and counts once, and ∇_W L_i is the whole of it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.protocol import MultiTaskModel, SeparateModels, Task
from trainables.shared_rows import Gradients, SharedRows, down_to_shared, joined, norms_of, split_row

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
    shared_parameters: Sequence[nn.Parameter]  # W, in the order in which a row of gradients_TD joins them
    other_parameters: Sequence[nn.Parameter]  # the network's, without W
    other_gradients: Sequence[Gradients]  # per task, of its head; None: not used there
    cut_output: Tensor  # z, with the graph of trunk and shared layer
    cut_gradients: Sequence[Tensor | None]  # g_i per task

    @property
    def norms_T(self) -> Tensor:
        return norms(self.gradients_TD)

    @property
    def gramian_TT(self) -> Tensor:
        return gramian(self.gradients_TD)

    def backward(self, weights_T: Tensor) -> None:
        weights_T = weights_T.to(self.gradients_TD.dtype)
        _add_row(self.shared_parameters, weights_T @ self.gradients_TD)
        weights = weights_T.unbind()
        for weight, gradients in zip(weights, self.other_gradients, strict=True):
            _add_gradients(self.other_parameters, gradients, weight)
        parts = [w * g for w, g in zip(weights, self.cut_gradients, strict=True) if g is not None]
        _backward_to_trunk(self.cut_output, parts, self.other_parameters)


@dataclass(frozen=True, kw_only=True)
class WeightedTaskGradients:
    """The tasks' gradients at the shared layer as a backward pass with known weights has left them."""

    losses_T: Tensor
    weights_T: Tensor  # those of the pass; none is 0
    weighted: Sequence[Sequence[Tensor]]  # w_i ∇_W L_i by task and parameter of W
    shares_layer: bool  # False: each task has a layer of its own

    @property
    def gradients_TD(self) -> Tensor:
        """∇_W L_i, one row a task, unweighted. Of tasks with a layer each, every row is 0 in the others' places."""
        rows_TD = joined(self.weighted) if self.shares_layer else torch.block_diag(*map(joined, zip(self.weighted)))
        return rows_TD / self.weights_T.unsqueeze(1)

    @property
    def norms_T(self) -> Tensor:
        """n_i = ‖∇_W L_i‖₂, unweighted, in float32 or better."""
        return norms_of(self.weighted) / self.weights_T

    @property
    def gramian_TT(self) -> Tensor:
        """⟨∇_W L_i, ∇_W L_j⟩, unweighted, in float32 or better."""
        return gramian(self.gradients_TD)


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
        """Each task differentiated down to the shared layer, the weights being unknown."""
        ...

    def backward(self, inputs: Sequence[Tensor], targets: Targets, weights_T: Tensor) -> WeightedTaskGradients:
        """Add the gradient of Σ_i w_i L_i to every parameter's ``grad``, the weights (> 0) taken as constants, and tell
        each task's gradient at the shared layer.
        """
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


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """A batch's forward pass, cut between shared layer and heads."""

    trunk_output: Tensor  # h
    output: Tensor  # z, with the graph of trunk and shared layer
    copies: list[Tensor]  # z_i, what each head got
    losses: list[Tensor]  # with their graphs down to the copies


class SharedDifferentiator:
    """T tasks on one trunk and one shared layer."""

    def __init__(self, model: MultiTaskModel, tasks: Sequence[Task], *, autocast: torch.dtype | None = None) -> None:
        self._model = model
        self._autocast = autocast
        self._heads = [(task, model.heads[task.name]) for task in tasks]
        # Listed once: walking the modules at every step costs as much as a small network's forward pass.
        self._shared_parameters = trained_parameters(model.shared_layer)
        shared = set(map(id, self._shared_parameters))
        # For every task all the others, whatever module lists them: a head may use a layer of the trunk or of another
        # head. Asking for a gradient that does not exist costs next to nothing.
        self._other_parameters = [parameter for parameter in trained_parameters(model) if id(parameter) not in shared]
        self._in_place: set[int] = set()  # heads that write into what they are given
        if not self._shared_parameters:
            raise ValueError(
                "the shared layer has no trainable parameter: there is nowhere to compare the tasks' gradients"
            )
        self._shared_rows = SharedRows(model.shared_layer, self._shared_parameters)

    def plain_losses(self, inputs: Sequence[Tensor], targets: Targets) -> PlainLosses:
        with self._forward(inputs):
            _, cut_output = self._cut_output(inputs)
            outputs = [head(cut_output) for _, head in self._heads]
        return PlainLosses(attached_losses_T=torch.stack(self._losses(outputs, targets)))

    def task_gradients(self, inputs: Sequence[Tensor], targets: Targets) -> SharedTaskGradients:
        cut = self._cut(inputs, targets)
        num_shared = len(self._shared_parameters)
        directs, cut_gradients, other_gradients = [], [], []
        for copy, loss in zip(cut.copies, cut.losses, strict=True):
            down_to = [*self._shared_parameters, copy, *self._other_parameters]
            # Kept for the last task too: a head may reach into the trunk's graph, which is walked once more.
            gradients = torch.autograd.grad(loss, down_to, retain_graph=True, allow_unused=True)
            directs.append(gradients[:num_shared])
            cut_gradients.append(gradients[num_shared])
            other_gradients.append(gradients[num_shared + 1 :])
        rows = self._shared_rows.of(cut.trunk_output, cut.output, cut_gradients)
        return SharedTaskGradients(
            losses_T=torch.stack([loss.detach() for loss in cut.losses]),
            gradients_TD=joined(self._shared_rows.with_directs(rows, directs)),
            shared_parameters=self._shared_parameters,
            other_parameters=self._other_parameters,
            other_gradients=other_gradients,
            cut_output=cut.output,
            cut_gradients=cut_gradients,
        )

    def backward(self, inputs: Sequence[Tensor], targets: Targets, weights_T: Tensor) -> WeightedTaskGradients:
        cut = self._cut(inputs, targets)
        earlier = [parameter.grad for parameter in self._shared_parameters]
        for parameter in self._shared_parameters:
            parameter.grad = None
        attached_T = torch.stack(cut.losses)
        weights_T = weights_T.to(attached_T.dtype)
        # The graph is kept for heads that use W, and for those that reach into the trunk's.
        torch.autograd.backward(attached_T, weights_T, retain_graph=True)
        directs: Sequence[Gradients] = ()
        if any(parameter.grad is not None for parameter in self._shared_parameters):
            # A head uses W itself. What the pass has left there is the sum over the tasks; each one's part is needed.
            pairs = zip(cut.losses, weights_T.unbind(), strict=True)
            directs = [down_to_shared(loss, weight, self._shared_parameters) for loss, weight in pairs]
        losses_T = attached_T.detach()
        cut.losses.clear()  # with attached_T the last that holds the heads' graphs: what follows needs the memory,
        del attached_T  # and is the faster for finding it in the cache
        gradients = [copy.grad for copy in cut.copies]
        rows = self._shared_rows.of(cut.trunk_output, cut.output, gradients)
        weighted = self._shared_rows.with_directs(rows, directs)
        for parameter, gradient, *parts in zip(self._shared_parameters, earlier, *weighted, strict=True):
            parameter.grad = gradient
            _add_gradient(parameter, _sum(parts))
        _backward_to_trunk(cut.output, [g for g in gradients if g is not None], self._other_parameters)
        return WeightedTaskGradients(losses_T=losses_T, weights_T=weights_T, weighted=weighted, shares_layer=True)

    def _cut(self, inputs: Sequence[Tensor], targets: Targets) -> _Cut:
        with self._forward(inputs):
            trunk_output, cut_output = self._cut_output(inputs)
            copies = [cut_output.detach().requires_grad_() for _ in self._heads]
            outputs = [self._head_output(index, copy) for index, copy in enumerate(copies)]
        losses = self._losses(outputs, targets)
        return _Cut(trunk_output=trunk_output, output=cut_output, copies=copies, losses=losses)

    def _forward(self, inputs: Sequence[Tensor]) -> AbstractContextManager[object]:
        """What the forward pass runs in; the backward pass does not: each of its operations knows its own type."""
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(inputs[0].device.type, self._autocast)

    def _cut_output(self, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """h and z."""
        trunk_output = self._model.trunk(*inputs)
        cut_output = self._model.shared_layer(trunk_output)
        if not isinstance(cut_output, Tensor):
            raise TypeError(f"the shared layer must give one tensor to the heads, not {type(cut_output).__name__}")
        return trunk_output, cut_output

    def _head_output(self, index: int, cut: Tensor) -> Tensor:
        _, head = self._heads[index]
        if index not in self._in_place:
            try:
                return head(cut)
            except RuntimeError as error:
                if "in-place" not in str(error):
                    raise
                self._in_place.add(index)  # such as a ReLU that saves memory: a cut must stay as it is
        return head(cut.clone())

    def _losses(self, outputs: Sequence[Tensor], targets: Targets) -> list[Tensor]:
        return [
            task.loss(_at_least_float32(output), targets[task.name])
            for (task, _), output in zip(self._heads, outputs, strict=True)
        ]


class SeparateDifferentiator:
    """T tasks with a network each."""

    def __init__(self, model: SeparateModels, tasks: Sequence[Task], *, autocast: torch.dtype | None = None) -> None:
        self._parts = [SharedDifferentiator(model.network(task.name), [task], autocast=autocast) for task in tasks]

    def plain_losses(self, inputs: Sequence[Tensor], targets: Targets) -> PlainLosses:
        parts = [part.plain_losses(inputs, targets).attached_losses_T for part in self._parts]
        return PlainLosses(attached_losses_T=torch.cat(parts))

    def task_gradients(self, inputs: Sequence[Tensor], targets: Targets) -> SeparateTaskGradients:
        return SeparateTaskGradients(parts=[part.task_gradients(inputs, targets) for part in self._parts])

    def backward(self, inputs: Sequence[Tensor], targets: Targets, weights_T: Tensor) -> WeightedTaskGradients:
        weights = weights_T.split(1)
        parts = [part.backward(inputs, targets, w) for part, w in zip(self._parts, weights, strict=True)]
        return WeightedTaskGradients(
            losses_T=torch.cat([part.losses_T for part in parts]),
            weights_T=weights_T,
            weighted=[row for part in parts for row in part.weighted],
            shares_layer=False,
        )


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that an optimiser may move."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _backward_to_trunk(cut_output: Tensor, gradients: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    """Add what the sum of the gradients at the cut does to those parameters, W not being among them."""
    if not gradients or not parameters:
        return
    torch.autograd.backward(cut_output, _sum(gradients), inputs=list(parameters))


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    """The same as of their stack, without making that."""
    return functools.reduce(torch.add, tensors)


def _add_row(parameters: Sequence[nn.Parameter], row_D: Tensor) -> None:
    for parameter, gradient in zip(parameters, split_row(row_D, parameters), strict=True):
        _add_gradient(parameter, gradient)


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
