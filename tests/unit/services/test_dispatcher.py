"""Claiming sweeps and starting conductors."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from store_values import START, FakeClock, new_sweep

from sweep_service.domain.errors import ClusterLostError
from sweep_service.domain.states import SweepState
from sweep_service.domain.trial import Cluster, Lease, NodeResources
from sweep_service.services.dispatcher import Dispatcher
from sweep_service.storage.memory import MemorySweepStore
from trainables.catalog import builtin_trainables


class FakeConductors:
    """Remembers what was started; breaks when told so."""

    def __init__(self) -> None:
        self.started: list[Lease] = []
        self.is_lost = False

    def start(self, lease: Lease) -> None:
        if self.is_lost:
            raise ClusterLostError("gone")
        self.started.append(lease)

    def num_running(self) -> int:
        return len(self.started)

    def cluster(self) -> Cluster:
        return Cluster(nodes=(NodeResources(node="n", cpus=2, gpus=0),), seen_at=START)


@pytest.fixture
def store() -> MemorySweepStore:
    return MemorySweepStore(FakeClock())


@pytest.fixture
def conductors() -> FakeConductors:
    return FakeConductors()


@pytest.fixture
def dispatcher(store: MemorySweepStore, conductors: FakeConductors) -> Dispatcher:
    return Dispatcher(
        store=store,
        conductors=conductors,
        trainables=builtin_trainables(),
        owner="test",
        start_grace=timedelta(seconds=60),
        poll_interval=timedelta(milliseconds=1),
        max_running_sweeps=2,
    )


def test_the_oldest_sweep_that_waits_gets_a_conductor(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    store.add_sweep(new_sweep(2))
    store.add_sweep(new_sweep(1))
    assert dispatcher.dispatch_one()
    (lease,) = conductors.started
    assert lease.sweep_id == new_sweep(1).id
    assert store.get_sweep(lease.sweep_id).state is SweepState.STARTING


def test_no_more_sweeps_run_than_allowed(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    for index in range(3):
        store.add_sweep(new_sweep(index))
    assert [dispatcher.dispatch_one() for _ in range(3)] == [True, True, False]
    assert len(conductors.started) == 2


def test_a_claim_whose_conductor_cannot_start_is_given_back(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    store.add_sweep(new_sweep())
    conductors.is_lost = True
    with pytest.raises(ClusterLostError):
        dispatcher.dispatch_one()
    conductors.is_lost = False
    assert dispatcher.dispatch_one(), "the lease did not have to run out"


def test_what_can_be_trained_and_on_what_is_published(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    store.add_sweep(new_sweep())
    ended = threading.Event()
    thread = threading.Thread(target=dispatcher.run, args=(ended,))
    thread.start()
    try:
        for _ in range(500):
            if conductors.started:
                break
            ended.wait(0.01)
    finally:
        ended.set()
        thread.join()
    assert set(store.read_catalog()) == {trainable.name for trainable in builtin_trainables()}
    cluster = store.read_cluster()
    assert cluster is not None
    assert cluster.can_ever_hold(cpus=2, gpus=0)
    assert not cluster.can_ever_hold(cpus=1, gpus=1)
