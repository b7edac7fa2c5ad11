"""∇_W L_i of a task, out of its gradient at the shared layer's output.

Shapes: B rows of a batch (of any number of dimensions), I and O numbers that go into a linear layer and come out, D
parameters of the shared layer W (flattened and joined).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Gradients = Sequence[Tensor | None]  # by the parameters of W, in their order; None: no way leads there


def split_row(row_D: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """The row's parts, each of the shape of its parameter."""
    parts = row_D.split([parameter.numel() for parameter in parameters])
    return [part.view_as(parameter) for part, parameter in zip(parts, parameters, strict=True)]


class SharedRows:
    """The rows ∇_W L_i for one network, task after task."""

    def __init__(self, shared_layer: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self._parameters = parameters
        self._is_linear = _is_linear(shared_layer, parameters)
        self._trunk_uses_shared: bool | None = None  # not known before the first batch has gone through

    def of(self, trunk_output: Tensor, cut_output: Tensor, cut_gradient: Tensor | None, direct: Gradients) -> Tensor:
        """(D,): by way of the cut z, through the shared layer, and the trunk where that uses W too; and directly.

        ``cut_gradient``: by z; None of a task that does not use it. ``direct``: what its head has for W, if it uses W
        itself.
        """
        if cut_gradient is None:
            row_D = self._joined([None] * len(self._parameters))
        elif self._can_be_multiplied(trunk_output, cut_output):
            row_D = _product(cut_gradient, trunk_output.detach(), has_bias=len(self._parameters) > 1)
        else:
            row_D = self._joined(self._walked(cut_output, cut_gradient))
        return row_D if all(gradient is None for gradient in direct) else row_D + self._joined(direct)

    def _walked(self, output: Tensor, gradient: Tensor) -> Gradients:
        """From there to W by every way there is, and no further: what no way leads through is not computed."""
        return torch.autograd.grad(output, self._parameters, gradient, retain_graph=True, allow_unused=True)

    def _joined(self, gradients: Gradients) -> Tensor:
        """One row; a parameter that a task does not use counts as zero."""
        pairs = zip(gradients, self._parameters, strict=True)
        return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs])

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
        return any(gradient is not None for gradient in self._walked(trunk_output, torch.zeros_like(trunk_output)))


def _product(g_BO: Tensor, h_BI: Tensor, *, has_bias: bool) -> Tensor:
    """z = h Wᵀ + b: ∇_W L_i = g_iᵀ h and ∇_b L_i = Σ_B g_i, as autograd does it, without asking it once a task."""
    num_out, num_in = g_BO.shape[-1], h_BI.shape[-1]
    g_BO, h_BI = g_BO.reshape(-1, num_out), h_BI.reshape(-1, num_in)
    row_D = h_BI.new_empty(num_out * num_in + num_out * has_bias)
    torch.mm(g_BO.t(), h_BI, out=row_D[: num_out * num_in].view(num_out, num_in))
    if has_bias:
        torch.sum(g_BO, 0, out=row_D[num_out * num_in :])
    return row_D


def _is_linear(layer: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the layer is z = h Wᵀ + b and nothing besides: hooks and parametrisations may do anything."""
    if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
        return False
    return parameters[0] is layer.weight and all(parameter is layer.bias for parameter in parameters[1:])
