"""The forward pass of N modules of one kind at once.

The layers that most networks are made of have a rule here: one call of torch for all lanes, at the price of one. Every
other module goes through ``torch.func``: its own code, vmapped. A module that is a composition, or knows a cheaper way,
says so itself by a method ``stacked_forward`` (:class:`Stackable`).

Shapes: N lanes, B rows, I and O numbers that go into a linear layer and come out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from trainables.stacked.draws import LaneDraws, VmappedDropout
from trainables.stacked.errors import NotStackableError
from trainables.stacked.parameters import StackedParameters

# Takes the lanes' inputs, each (N, ...), and gives their outputs, (N, ...).
Forward = Callable[..., Tensor]

# They look at every number for itself, or change no number at all.
_ELEMENTWISE = (
    *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Tanhshrink),
)


@runtime_checkable
class Stackable(Protocol):
    """A module that knows how N of it are computed at once."""

    def stacked_forward(self, stack: Stack) -> Forward:
        """Called on the first lane's module. ``stack`` has the tensors and the modules of all of them."""
        ...


class Stack:
    """N networks of one structure: their tensors by those of the first, and their modules' forward passes."""

    def __init__(
        self,
        networks: Sequence[nn.Module],
        parameters: StackedParameters,
        draws: LaneDraws,
        lanes: Sequence[int] | None = None,
    ) -> None:
        """``lanes``: those among the networks that take part, all of them if not given."""
        self._draws = draws
        self._lanes = list(range(len(networks))) if lanes is None else list(lanes)
        self._peers = {
            id(modules[0]): [modules[lane] for lane in self._lanes]
            for modules in zip(*[network.modules() for network in networks], strict=True)
        }
        self._constants = {id(tensors[0]): tensors for tensors in _constants(networks, parameters)}
        self._stacked_constants: dict[int, Tensor] = {}
        self._parameters = parameters
        # Of some lanes only: rows of the leaves, picked anew at every call, for the leaves move.
        self._rows = None if lanes is None else torch.tensor(self._lanes, device=parameters.values_NP.device)

    def tensor(self, of_first: Tensor) -> Callable[[], Tensor]:
        """What gives the lanes' counterparts, (N, ...), of a parameter or a buffer of the first network."""
        place = self._parameters.place(of_first)
        if place is None:
            constant = self._constant(of_first)
            return lambda: constant
        leaf, rows = self._parameters.leaves[place], self._rows
        return (lambda: leaf) if rows is None else (lambda: leaf.index_select(0, rows))

    def peers(self, of_first: nn.Module) -> Sequence[nn.Module]:
        """The lanes' counterparts of a module of the first network."""
        return self._peers[id(of_first)]

    def dropout(self, of_first: nn.Dropout) -> Callable[[Tensor], Tensor]:
        """Dropout in training, each lane with its own share and its own generator. Of a layer that stays in evaluation
        mode whatever the network is in, as a fixed backbone's does, nothing is dropped.
        """
        peers = self.peers(of_first)
        shares = [float(getattr(peer, "p")) if peer.training else 0.0 for peer in peers]  # noqa: B009 - of a Module
        draws, lanes = self._draws, self._lanes
        return lambda inputs: draws.dropped(inputs, shares, lanes)

    def forward(self, module: nn.Module) -> Forward:
        """The forward pass of the lanes' counterparts of a module of the first network, in training.

        Raises:
            NotStackableError: the module does what cannot be stacked.
        """
        if not _is_plain(module):
            return self._vmapped(module)
        if type(module) is nn.Sequential:
            return _composed([self.forward(part) for part in module])
        if isinstance(module, Stackable) and _is_of_its_forward(module):
            return module.stacked_forward(self)
        if type(module) is nn.Linear:
            return self._linear(module)
        if type(module) is nn.LayerNorm:
            return self._layer_norm(module)
        if type(module) is nn.Dropout:
            return self.dropout(module)
        if type(module) is nn.Flatten:
            shift = int(module.start_dim >= 0), int(module.end_dim >= 0)
            return nn.Flatten(module.start_dim + shift[0], module.end_dim + shift[1])
        return module if type(module) in _ELEMENTWISE else self._vmapped(module)

    def _constant(self, of_first: Tensor) -> Tensor:
        """Stacked when it is asked for: most networks have none, and those that have keep them."""
        found = self._stacked_constants.get(id(of_first))
        if found is None:
            tensors = self._constants[id(of_first)]
            found = torch.stack([tensors[lane].detach() for lane in self._lanes])
            self._stacked_constants[id(of_first)] = found
        return found

    def _linear(self, layer: nn.Linear) -> Forward:
        weight, bias = self.tensor(layer.weight), None if layer.bias is None else self.tensor(layer.bias)

        def forward(inputs: Tensor) -> Tensor:
            rows_NBI = as_rows(inputs)
            weight_NIO = weight().mT
            if bias is None:
                outputs = torch.bmm(rows_NBI, weight_NIO)
            else:
                outputs = torch.baddbmm(bias().unsqueeze(1), rows_NBI, weight_NIO)
            return outputs if inputs.dim() == 3 else outputs.view(*inputs.shape[:-1], -1)

        # Of one row without a dimension of rows torch makes a vector; nobody trains so.
        return forward

    def _layer_norm(self, layer: nn.LayerNorm) -> Forward:
        scale = self.tensor(layer.weight) if layer.weight is not None else None
        shift = self.tensor(layer.bias) if layer.bias is not None else None

        def forward(inputs: Tensor) -> Tensor:
            outputs = functional.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
            outputs = outputs if scale is None else outputs * over_rows(scale(), inputs.dim())
            return outputs if shift is None else outputs + over_rows(shift(), inputs.dim())

        return forward

    def _vmapped(self, module: nn.Module) -> Forward:
        """The module's own code, over all lanes at once by ``torch.vmap``.

        It runs on a skeleton without numbers: code that reaches past the module's own tensors, which are all that can
        be stacked, does not pass unnoticed.
        """
        stacked = {
            name: self.tensor(tensor)
            for named in (module.named_parameters, module.named_buffers)
            for name, tensor in named(remove_duplicate=False)
        }
        skeleton = self._skeleton(module)

        def of_one_lane(tensors: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
            return functional_call(skeleton, dict(tensors), inputs)

        over_lanes = torch.vmap(of_one_lane, randomness="error")
        return lambda *inputs: over_lanes({name: tensor() for name, tensor in stacked.items()}, *inputs)

    def _skeleton(self, module: nn.Module) -> nn.Module:
        skeleton = copy.deepcopy(module)
        if type(module) is nn.Dropout:
            raise NotStackableError("a hook is on a dropout layer")
        if type(module) is nn.Embedding and module.padding_idx is not None:
            skeleton = _PaddedEmbedding(module)
        for name, part in list(module.named_modules(remove_duplicate=False))[1:]:
            parent, _, attribute = name.rpartition(".")
            if type(part) is nn.Dropout:
                setattr(skeleton.get_submodule(parent), attribute, _LaneDropout(self.dropout(part)))
            elif type(part) is nn.Embedding and part.padding_idx is not None:
                setattr(skeleton.get_submodule(parent), attribute, _PaddedEmbedding(part))
        return skeleton.to("meta")


class _LaneDropout(nn.Module):
    """In place of a dropout layer, in code that is vmapped."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._draw = draw

    def forward(self, inputs: Tensor) -> Tensor:
        return VmappedDropout.apply(inputs, self._draw)


class _PaddedEmbedding(nn.Module):
    """In place of an embedding whose padding must not learn, which torch forgets where it is vmapped."""

    def __init__(self, of_one: nn.Embedding) -> None:
        super().__init__()
        if of_one.max_norm is not None:
            raise NotStackableError("an embedding with max_norm changes its table at every step")
        self.weight = nn.Parameter(torch.empty_like(of_one.weight, device="meta"))
        self._padding_idx = of_one.padding_idx

    def forward(self, codes: Tensor) -> Tensor:
        rows = functional.embedding(codes, self.weight)
        return torch.where((codes == self._padding_idx).unsqueeze(-1), rows.detach(), rows)


def as_rows(tensor: Tensor) -> Tensor:
    """(N, rows, numbers), with whatever stands between the rows and the numbers put to the rows."""
    return tensor if tensor.dim() == 3 else tensor.flatten(1, -2)


def over_rows(per_lane: Tensor, num_dims: int) -> Tensor:
    """(N, ...) with dimensions of 1 after the first, so that it meets tensors of (N, rows, ...)."""
    return per_lane.view(len(per_lane), *[1] * (num_dims - per_lane.dim()), *per_lane.shape[1:])


def _composed(forwards: Sequence[Forward]) -> Forward:
    def forward(inputs: Tensor) -> Tensor:
        for part in forwards:
            inputs = part(inputs)
        return inputs

    return forward


def _is_plain(module: nn.Module) -> bool:
    """Whether the module's class says all that it does: no hook, and no forward pass of its own."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and "forward" not in vars(module)


def _is_of_its_forward(module: nn.Module) -> bool:
    """Whether its ``stacked_forward`` was written for its ``forward``, and not for that of a class it derives from."""
    for owner in (module, *type(module).__mro__):
        if "stacked_forward" in vars(owner):
            return True
        if "forward" in vars(owner):
            return False
    return False


def _constants(networks: Sequence[nn.Module], parameters: StackedParameters) -> Sequence[tuple[Tensor, ...]]:
    """Each tensor of the networks that is not trained, of all lanes."""
    named = [
        [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
        for network in networks
    ]
    rows = zip(*[[tensor for _, tensor in one] for one in named], strict=True)
    return [row for row in rows if parameters.place(row[0]) is None]
