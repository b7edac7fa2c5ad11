"""Sweeps of the queue that are passed over: what no node can hold, and what a limit leaves without a pack."""

from __future__ import annotations

from datetime import timedelta

from dispatcher_house import FakeConductors, dispatcher_of
from store_values import SPEC, START, new_sweep

from sweep_service.domain.events import EventKind
from sweep_service.domain.limits import PackLimit
from sweep_service.domain.resources import Resources
from sweep_service.domain.states import SweepReason, SweepState
from sweep_service.domain.trial import NodeResources, Sweep
from sweep_service.services.dispatcher import Dispatcher
from sweep_service.storage.memory import MemorySweepStore

GREEDY = SPEC.model_copy(update={"resources": Resources(cpus=1, gpus=8)})


def in_queue(store: MemorySweepStore, index: int) -> Sweep:
    sweep = store.get_sweep(new_sweep(index).id)
    assert sweep.state is SweepState.QUEUED
    return sweep


def notices(store: MemorySweepStore, index: int) -> list[str]:
    events = store.list_events(new_sweep(index).id, limit=1000)
    return [event.message for event in events if event.kind is EventKind.SWEEP_NOTICE]


def test_a_sweep_that_no_node_can_ever_hold_waits_says_so_and_blocks_nobody(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    store.add_sweep(new_sweep(0, spec=GREEDY))
    store.add_sweep(new_sweep(1))
    dispatcher.look()
    assert in_queue(store, 0).reason is None, "nodes may be joining"
    assert dispatcher.dispatch_one()
    assert not dispatcher.dispatch_one()
    assert [lease.sweep_id for lease in conductors.started] == [new_sweep(1).id]
    for seconds in (29, 30, 35):
        conductors.now = START + timedelta(seconds=seconds)
        dispatcher.look()
        assert (in_queue(store, 0).reason is SweepReason.UNSCHEDULABLE) is (seconds >= 30)
    message = in_queue(store, 0).message
    assert "8 GPUs" in message
    assert "2 CPUs and 0 GPUs" in message
    assert notices(store, 0) == [message]
    assert not dispatcher.dispatch_one()


def test_a_sweep_starts_when_a_node_joins_that_can_hold_it(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    store.add_sweep(new_sweep(0, spec=GREEDY))
    for seconds in (0, 30):
        conductors.now = START + timedelta(seconds=seconds)
        dispatcher.look()
    conductors.nodes += (NodeResources(node="big", cpus=64, gpus=8),)
    dispatcher.look()
    assert in_queue(store, 0).reason is None
    assert notices(store, 0)[-1] == "It waits its turn again."
    assert dispatcher.dispatch_one()


def test_what_was_held_for_a_while_is_waited_for_anew(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    store.add_sweep(new_sweep(0, spec=GREEDY))
    small, big = conductors.nodes, (NodeResources(node="big", cpus=64, gpus=8),)
    for seconds, nodes in ((0, small), (20, big), (40, small), (60, small)):
        conductors.now, conductors.nodes = START + timedelta(seconds=seconds), nodes
        dispatcher.look()
    assert in_queue(store, 0).reason is None
    conductors.now = START + timedelta(seconds=70)
    dispatcher.look()
    assert in_queue(store, 0).reason is SweepReason.UNSCHEDULABLE


def test_a_dispatcher_that_comes_anew_leaves_the_reason_and_tells_of_nodes_that_joined(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    store.add_sweep(new_sweep(0, spec=GREEDY))
    store.explain_wait(new_sweep(0).id, SweepReason.UNSCHEDULABLE, "of another cluster")
    dispatcher.look()
    assert "2 CPUs and 0 GPUs" in in_queue(store, 0).message
    assert len(notices(store, 0)) == 1


def test_what_has_run_already_is_taken_over_whatever_the_cluster_can_hold(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    store.add_sweep(new_sweep(0, spec=GREEDY))
    dead = store.claim_sweep(owner="dead", ttl=timedelta(0))
    assert dead is not None
    dispatcher.look()
    assert dispatcher.dispatch_one()


def test_a_sweep_that_would_get_no_pack_stays_in_the_queue_and_blocks_nobody(
    store: MemorySweepStore, conductors: FakeConductors
) -> None:
    dispatcher = dispatcher_of(store, conductors, PackLimit(label="team:ads", packs=1), max_running_sweeps=4)
    for index in range(2):
        store.add_sweep(new_sweep(index))
    store.add_sweep(new_sweep(2, spec=SPEC.model_copy(update={"labels": {"team": "search"}, "priority": -1})))
    assert [dispatcher.dispatch_one() for _ in range(3)] == [True, True, False]
    assert [lease.sweep_id for lease in conductors.started] == [new_sweep(0).id, new_sweep(2).id]
    dispatcher.look()
    held = in_queue(store, 1)
    assert held.reason is SweepReason.LIMITED
    assert held.message == "Held back by the limit of 1 pack at once for the label team:ads."
    store.move_sweep(conductors.started[0], SweepState.FAILED)
    dispatcher.look()
    assert in_queue(store, 1).reason is None
    assert dispatcher.dispatch_one()


def test_a_higher_priority_starts_although_the_limit_is_reached(
    store: MemorySweepStore, conductors: FakeConductors
) -> None:
    dispatcher = dispatcher_of(store, conductors, PackLimit(project="default", packs=1))
    store.add_sweep(new_sweep(0))
    assert dispatcher.dispatch_one()
    store.add_sweep(new_sweep(1, spec=SPEC.model_copy(update={"priority": 1})))
    assert dispatcher.dispatch_one(), "the other one gives way"
