"""A linear shared layer that keeps what each head sends back to it.

z = h Wᵀ + b goes to T heads. When a backward pass brings their gradients g_i to it, the layer keeps, for each of them,

    ∂/∂W = g_iᵀ h,   ∂/∂b = Σ_B g_i,

and hands (Σ_i g_i) W on to the trunk. So one ordinary backward pass serves heads, shared layer and trunk, and what it
costs to know the tasks one by one is T − 1 products of the shared layer.

Shapes: B rows of a batch (of any number of dimensions), I and O numbers that go into the layer and come out, T heads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class Tap:
    """The layer in the graph of one batch."""

    def __init__(self, layer: nn.Linear, parameters: Sequence[nn.Parameter], num_heads: int) -> None:
        """``parameters``: those of the layer that are trained, the weight first."""
        self.layer = layer
        self.parameters = parameters
        self.num_heads = num_heads
        # False: a head that differentiates z for an output of its own (a penalty, say) brings no task's gradient.
        self.is_open = False
        self._rows: list[list[Tensor]] | None = None

    def outputs(self, h: Tensor) -> Sequence[Tensor]:
        """z, once a head. They share their memory: no head may write into what it is given."""
        return _TappedLinear.apply(self, h, *self.parameters)

    @property
    def rows(self) -> list[list[Tensor]]:
        """By head and parameter, what the first pass since it is open has brought; 0 of a head that does not use z."""
        if self._rows is None:
            return [self._zeros() for _ in range(self.num_heads)]
        return self._rows

    def keep(self, h: Tensor, gradients: Sequence[Tensor | None]) -> None:
        """Take the heads' gradients at z. What later passes bring is not kept: they ask for other things."""
        if self.is_open and self._rows is None:
            self._rows = [self._zeros() if g is None else products(g, h, self.parameters) for g in gradients]

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(parameter) for parameter in self.parameters]


class _TappedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tap: Tap, h: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.tap = tap
        ctx.save_for_backward(h, parameters[0])
        ctx.set_materialize_grads(False)
        z = tap.layer(h)
        return tuple(z.view_as(z) for _ in range(tap.num_heads))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        h, weight = ctx.saved_tensors
        ctx.tap.keep(h, gradients)
        there = [gradient for gradient in gradients if gradient is not None]
        reaches_trunk = there and ctx.needs_input_grad[1]
        of_h = functools.reduce(torch.add, there) @ weight if reaches_trunk else None
        # W and b get nothing, so that what a pass leaves in them is known to come from another use of them. They are
        # inputs all the same: the graph has to reach this node even where h needs no gradient.
        return None, of_h, *(None for _ in ctx.tap.parameters)


def products(gradient: Tensor, h: Tensor, parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """∂/∂W and, where it is among the parameters, ∂/∂b of z = h Wᵀ + b, from the gradient at z."""
    g_BO, h_BI = _as_rows(gradient), _as_rows(h)
    of_weight = torch.mm(g_BO.t(), h_BI)
    return [of_weight, *(g_BO.sum(0) for _ in parameters[1:])]


def _as_rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.shape[-1])


def is_linear(layer: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the layer is z = h Wᵀ + b and nothing besides; :func:`has_hooks` is another question.

    ``parameters``: those of it that are trained; the weight has to be one of them.
    """
    if type(layer) is not nn.Linear or "forward" in vars(layer):  # one with a parametrisation is of another class
        return False
    return parameters[0] is layer.weight and all(parameter is layer.bias for parameter in parameters[1:])


def has_hooks(layer: nn.Module, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether the layer, or a parameter's gradient, does something besides, now."""
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return True
    return any(parameter._backward_hooks for parameter in parameters)
