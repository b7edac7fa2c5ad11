"""A dispatcher over a store in memory, and conductors that are only remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from store_values import START

from sweep_service.cluster_port import EndedConductor
from sweep_service.domain.errors import ClusterLostError
from sweep_service.domain.limits import PackLimit
from sweep_service.domain.trial import Cluster, Lease, NodeResources
from sweep_service.ports import SweepStore
from sweep_service.services.dispatcher import Dispatcher
from trainables.catalog import Trainable, builtin_trainables


class FakeConductors:
    """Remembers what was started; breaks when told so."""

    def __init__(self) -> None:
        self.started: list[Lease] = []
        self.is_lost = False
        self.ended: list[EndedConductor] = []
        self.found_out: dict[str, str] = {}
        self.nodes: tuple[NodeResources, ...] = (NodeResources(node="n", cpus=2, gpus=0),)
        self.now = START

    def prepare(self) -> None:
        pass

    def examined(self, trainables: Sequence[Trainable]) -> Mapping[str, str]:
        told, self.found_out = self.found_out, {}
        return told

    def start(self, lease: Lease) -> None:
        if self.is_lost:
            raise ClusterLostError("gone")
        self.started.append(lease)

    def take_ended(self) -> list[EndedConductor]:
        told, self.ended = self.ended, []
        return told

    def num_running(self) -> int:
        return len(self.started)

    def cluster(self) -> Cluster:
        return Cluster(nodes=self.nodes, seen_at=self.now)


def dispatcher_of(
    store: SweepStore, conductors: FakeConductors, *limits: PackLimit, max_running_sweeps: int = 2
) -> Dispatcher:
    return Dispatcher(
        store=store,
        conductors=conductors,
        trainables=builtin_trainables(),
        owner="test",
        start_grace=timedelta(seconds=60),
        poll_interval=timedelta(milliseconds=1),
        max_running_sweeps=max_running_sweeps,
        unschedulable_after=timedelta(seconds=30),
        limits=limits,
    )
