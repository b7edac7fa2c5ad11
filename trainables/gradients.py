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
leaves w_i g_i at each cut; of a linear shared layer the same pass goes on through the trunk
(:mod:`trainables.tapped_linear`). Where they follow from the gradients (mgda, cagrad, ...), every task is
differentiated for itself.

A parameter may be used in several places, by heads, trunk and shared layer alike, and a head may reach past the cut
into trunk and shared layer: each part is autograd's own and counts once, and ∇_W L_i is the whole of it. What a cut
cannot serve is a head that differentiates through the shared layer within its forward pass; it is told by autograd.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.protocol import MultiTaskModel, SeparateModels, Task, writes_in_place
from trainables.shared_rows import Gradients, SharedRows, down_to_shared, joined
from trainables.tapped_linear import Tap
from trainables.task_gradients import (
    PlainLosses,
    SeparateTaskGradients,
    SharedTaskGradients,
    TaskGradients,
    WeightedTaskGradients,
    at_least_float32,
    backward_to_trunk,
)

Targets = Mapping[str, Tensor]


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
        self._in_place = {index for index, (_, head) in enumerate(self._heads) if writes_in_place(head)}
        if not self._shared_parameters:
            raise ValueError(
                "the shared layer has no trainable parameter: there is nowhere to compare the tasks' gradients"
            )
        self._shared_rows = SharedRows(model.shared_layer, self._shared_parameters)

    def plain_losses(self, inputs: Sequence[Tensor], targets: Targets) -> PlainLosses:
        with self._forward(inputs):
            _, cut_output = self._cut_output(inputs)
            outputs = [self._head_output(index, cut_output) for index in range(len(self._heads))]
        return PlainLosses(attached_losses_T=torch.stack(self._losses(outputs, targets)))

    def task_gradients(self, inputs: Sequence[Tensor], targets: Targets) -> SharedTaskGradients:
        cut = self._cut(inputs, targets)
        num_shared = len(self._shared_parameters)
        directs, cut_gradients, other_gradients = [], [], []
        for copy, loss in zip(cut.copies, cut.losses, strict=True):
            down_to = [*self._shared_parameters, copy, *self._other_parameters]
            # Kept for the last task too: a head may reach into the trunk's graph, which is walked once more.
            gradients: Gradients = [None] * len(down_to)  # of a loss that nothing leads to, such as of no labelled row
            if loss.requires_grad:
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
        earlier = [parameter.grad for parameter in self._shared_parameters]
        for parameter in self._shared_parameters:
            parameter.grad = None
        is_tapped = self._autocast is None and self._shared_rows.is_linear_now
        backward = self._backward_tapped if is_tapped else self._backward_cut
        losses_T, weighted = backward(inputs, targets, weights_T)
        sums = functools.reduce(torch._foreach_add, weighted)  # pyright: ignore[reportPrivateImportUsage]
        if len(weighted) == 1:
            sums = [gradient.clone() for gradient in sums]  # clipping must not reach what is told of the task
        for parameter, before, gradient in zip(self._shared_parameters, earlier, sums, strict=True):
            parameter.grad = gradient if before is None else before + gradient
        return WeightedTaskGradients(losses_T=losses_T, weights_T=weights_T, weighted=weighted, shares_layer=True)

    def _backward_tapped(
        self, inputs: Sequence[Tensor], targets: Targets, weights_T: Tensor
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """In one pass: the losses, and by task and parameter the gradients of W, which it leaves without any."""
        assert isinstance(self._model.shared_layer, nn.Linear)
        tap = Tap(self._model.shared_layer, self._shared_parameters, len(self._heads))
        copies = tap.outputs(self._model.trunk(*inputs))
        outputs = [self._head_output(index, copy) for index, copy in enumerate(copies)]
        losses = self._losses(outputs, targets)
        tap.is_open = True
        losses_T, directs = self._backward_losses(losses, weights_T)
        return losses_T, self._shared_rows.with_directs(tap.rows, directs)

    def _backward_cut(
        self, inputs: Sequence[Tensor], targets: Targets, weights_T: Tensor
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """The same of any shared layer, in two passes: the heads down to the cut, and the trunk."""
        cut = self._cut(inputs, targets)
        losses_T, directs = self._backward_losses(cut.losses, weights_T)
        cut.losses.clear()  # the last that holds the heads' graphs: what follows needs the memory, and finds it cached
        gradients = [copy.grad for copy in cut.copies]
        rows = self._shared_rows.of(cut.trunk_output, cut.output, gradients)
        backward_to_trunk(cut.output, [g for g in gradients if g is not None], self._other_parameters)
        return losses_T, self._shared_rows.with_directs(rows, directs)

    def _backward_losses(self, losses: list[Tensor], weights_T: Tensor) -> tuple[Tensor, Sequence[Gradients]]:
        """One pass of Σ_i w_i L_i. The losses, and what each task has for W by other ways than the shared layer."""
        attached_T = torch.stack(losses)
        weights_T = weights_T.to(attached_T.dtype)
        # The graph is kept for heads that use W, and for those that reach into the trunk's.
        torch.autograd.backward(attached_T, weights_T, retain_graph=True)
        directs: Sequence[Gradients] = ()
        if any(parameter.grad is not None for parameter in self._shared_parameters):
            # What the pass has left there is the sum over the tasks; each one's part is needed.
            pairs = zip(losses, weights_T.unbind(), strict=True)
            directs = [down_to_shared(loss, weight, self._shared_parameters) for loss, weight in pairs]
        return attached_T.detach(), directs

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
        """Raises RuntimeError where the head changes ``cut``, which belongs to all heads, unannounced."""
        task, head = self._heads[index]
        if index in self._in_place:
            return head(cut.clone())
        version = cut._version
        try:
            output = head(cut)
        except RuntimeError as error:
            if "inplace" not in str(error).replace("-", ""):
                raise
            raise RuntimeError(_IN_PLACE.format(task.name)) from error
        if cut._version != version:
            raise RuntimeError(_IN_PLACE.format(task.name))
        return output

    def _losses(self, outputs: Sequence[Tensor], targets: Targets) -> list[Tensor]:
        """In the parameters' type.

        Raises:
            ValueError: a loss is no single number; names the task.
        """
        dtype, losses = self._shared_parameters[0].dtype, []
        for (task, _), output in zip(self._heads, outputs, strict=True):
            loss = task.loss(at_least_float32(output), targets[task.name])
            if loss.dim() > 0:
                raise ValueError(
                    f"task {task.name!r}: its loss must be one number, the mean over the rows, but has shape "
                    f"{tuple(loss.shape)}"
                )
            losses.append(loss if loss.dtype == dtype else loss.to(dtype))
        return losses


_IN_PLACE = (
    "the head of task {!r} writes into the shared layer's output, which the other heads get too: let it work on a copy "
    "(x.clone()), or do it by a module that has inplace=True, which is given one"
)


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
