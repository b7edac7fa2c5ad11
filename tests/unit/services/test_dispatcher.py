"""Claiming sweeps and starting conductors."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from conductor_fakes import ShakyStore
from conductor_house import await_that
from dispatcher_house import FakeConductors
from store_values import new_attempt, new_sweep, new_trial

from sweep_service.cluster_port import EndedConductor
from sweep_service.domain.errors import ClusterLostError, StoreUnavailableError
from sweep_service.domain.states import SweepReason, SweepState, TrialState, Verb
from sweep_service.services.dispatcher import MAX_FAILED_STARTS, Dispatcher
from sweep_service.storage.memory import MemorySweepStore
from trainables.catalog import builtin_trainables


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


@pytest.mark.parametrize("verb", [Verb.STOP, Verb.CANCEL])
def test_a_paused_sweep_is_ended_although_no_more_may_run(
    store: MemorySweepStore, conductors: FakeConductors, dispatcher: Dispatcher, verb: Verb
) -> None:
    rests = store.add_sweep(new_sweep(0))
    lease = store.claim_sweep(owner="its first conductor", ttl=timedelta(seconds=60))
    assert lease is not None
    for state in (SweepState.PAUSING, SweepState.PAUSED):
        store.move_sweep(lease, state)
    store.release_lease(lease)
    for index in range(1, 4):
        store.add_sweep(new_sweep(index))
    assert [dispatcher.dispatch_one() for _ in range(3)] == [True, True, False]
    store.control_sweep(rests.id, verb)
    assert [dispatcher.dispatch_one() for _ in range(2)] == [True, False]
    assert conductors.started[-1].sweep_id == rests.id


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
        await_that(lambda: conductors.started, what="a conductor")
    finally:
        ended.set()
        thread.join()
    assert set(store.read_catalog()) == {trainable.name for trainable in builtin_trainables()}
    cluster = store.read_cluster()
    assert cluster is not None
    assert cluster.can_ever_hold(cpus=2, gpus=0)
    assert not cluster.can_ever_hold(cpus=1, gpus=1)


def fail_start(dispatcher: Dispatcher, conductors: FakeConductors, message: str) -> None:
    """The conductor that was started last raises before it runs."""
    assert dispatcher.dispatch_one()
    conductors.ended.append(EndedConductor(lease=conductors.started.pop(), error=message, message=message))
    dispatcher.settle_ended()


def test_a_sweep_whose_conductor_could_not_start_is_claimed_again_at_once_and_given_up_after_a_few_times(
    dispatcher: Dispatcher, store: MemorySweepStore, conductors: FakeConductors
) -> None:
    sweep = new_sweep()
    store.add_sweep(sweep)
    for start in range(1, MAX_FAILED_STARTS + 1):
        assert not store.get_sweep(sweep.id).state.is_ended
        fail_start(dispatcher, conductors, "ImportError: no module named mlflow")
        assert store.get_sweep(sweep.id).generation == start
    ended = store.get_sweep(sweep.id)
    assert (ended.state, ended.reason) == (SweepState.FAILED, SweepReason.ERROR)
    assert "no module named mlflow" in ended.message
    assert not dispatcher.dispatch_one()


def test_the_trials_of_a_sweep_that_is_given_up_end_with_it(
    dispatcher: Dispatcher, store: MemorySweepStore, conductors: FakeConductors
) -> None:
    sweep = new_sweep()
    store.add_sweep(sweep)
    assert dispatcher.dispatch_one()
    lease = conductors.started.pop()
    store.move_sweep(lease, SweepState.RUNNING)
    store.add_trials(lease, [new_trial(sweep.id, number) for number in range(2)])
    store.start_attempt(lease, new_attempt(new_trial(sweep.id, 0)))
    store.release_lease(lease)
    for _ in range(MAX_FAILED_STARTS):
        fail_start(dispatcher, conductors, "no")
    assert store.get_sweep(sweep.id).state is SweepState.FAILED
    assert {trial.state for trial in store.list_trials(sweep.id)} == {TrialState.CANCELLED}


def test_a_sweep_that_is_being_cancelled_ends_cancelled_when_its_conductor_cannot_start(
    dispatcher: Dispatcher, store: MemorySweepStore, conductors: FakeConductors
) -> None:
    sweep = new_sweep()
    store.add_sweep(sweep)
    fail_start(dispatcher, conductors, "no")
    store.control_sweep(sweep.id, Verb.CANCEL)
    for _ in range(MAX_FAILED_STARTS - 1):
        fail_start(dispatcher, conductors, "no")
    assert store.get_sweep(sweep.id).state is SweepState.CANCELLED


def test_a_failed_start_of_a_lease_that_is_somebody_elses_changes_nothing(
    dispatcher: Dispatcher, store: MemorySweepStore, conductors: FakeConductors
) -> None:
    sweep = new_sweep()
    store.add_sweep(sweep)
    assert dispatcher.dispatch_one()
    stale = EndedConductor(lease=conductors.started.pop(), error="no", message="no")
    store.release_lease(stale.lease)
    current = store.claim_sweep(owner="other", ttl=timedelta(seconds=60))
    assert current is not None
    for _ in range(MAX_FAILED_STARTS):
        conductors.ended.append(stale)
        dispatcher.settle_ended()
    store.renew_lease(current, ttl=timedelta(seconds=60))
    assert store.get_sweep(sweep.id).state is SweepState.STARTING


def test_a_conductor_that_dies_while_it_comes_up_counts_as_one_that_could_not_start(
    dispatcher: Dispatcher, store: MemorySweepStore, conductors: FakeConductors
) -> None:
    sweep = new_sweep()
    store.add_sweep(sweep)
    for _ in range(MAX_FAILED_STARTS):
        assert dispatcher.dispatch_one()
        conductors.ended.append(EndedConductor(lease=conductors.started.pop(), error=None, message="out of memory"))
        dispatcher.settle_ended()
    assert store.get_sweep(sweep.id).state is SweepState.FAILED
    assert "out of memory" in store.get_sweep(sweep.id).message


def test_a_conductor_that_ran_and_died_is_left_to_its_lease(
    dispatcher: Dispatcher, store: MemorySweepStore, conductors: FakeConductors
) -> None:
    sweep = new_sweep()
    store.add_sweep(sweep)
    assert dispatcher.dispatch_one()
    lease = conductors.started.pop()
    store.move_sweep(lease, SweepState.RUNNING)
    for _ in range(MAX_FAILED_STARTS + 1):
        conductors.ended.append(EndedConductor(lease=lease, error=None, message="killed"))
        dispatcher.settle_ended()
    store.renew_lease(lease, ttl=timedelta(seconds=60))
    assert store.get_sweep(sweep.id).state is SweepState.RUNNING


def test_what_a_failing_store_kept_from_being_settled_is_settled_later(
    dispatcher: Dispatcher, store: ShakyStore, conductors: FakeConductors
) -> None:
    sweep = new_sweep()
    store.add_sweep(sweep)
    assert dispatcher.dispatch_one()
    conductors.ended.append(EndedConductor(lease=conductors.started.pop(), error="no", message="no"))
    store.fails.append("before")
    with pytest.raises(StoreUnavailableError):
        dispatcher.settle_ended()
    dispatcher.settle_ended()
    assert dispatcher.dispatch_one(), "its lease has been released"


def test_a_sweep_that_was_deleted_before_its_conductor_was_missed_is_nobodys_trouble(
    dispatcher: Dispatcher, store: MemorySweepStore, conductors: FakeConductors
) -> None:
    sweep = new_sweep()
    store.add_sweep(sweep)
    assert dispatcher.dispatch_one()
    lease = conductors.started.pop()
    store.move_sweep(lease, SweepState.FAILED)
    store.delete_sweep(sweep.id)
    conductors.ended.append(EndedConductor(lease=lease, error=None, message=""))
    dispatcher.settle_ended()
    store.add_sweep(new_sweep(1))
    assert dispatcher.dispatch_one()


def test_what_is_found_out_of_a_trainable_is_published(
    store: ShakyStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    reason = "With its default parameters: a step changes running_mean."
    conductors.found_out = {"digits": reason}  # before the dispatcher asks: it takes what there is and leaves nothing
    ended = threading.Event()
    running = threading.Thread(target=dispatcher.run, args=(ended,))
    running.start()
    try:
        await_that(
            lambda: store.read_catalog() and store.read_catalog()["digits"].not_fused_because, what="what was found out"
        )
    finally:
        ended.set()
        running.join()
    assert store.read_catalog()["digits"].not_fused_because == reason
    assert store.read_catalog()["census_income"].not_fused_because == ""
