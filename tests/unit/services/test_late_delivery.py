"""What the tracking server had not taken of a sweep when that ended is brought to it later."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from conductor_fakes import ShakyStore
from conductor_house import House, await_that
from dispatcher_house import FakeConductors, dispatcher_of
from store_values import START, new_sweep

from sweep_service.cluster_port import EndedConductor
from sweep_service.domain.states import SweepState, TrialState, Verb
from sweep_service.domain.trial import Lease
from sweep_service.services import late_delivery
from sweep_service.services.dispatcher import LATE_RETRY, MAX_FAILED_STARTS, Dispatcher
from sweep_service.services.packs import PackOrder


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_delivery, "SOONEST", timedelta(0))


def cancel_while_the_server_is_away(house: House) -> None:
    """The whole life of its conductor; the server had made the sweep's run before."""

    def cancel(key: str, order: PackOrder) -> None:
        await_that(lambda: house.sweep.tracking_ref is not None, what="the sweep's run")
        house.tracker.is_away = True
        house.ask(Verb.CANCEL)
        house.await_state(TrialState.CANCELLED)

    house.packs.during = cancel
    assert house.run().state is SweepState.CANCELLED


def fail_while_the_server_is_away(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        house.tracker.is_away = True
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(house.packs, "run", fail)
    assert house.run().state is SweepState.FAILED


def claim_late(house: House) -> Lease | None:
    return house.store.claim_late(owner="test", ttl=timedelta(seconds=60))


def run_late(house: House) -> None:
    claimed: list[Lease] = []

    def claim() -> bool:
        claimed.extend(lease for lease in [claim_late(house)] if lease is not None)
        return bool(claimed)

    await_that(claim, what="that it is due")
    (house.lease,) = claimed
    house.run()


def test_the_runs_of_a_sweep_that_was_cancelled_meanwhile_are_closed_when_the_server_is_back(house: House) -> None:
    cancel_while_the_server_is_away(house)
    ended = house.sweep
    assert house.tracker.closed == {}
    run_late(house)
    assert house.tracker.closed == {}, "it is still away"
    assert house.sweep.tracking_due_at is not None
    house.tracker.is_away = False
    run_late(house)
    started = [trial for trial in house.trials if trial.started_at is not None]
    assert started
    expected = {f"run of {trial.id}": "cancelled" for trial in started}
    assert house.tracker.closed == {**expected, f"run of {ended.id}": "cancelled"}
    sweep = house.sweep
    assert (sweep.tracking_due_at, sweep.state, sweep.ended_at) == (None, ended.state, ended.ended_at)
    assert claim_late(house) is None


def test_a_sweep_that_failed_while_the_server_was_away_is_delivered_later_with_what_it_had_come_to(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_while_the_server_is_away(house, monkeypatch)
    house.tracker.is_away = False
    run_late(house)
    assert house.tracker.closed[f"run of {house.sweep.id}"] == "failed"
    assert house.sweep.state is SweepState.FAILED


def test_a_sweep_whose_end_the_server_has_taken_is_not_due(house: House) -> None:
    assert house.run().state is SweepState.COMPLETED
    assert house.sweep.tracking_due_at is None


def test_a_fault_in_a_late_delivery_is_told_and_not_repeated_for_ever(house: House) -> None:
    cancel_while_the_server_is_away(house)
    house.tracker.is_away = False
    house.tracker.fault = RuntimeError("cannot write this")
    run_late(house)
    assert house.sweep.tracking_due_at is None
    house.await_notice("The results could not be written to the tracking server. RuntimeError: cannot write this")


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.CANCEL], ids=str)
def test_a_sweep_that_is_opened_again_meanwhile_is_left_to_the_queue(
    house: House, monkeypatch: pytest.MonkeyPatch, verb: Verb
) -> None:
    fail_while_the_server_is_away(house, monkeypatch)
    late = claim_late(house)
    assert late is not None
    house.ask(Verb.RETRY)
    house.tracker.is_away = False
    house.lease = late
    assert house.run().state is SweepState.QUEUED
    monkeypatch.undo()
    house.lease = house.claim()
    if verb is Verb.CANCEL:
        house.ask(verb)
    assert house.run().state is (SweepState.COMPLETED if verb is Verb.RETRY else SweepState.CANCELLED)
    assert house.sweep.tracking_due_at is None
    assert house.tracker.closed[f"run of {house.sweep.id}"] == house.sweep.state


def test_a_fault_of_ours_in_a_late_delivery_leaves_the_sweep_as_it_ended(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel_while_the_server_is_away(house)
    ended = house.sweep
    house.tracker.is_away = False

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(house.store, "list_trials", fail)
    run_late(house)
    sweep = house.sweep
    assert (sweep.state, sweep.results, sweep.message) == (ended.state, ended.results, ended.message)
    assert sweep.tracking_due_at is not None


def test_that_the_server_is_away_is_said_once_and_that_it_answers_again_too(house: House) -> None:
    cancel_while_the_server_is_away(house)
    run_late(house)
    house.tracker.is_away = False
    run_late(house)
    events = house.store.list_events(house.sweep.id, limit=1000)
    said = [event.message for event in events if "tracking server" in event.message]
    assert len(said) == 2, said
    assert "answers again" in said[1]


# --- the dispatcher ---------------------------------------------------------------------------------------------------


def end_late(store: ShakyStore, *, number: int) -> None:
    for index in range(number):
        store.add_sweep(new_sweep(index))
        lease = store.claim_sweep(owner="test", ttl=timedelta(seconds=60))
        assert lease is not None
        store.set_tracking_ref(lease, "a run")
        store.set_tracking_due(lease, timedelta(0))
        store.move_sweep(lease, SweepState.FAILED)
        store.release_lease(lease)


def test_one_late_sweep_at_a_time_gets_a_conductor(
    store: ShakyStore, conductors: FakeConductors, dispatcher: Dispatcher
) -> None:
    end_late(store, number=2)
    assert [dispatcher.deliver_late() for _ in range(3)] == [True, False, False]
    (lease,) = conductors.started
    store.set_tracking_due(lease, None)
    store.release_lease(lease)
    conductors.ended.append(EndedConductor(lease=lease, error=None, message=""))
    dispatcher.settle_ended()
    assert [dispatcher.deliver_late() for _ in range(2)] == [True, False]
    assert {lease.sweep_id for lease in conductors.started} == {new_sweep(index).id for index in range(2)}


def test_a_late_sweep_waits_where_no_more_may_run(store: ShakyStore, conductors: FakeConductors) -> None:
    end_late(store, number=1)
    store.add_sweep(new_sweep(7))
    dispatcher = dispatcher_of(store, conductors, max_running_sweeps=1)
    assert dispatcher.dispatch_one()
    assert not dispatcher.deliver_late()
    assert store.claim_late(owner="somebody else", ttl=timedelta(seconds=60)) is not None


@pytest.mark.parametrize("error", ["ImportError: x", None], ids=["could not start", "died"])
def test_a_late_sweep_whose_conductor_fails_is_tried_again_after_a_while(
    store: ShakyStore, conductors: FakeConductors, dispatcher: Dispatcher, error: str | None
) -> None:
    end_late(store, number=1)
    assert dispatcher.deliver_late()
    (lease,) = conductors.started
    conductors.ended.append(EndedConductor(lease=lease, error=error, message="its process is gone"))
    dispatcher.settle_ended()
    assert not dispatcher.deliver_late()
    assert store.get_sweep(new_sweep(0).id).tracking_due_at == START + LATE_RETRY


@pytest.mark.parametrize("has_run", [True, False], ids=["with a run", "without"])
def test_a_sweep_that_is_given_up_is_late_if_it_has_a_run(
    store: ShakyStore, conductors: FakeConductors, dispatcher: Dispatcher, has_run: bool
) -> None:
    store.add_sweep(new_sweep(0))
    for number in range(MAX_FAILED_STARTS):
        assert dispatcher.dispatch_one()
        lease = conductors.started.pop()
        if has_run and number == 0:
            store.set_tracking_ref(lease, "a run")
        conductors.ended.append(EndedConductor(lease=lease, error="ImportError: x", message="ImportError: x"))
        dispatcher.settle_ended()
    assert store.get_sweep(new_sweep(0).id).state is SweepState.FAILED
    assert dispatcher.deliver_late() is has_run
