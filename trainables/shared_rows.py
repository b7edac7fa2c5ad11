"""∇_W L_i of every task, out of its gradient at the shared layer's output.

Shapes: B rows of a batch (of any number of dimensions), I and O numbers that go into a linear layer and come out, T
tasks, D parameters of the shared layer W (flattened and joined).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Gradients = Sequence[Tensor | None]  # by the parameters of W, in their order; None: no way leads there


def joined(gradients: Gradients, parameters: Sequence[nn.Parameter]) -> Tensor:
    """One row, (D,); a parameter that a task does not use counts as zero."""
    return torch.cat(
        [
            (torch.zeros_like(parameter) if gradient is None else gradient).flatten()
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ]
    )


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
        self._size = sum(parameter.numel() for parameter in parameters)
        self._is_linear = _is_linear(shared_layer, parameters)
        self._trunk_uses_shared: bool | None = None  # not known before the first batch has gone through

    def of(self, trunk_output: Tensor, cut_output: Tensor, cut_gradients: Sequence[Tensor | None]) -> Tensor:
        """(T, D), from the gradients at the cut, z, by way of the shared layer, and of the trunk where that uses W too.

        ``cut_gradients``: one a task; None of one that does not use z.
        """
        if self._can_be_multiplied(trunk_output, cut_output):
            rows_TD = trunk_output.new_zeros(len(cut_gradients), self._size)
            for gradient, row_D in zip(cut_gradients, rows_TD.unbind(), strict=True):
                _multiply(gradient, trunk_output.detach(), split_row(row_D, self._parameters))
            return rows_TD
        nothing: Gradients = [None] * len(self._parameters)
        rows = [
            nothing if gradient is None else down_to_shared(cut_output, gradient, self._parameters)
            for gradient in cut_gradients
        ]
        return torch.stack([joined(row, self._parameters) for row in rows])

    def _can_be_multiplied(self, trunk_output: Tensor, cut_output: Tensor) -> bool:
        """Whether W is a linear layer that is used once, and all is of one type: of others autograd knows the casts."""
        if self._trunk_uses_shared is None:
            self._trunk_uses_shared = self._asked_of(trunk_output)
        if not self._is_linear or self._trunk_uses_shared:
            return False
        return trunk_output.dtype == cut_output.dtype == self._parameters[0].dtype

    def _asked_of(self, trunk_output: Tensor) -> bool:
        """Whether the trunk uses W: asked of the graph, since a module may use a layer that it does not list."""
        if not isinstance(trunk_output, Tensor) or not trunk_output.requires_grad:
            return False
        found = down_to_shared(trunk_output, torch.zeros_like(trunk_output), self._parameters)
        return any(gradient is not None for gradient in found)


def _multiply(g_BO: Tensor | None, h_BI: Tensor, parts: Sequence[Tensor]) -> None:
    """z = h Wᵀ + b: write ∇_W L_i = g_iᵀ h and ∇_b L_i = Σ_B g_i, without asking autograd T times."""
    if g_BO is None:
        return
    of_weight, *of_bias = parts
    num_out, num_in = of_weight.shape
    g_BO, h_BI = g_BO.reshape(-1, num_out), h_BI.reshape(-1, num_in)
    torch.mm(g_BO.t(), h_BI, out=of_weight)
    for part in of_bias:
        torch.sum(g_BO, 0, out=part)


def _is_linear(layer: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the layer is z = h Wᵀ + b and nothing besides: hooks and parametrisations may do anything."""
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    return parameters[0] is layer.weight and all(parameter is layer.bias for parameter in parameters[1:])
