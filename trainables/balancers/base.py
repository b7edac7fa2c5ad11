"""What a balancer is.

Shapes: T tasks. A balancer's state is a flat dict of tensors, all of it on the lane's device: plain enough to be saved,
loaded with ``weights_only=True`` and stacked over lanes. Its update is a pure function: it returns a new state.

K lanes that weigh together (:mod:`trainables.balancers.lanes`) have one more dimension in front: (K, T) where a name
says T, (K, T, T) where it says TT, and (K, 1) for what is a scalar of one lane.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, cast

import torch
from torch import Tensor

from trainables.protocol import Blueprint, MultiTaskModel, SeparateModels

State = Mapping[str, Tensor]

WEIGHTS = "weights_T"  # in every state: the weights that the next step will use, as far as they are known before it
INITIAL_LOSSES = "initial_losses_T"  # in the state of the balancers that use L(0)
SMALLEST_WEIGHT = 1e-4  # of GradNorm's: one at 0 could not come back, since its task's G would be 0 whatever n is


class Needs(IntEnum):
    """What a balancer wants to know of the gradients at the shared layer, the cheapest first."""

    NOTHING = 0
    NORMS = 1
    GRAMIAN = 2


@dataclass(frozen=True, kw_only=True)
class GradientInfo:
    """The task gradients at the shared layer as far as the balancer needs them; unweighted, float32 or better."""

    norms_T: Tensor | None = None
    gramian_TT: Tensor | None = None


class Balancer:
    """The rule that sets the task weights. A subclass gives ``name``, ``needs``, ``initial_state`` and ``weigh``."""

    name: str
    needs: Needs = Needs.NOTHING
    uses_after_step: bool = False  # True costs one forward pass more a step
    # True: a step uses state[WEIGHTS] as the step before has left it, whatever its own losses and gradients are
    weighs_ahead: bool = False
    # True: `weigh` and `after_step` take K lanes at once as well as one; False: lane by lane
    is_stackable: bool = False
    lane_numbers: Sequence[str] = ()  # fields that may then be tensors (K, 1), a number for each lane

    @property
    def static_settings(self) -> Hashable:
        """What lanes must have in common to weigh together: whatever ``weigh`` and ``after_step`` read but the
        ``lane_numbers``. These are all other fields of the dataclass, unless a subclass knows that it needs fewer.
        """
        names = [field.name for field in fields(cast("Any", self)) if field.name not in self.lane_numbers]
        return tuple(getattr(self, name) for name in names)

    @property
    def settling_steps(self) -> int:
        """After so many steps :meth:`settled` may take its place."""
        return 0

    def settled(self) -> Balancer:
        """What does the same from then on, and does not ask any more what is known by then."""
        return self

    def build_model(self, problem: Blueprint) -> MultiTaskModel | SeparateModels:
        """The network to train. Draws from torch's global generators."""
        return problem.build_model()

    def initial_state(self, *, num_tasks: int, device: torch.device, dtype: torch.dtype) -> State:
        """The state before the first step."""
        raise NotImplementedError

    def weigh(
        self, losses_T: Tensor, gradients: GradientInfo, state: State, generator: torch.Generator
    ) -> tuple[Tensor, State]:
        """The weights for this step, and the state after it. Waits for the device in those alone that call a solver."""
        raise NotImplementedError

    def weigh_lanes(
        self, losses_KT: Tensor, gradients: GradientInfo, state: State, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, State]:
        """:meth:`weigh` of K lanes at once (``is_stackable``). Of those that draw, each lane by its own generator."""
        return self.weigh(losses_KT, gradients, state, generators[0])

    def after_step(self, losses_T: Tensor, state: State) -> State:
        """The state after the network's step; gets the same batch's losses as they are now (``uses_after_step``)."""
        raise NotImplementedError

    def at_report(self, mean_losses_T: Tensor, state: State) -> State:
        """The state after a report; gets the mean losses of the steps since the last one."""
        return state

    def metrics(self, state: State) -> Mapping[str, Tensor]:
        """What it has to report beside the weights: a row of T numbers by the first part of their metrics' keys."""
        return {}

    def notices(self, before: State, after: State, task_names: Sequence[str]) -> Sequence[str]:
        """What ``at_report`` has found out that somebody should know, in sentences. Waits for the device."""
        return ()

    def check(self, state: State, task_names: Sequence[str]) -> None:
        """Refuse a state that cannot be trained on. Waits for the device: called at reports only."""


def ones(num_tasks: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Weights of 1: the plain sum of the losses. Σ_i w_i = T is the scale of every method that has none of its own."""
    return torch.ones(num_tasks, device=device, dtype=dtype)
