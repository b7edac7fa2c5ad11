"""A conductor whose sweep is paused: it lets the sweep rest, and the next one goes on with it or ends it."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from conductor_house import House, WorkerDiedError
from lane_words import at_work, resting

from sweep_service.domain.errors import LeaseLostError, TrackingUnavailableError
from sweep_service.domain.states import SweepReason, SweepState, TrialState, Verb
from sweep_service.services.packs import PackOrder


def rest(house: House, key: str, order: PackOrder) -> None:
    """Train on until asked to rest, as a worker does."""
    conductor = house.packs.conductor
    assert conductor is not None
    for step in range(1, 12_000):
        messages = [at_work(lane.trial_id, step) for lane in order.lanes]
        if conductor.packs.report(key, messages):
            conductor.packs.report(key, [resting(lane.trial_id, step) for lane in order.lanes])
            return
        threading.Event().wait(0.005)
    raise AssertionError("nobody asked it to rest")


def test_a_paused_sweep_is_let_go_and_a_resumed_one_goes_on_to_its_end(house: House) -> None:
    def pause(key: str, order: PackOrder) -> None:
        house.ask(Verb.PAUSE)
        rest(house, key, order)
        raise LeaseLostError("the pack has nothing left to report")

    house.packs.during = pause
    sweep = house.run()
    assert (sweep.state, sweep.reason, sweep.ended_at) == (SweepState.PAUSED, SweepReason.USER, None)
    assert [trial.state for trial in house.trials] == [TrialState.RESTING]
    assert house.tracker.closed == {}, "the runs of a sweep that rests stay open"
    assert house.store.claim_sweep(owner="nobody asked", ttl=timedelta(seconds=1)) is None
    house.ask(Verb.RESUME)
    house.lease = house.claim()
    house.packs.during = lambda key, order: None
    assert house.run().state is SweepState.COMPLETED
    assert [trial.state for trial in house.trials] == [TrialState.COMPLETED] * 3
    assert house.trials[0].num_attempts == 2


def test_a_pause_that_comes_before_the_start_starts_nothing(house: House) -> None:
    house.ask(Verb.PAUSE)
    assert house.run().state is SweepState.PAUSED
    assert house.trials == []


def test_a_pause_does_not_wait_for_the_tracking_server(house: House) -> None:
    def pause(key: str, order: PackOrder) -> None:
        house.tracker.is_away = True
        house.ask(Verb.PAUSE)
        rest(house, key, order)
        raise WorkerDiedError

    house.packs.during = pause
    assert house.run().state is SweepState.PAUSED
    assert house.store.undelivered(house.lease.sweep_id, limit=10), "kept for the next generation"
    house.tracker.is_away = False
    house.ask(Verb.RESUME)
    house.lease = house.claim()
    house.packs.during = lambda key, order: None
    assert house.run().state is SweepState.COMPLETED
    assert not house.store.undelivered(house.lease.sweep_id, limit=10)


@pytest.mark.parametrize(
    ("verb", "state"), [(Verb.STOP, SweepState.STOPPED), (Verb.CANCEL, SweepState.CANCELLED)], ids=str
)
def test_a_sweep_that_is_ended_in_its_pause_has_results_and_no_open_run(
    house: House, verb: Verb, state: SweepState
) -> None:
    def complete_then_pause(key: str, order: PackOrder) -> None:
        if key == "pack-2":
            house.ask(Verb.PAUSE)
            rest(house, key, order)
            raise WorkerDiedError

    house.packs.during = complete_then_pause
    assert house.run().state is SweepState.PAUSED
    house.ask(verb)
    assert house.sweep.state in (SweepState.STOPPING, SweepState.CANCELLING)
    house.lease = house.claim()
    sweep = house.run()
    assert (sweep.state, sweep.reason) == (state, SweepReason.USER)
    assert (sweep.results or {})["best"]["trial_id"] == house.trials[0].id
    assert [trial.state for trial in house.trials] == [TrialState.COMPLETED, TrialState.CANCELLED]
    assert house.tracker.closed.keys() == {f"run of {sweep.id}", *(f"run of {trial.id}" for trial in house.trials)}


@pytest.mark.parametrize(
    ("verb", "state"), [(Verb.STOP, SweepState.STOPPED), (Verb.CANCEL, SweepState.CANCELLED)], ids=str
)
def test_a_verb_that_overtakes_the_end_of_a_pause_is_obeyed(
    house: House, monkeypatch: pytest.MonkeyPatch, verb: Verb, state: SweepState
) -> None:
    # Nothing is delivered before: the run would be open then, and nobody opens it twice.
    monkeypatch.setattr("sweep_service.services.conductor.DELIVERY_INTERVAL_S", 3600.0)

    def pause(key: str, order: PackOrder) -> None:
        house.ask(Verb.PAUSE)
        rest(house, key, order)
        # The conductor's last delivery comes right before it lets the sweep rest.
        monkeypatch.setattr(house.tracker, "open_sweep", lambda sweep: house.ask(verb) or f"run of {sweep.id}")
        raise WorkerDiedError

    house.packs.during = pause
    assert house.run().state is state
    assert [trial.state for trial in house.trials] == [TrialState.CANCELLED]


def test_a_fault_in_a_delivery_is_no_reason_not_to_rest(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("a fault of ours")

    def pause(key: str, order: PackOrder) -> None:
        monkeypatch.setattr(house.tracker, "log_reports", fail)
        house.ask(Verb.PAUSE)
        rest(house, key, order)
        raise WorkerDiedError

    house.packs.during = pause
    assert house.run().state is SweepState.PAUSED
    assert [trial.state for trial in house.trials] == [TrialState.RESTING]


def test_a_sweep_that_waits_for_the_tracking_server_at_its_end_can_be_paused(house: House) -> None:
    def go_away() -> None:
        house.tracker.is_away = True
        house.ask(Verb.PAUSE)
        raise TrackingUnavailableError("away")

    house.tracker.on_close_sweep = go_away
    assert house.run().state is SweepState.PAUSED
    house.tracker.is_away = False
    house.tracker.on_close_sweep = lambda: None
    house.ask(Verb.RESUME)
    house.lease = house.claim()
    assert house.run().state is SweepState.COMPLETED
    assert len(house.trials) == 3
