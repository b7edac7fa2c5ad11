"""The door to the cluster, as the dispatcher sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from sweep_service.domain.trial import Cluster, Lease
from trainables.catalog import Trainable


@dataclass(frozen=True, kw_only=True)
class EndedConductor:
    """A conductor whose process is gone. ``error`` is what it raised instead of running, None if it came to run; what
    it died of, if anything, is in ``message``.
    """

    lease: Lease
    error: str | None
    message: str


class Conductors(Protocol):
    """The cluster as the dispatcher sees it. Every method may raise ClusterLostError."""

    def prepare(self) -> None:
        """Get ready for the next sweep while there is time; called every few seconds."""
        ...

    def examined(self, trainables: Sequence[Trainable]) -> Mapping[str, str]:
        """Why trials of a trainable cannot be trained together, by its name; empty: they can. What has been found out
        since the last call; the first one begins to find out, by training's own code, for which others wait.
        """
        ...

    def start(self, lease: Lease) -> None:
        """Start a conductor for the sweep of that lease; returns before it runs."""
        ...

    def take_ended(self) -> Sequence[EndedConductor]:
        """Conductors started by this object that have ended since the last call."""
        ...

    def drain(self, within: timedelta) -> Sequence[str]:
        """Have every conductor that has a sweep, whoever started it, let go of it in that time, and end; the names of
        those that have not.
        """
        ...

    def num_running(self) -> int:
        """Conductors that have a sweep, whoever started them."""
        ...

    def cluster(self) -> Cluster:
        """What the cluster has."""
        ...
