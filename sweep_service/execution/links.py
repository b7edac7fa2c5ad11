"""What the worker that trains a pack has to say to its conductor, and how it gets there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from sweep_service.execution.nodes import name_of_node
from sweep_service.execution.trainers import NAMESPACE, TrainerHandle
from sweep_service.services.packs import Departure, LaneLines, LaneMessage, LaneOrder, PackOrder

_LOG_TIMEOUT_S = 5.0  # for the conductor to take lines


class PackLink(Protocol):
    """What a pack has to say while it trains, and the answer."""

    def report(self, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        """The answer names the trials that are to leave the pack."""
        ...

    def settle(self, places: int, reason: str) -> None:
        """So many trials of this kind are trained at once; of 1, why not more."""
        ...

    def refill(self, free: int) -> Sequence[LaneOrder]:
        """Trials for free places."""
        ...

    def split(self, places: int, message: str, *, is_of_all: bool = True) -> None:
        """The pack ends; its trials go on in packs of at most so many, and so do all others of their kind if it is of
        all of them.
        """
        ...

    def note(self, trial_id: str, message: str) -> None: ...

    def log(self, said: Sequence[LaneLines]) -> bool:
        """Whether the lines have arrived."""
        ...


class ConductorLink:
    """Calls from this worker to its conductor."""

    def __init__(self, conductor: str, pack: str) -> None:
        self._actor: Any = ray.get_actor(conductor, namespace=NAMESPACE)
        self._pack = pack

    def begin(self) -> PackOrder:
        # The handle lets the conductor kill this worker when a user cancels: a step that hangs never comes to report.
        here = ray.get_runtime_context()
        worker = TrainerHandle(actor=here.current_actor, node=here.get_node_id())
        return ray.get(self._actor.begin.remote(self._pack, name_of_node(worker.node), worker))

    def report(self, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        return ray.get(self._actor.report.remote(self._pack, list(messages)))

    def settle(self, places: int, reason: str) -> None:
        ray.get(self._actor.settle.remote(self._pack, places, reason))

    def refill(self, free: int) -> Sequence[LaneOrder]:
        return ray.get(self._actor.refill.remote(self._pack, free))

    def split(self, places: int, message: str, *, is_of_all: bool = True) -> None:
        ray.get(self._actor.split.remote(self._pack, places, message, is_of_all=is_of_all))

    def log(self, said: Sequence[LaneLines]) -> bool:
        """Whether they have arrived. What becomes of lines must not touch the training."""
        try:
            return ray.get(self._actor.log.remote(self._pack, list(said)), timeout=_LOG_TIMEOUT_S)
        except RayError:
            return False

    def note(self, trial_id: str, message: str) -> None:
        ray.get(self._actor.note.remote(trial_id, message))

    def explain(self, error: Exception) -> None:
        """Say why this worker ends: Tune keeps the reason for itself."""
        with contextlib.suppress(RayError):  # the conductor may be the reason
            ray.get(self._actor.explain.remote(self._pack, f"{type(error).__name__}: {error}"))
