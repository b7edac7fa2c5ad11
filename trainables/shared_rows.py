"""∇_W L_i of every task, out of its gradient at the shared layer's output.

Shapes: B rows of a batch (of any number of dimensions), I and O numbers that go into a linear layer and come out, T
tasks, D parameters of the shared layer W (flattened and joined).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.tapped_linear import has_hooks, is_linear, products

Gradients = Sequence[Tensor | None]  # by the parameters of W, in their order; None: no way leads there


def joined(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """(T, D) of gradients by task and parameter."""
    return torch.stack([torch.cat([gradient.flatten() for gradient in row]) for row in rows])


def norms_of(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """The length of each task's row, (T,), in float32 or better, without joining it."""
    parts = [gradient for row in rows for gradient in row]
    if parts[0].dtype.itemsize < torch.float32.itemsize:
        parts = [gradient.float() for gradient in parts]
    of_parts = torch._foreach_norm(parts)  # pyright: ignore[reportPrivateImportUsage]
    return torch.linalg.vector_norm(torch.stack(of_parts).view(len(rows), -1), dim=1)


def split_row(row_D: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The row's parts, each of the shape of its parameter."""
    parts = row_D.split([parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]


def down_to_shared(output: Tensor, gradient: Tensor, parameters: Sequence[nn.Parameter]) -> Gradients:
    """From ``output`` to W by every way there is, and no further: what no way leads through is not computed."""
    return torch.autograd.grad(output, parameters, gradient, retain_graph=True, allow_unused=True)


class SharedRows:
    """The rows ∇_W L_i for one network, batch after batch."""

    def __init__(self, shared_layer: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._layer = shared_layer
        self._is_linear = is_linear(shared_layer, parameters)

    @property
    def is_linear_now(self) -> bool:
        """Whether W is that of z = h Wᵀ + b, and no hook does anything besides."""
        return self._is_linear and not has_hooks(self._layer, self._parameters)

    def of(
        self, trunk_output: Tensor, cut_output: Tensor, cut_gradients: Sequence[Tensor | None]
    ) -> list[list[Tensor]]:
        """By task and parameter of W, from the gradients at the cut, z: by way of the shared layer, and of the trunk
        where that uses W too.

        ``cut_gradients``: one a task; None of one that does not use z.
        """
        if self._can_be_multiplied(trunk_output, cut_output):
            h = trunk_output.detach()
            return [self._zeros() if g is None else products(g, h, self._parameters) for g in cut_gradients]
        return [
            self._zeros() if g is None else self._filled(down_to_shared(cut_output, g, self._parameters))
            for g in cut_gradients
        ]

    def with_directs(self, rows: list[list[Tensor]], directs: Sequence[Gradients]) -> list[list[Tensor]]:
        """The same with what heads that use W themselves have for it besides."""
        if not any(gradient is not None for direct in directs for gradient in direct):
            return rows
        pairs = zip(rows, map(self._filled, directs), strict=True)
        return [[one + other for one, other in zip(*pair, strict=True)] for pair in pairs]

    def _filled(self, gradients: Gradients) -> list[Tensor]:
        """A parameter that a task does not use counts as zero."""
        pairs = zip(gradients, self._parameters, strict=True)
        return [torch.zeros_like(parameter) if gradient is None else gradient for gradient, parameter in pairs]

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(parameter) for parameter in self._parameters]

    def _can_be_multiplied(self, trunk_output: Tensor, cut_output: Tensor) -> bool:
        """Whether W is a linear layer that this batch used once, and all is of one type: of others autograd knows the
        casts.
        """
        if not self.is_linear_now:
            return False
        if not trunk_output.dtype == cut_output.dtype == self._parameters[0].dtype:
            return False
        return not self._is_used_by(trunk_output)

    def _is_used_by(self, trunk_output: Tensor) -> bool:
        """Whether the trunk uses W: asked of the graph, since a module may use a layer that it does not list, or
        use one now and then. Where no way leads to W nothing is computed.
        """
        if not trunk_output.requires_grad:
            return False
        zeros = trunk_output.new_zeros(()).expand_as(trunk_output)
        return any(gradient is not None for gradient in down_to_shared(trunk_output, zeros, self._parameters))
