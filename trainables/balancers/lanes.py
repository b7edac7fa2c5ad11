"""The balancers of lanes that are trained together weigh together: a few calls a step, however many lanes there are.

Shapes: N lanes, K of them in a group, T tasks, one row a lane.

Lanes whose balancers differ in numbers alone (``Balancer.lane_numbers``) are one group. For a group there is one
balancer, whose numbers are tensors of shape (K, 1), with one state, the lanes' states on top of each other: vectors
(K, T), scalars (K, 1). Its ``weigh`` is the very one of a single lane; what it adds up, it adds up along the last
dimension, so that no lane sees another, even where one has become NaN. A balancer that does not say that it can be
stacked, and a lane that is alone of its kind, goes on by itself, row by row.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any, Protocol, cast

import torch
from torch import Generator, Tensor

from trainables.balancers.base import WEIGHTS, Balancer, GradientInfo, Needs, State
from trainables.batches import moved_without_waiting


class BalancerLanes:
    """The balancers of N lanes: each with its own rule, numbers, state and generator.

    As with a single balancer, no tensor that was given or handed out is changed. Whoever changes which lanes there are,
    or which balancer a lane has (``settled``), makes a new one of :meth:`state_of` each lane.
    """

    def __init__(self, balancers: Sequence[Balancer], states: Sequence[State], generators: Sequence[Generator]) -> None:
        """One of each for every lane, in the lanes' order; all states on one device, in one type, of the same tasks.

        Raises:
            ValueError: there is no lane, or not one of each for every lane.
        """
        if not len(balancers) == len(states) == len(generators) > 0:
            raise ValueError(
                f"one balancer, state and generator a lane, of one lane at least, not {len(balancers)}, "
                f"{len(states)} and {len(generators)}"
            )
        self._balancers = list(balancers)
        self._after_step_lanes = [lane for lane, balancer in enumerate(balancers) if balancer.uses_after_step]
        device = states[0][WEIGHTS].device
        after_rows = {lane: row for row, lane in enumerate(self._after_step_lanes)}
        groups = _groups(balancers)
        self._order = _Rows(_inverse([lane for lanes in groups for lane in lanes]), device)
        self._parts: list[tuple[_Part, _Rows]] = []  # with the rows of its lanes
        self._after_step: list[tuple[_Part, _Rows]] = []  # with those among the lanes that it asks for
        self._places: dict[int, tuple[_Part, int]] = {}  # of each lane: its part, and its row there
        for lanes in groups:
            part = _part_of([balancers[i] for i in lanes], [states[i] for i in lanes], [generators[i] for i in lanes])
            self._parts.append((part, _Rows(lanes, device)))
            if part.balancer.uses_after_step:
                self._after_step.append((part, _Rows([after_rows[lane] for lane in lanes], device)))
            self._places |= {lane: (part, row) for row, lane in enumerate(lanes)}

    @property
    def needs(self) -> Needs:
        """The most that any lane needs."""
        return max(balancer.needs for balancer in self._balancers)

    @property
    def weights_NT(self) -> Tensor:
        """The weights that the next step will use, as far as they are known before it."""
        return self._joined([part.weights_KT for part, _ in self._parts])

    def weigh(self, losses_NT: Tensor, norms_NT: Tensor | None = None, gramians_NTT: Tensor | None = None) -> Tensor:
        """The weights for this step, (N, T); moves the states. Of the gradients, what :attr:`needs` says has to be
        there; a lane is shown no more of them than it needs itself.
        """
        weights = []
        for part, rows in self._parts:
            needs = part.balancer.needs
            info = GradientInfo(
                norms_T=rows.of(norms_NT) if norms_NT is not None and needs >= Needs.NORMS else None,
                gramian_TT=rows.of(gramians_NTT) if gramians_NTT is not None and needs >= Needs.GRAMIAN else None,
            )
            weights.append(part.weigh(rows.of(losses_NT), info))
        return self._joined(weights)

    @property
    def after_step_lanes(self) -> Sequence[int]:
        """The lanes whose balancer wants to know the same batch's losses after the step (``uses_after_step``)."""
        return self._after_step_lanes

    def after_step(self, losses_KT: Tensor) -> None:
        """Move the states of the :attr:`after_step_lanes`; gets their losses after the step, in that order."""
        for part, rows in self._after_step:
            part.after_step(rows.of(losses_KT))

    def state_of(self, lane: int) -> State:
        """One lane's state as its balancer alone would have it: what checkpoints keep and reports are made of."""
        part, row = self._places[lane]
        return part.state_of(row)

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """The rows of all groups in the lanes' order."""
        return self._order.of(torch.cat(list(parts)) if len(parts) > 1 else parts[0])


def _groups(balancers: Sequence[Balancer]) -> list[list[int]]:
    """The lanes that weigh at once, those that weigh by themselves each as a group of its own."""
    groups: dict[Hashable, list[int]] = {}
    for lane, balancer in enumerate(balancers):
        key = (type(balancer), balancer.static_settings) if balancer.is_stackable else lane
        groups.setdefault(key, []).append(lane)
    return list(groups.values())


def _inverse(lanes: Sequence[int]) -> list[int]:
    """Where in ``lanes`` each lane is."""
    return sorted(range(len(lanes)), key=lanes.__getitem__)


class _Rows:
    """Some rows of a tensor, in an order; without a copy where they lie side by side."""

    def __init__(self, rows: Sequence[int], device: torch.device) -> None:
        first, last = rows[0], rows[0] + len(rows)
        self._slice = slice(first, last)
        is_range = list(rows) == list(range(first, last))
        self._index = None if is_range else moved_without_waiting(torch.tensor(rows), device)

    def of(self, tensor: Tensor) -> Tensor:
        return tensor[self._slice] if self._index is None else tensor.index_select(0, self._index)


class _Part(Protocol):
    """The lanes of one group. Tensors that come and go have a row for each of them."""

    balancer: Balancer

    @property
    def weights_KT(self) -> Tensor: ...

    def weigh(self, losses_KT: Tensor, gradients: GradientInfo) -> Tensor: ...

    def after_step(self, losses_KT: Tensor) -> None: ...

    def state_of(self, row: int) -> State: ...


def _part_of(balancers: Sequence[Balancer], states: Sequence[State], generators: Sequence[Generator]) -> _Part:
    if len(balancers) == 1:
        return _OneLane(balancers[0], states[0], generators[0])
    return _StackedLanes(balancers, states, generators)


class _OneLane:
    """A lane that weighs by itself, just as it would outside: K = 1."""

    def __init__(self, balancer: Balancer, state: State, generator: Generator) -> None:
        self.balancer = balancer
        self._state = state
        self._generator = generator

    @property
    def weights_KT(self) -> Tensor:
        return self._state[WEIGHTS].unsqueeze(0)

    def weigh(self, losses_KT: Tensor, gradients: GradientInfo) -> Tensor:
        norms_KT, gramians_KTT = gradients.norms_T, gradients.gramian_TT
        info = GradientInfo(
            norms_T=None if norms_KT is None else norms_KT[0],
            gramian_TT=None if gramians_KTT is None else gramians_KTT[0],
        )
        weights_T, self._state = self.balancer.weigh(losses_KT[0], info, self._state, self._generator)
        return weights_T.unsqueeze(0)

    def after_step(self, losses_KT: Tensor) -> None:
        self._state = self.balancer.after_step(losses_KT[0], self._state)

    def state_of(self, row: int) -> State:
        return self._state


class _StackedLanes:
    """Lanes that differ in numbers alone, weighed at once by one balancer with the numbers and states of them all."""

    def __init__(self, balancers: Sequence[Balancer], states: Sequence[State], generators: Sequence[Generator]) -> None:
        weights_T = states[0][WEIGHTS]
        numbers_K1 = {
            name: moved_without_waiting(
                torch.tensor([[getattr(balancer, name)] for balancer in balancers], dtype=weights_T.dtype),
                weights_T.device,
            )
            for name in balancers[0].lane_numbers
        }
        self.balancer: Balancer = replace(cast("Any", balancers[0]), **numbers_K1)
        self._scalars = {name for name, value in states[0].items() if value.dim() == 0}
        self._state: State = {name: torch.stack([self._row(name, state) for state in states]) for name in states[0]}
        self._generators = generators

    @property
    def weights_KT(self) -> Tensor:
        return self._state[WEIGHTS]

    def weigh(self, losses_KT: Tensor, gradients: GradientInfo) -> Tensor:
        weights_KT, self._state = self.balancer.weigh_lanes(losses_KT, gradients, self._state, self._generators)
        return weights_KT

    def after_step(self, losses_KT: Tensor) -> None:
        self._state = self.balancer.after_step(losses_KT, self._state)

    def state_of(self, row: int) -> State:
        return {name: value[row, 0] if name in self._scalars else value[row] for name, value in self._state.items()}

    def _row(self, name: str, state: State) -> Tensor:
        return state[name].unsqueeze(0) if name in self._scalars else state[name]
