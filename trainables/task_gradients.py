"""What is known of one batch's losses once they are differentiated, and how the network's gradient is made of it.

Shapes: T tasks, D parameters of the shared layer W (flattened and joined).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.shared_rows import Gradients, joined, norms_of, split_row


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
        backward_to_trunk(self.cut_output, parts, self.other_parameters)


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


def backward_to_trunk(cut_output: Tensor, gradients: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
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
    return torch.linalg.vector_norm(at_least_float32(gradients_TD), dim=1)


def gramian(gradients_TD: Tensor) -> Tensor:
    """⟨g_i, g_j⟩ of the rows, shape (T, T), in float32 or better."""
    rows_TD = at_least_float32(gradients_TD)
    return rows_TD @ rows_TD.mT


def at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
