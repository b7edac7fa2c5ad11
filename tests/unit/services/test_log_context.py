"""What the log of a conductor and of a dispatcher tells of each line: which sweep, which trial, which pack."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from conductor_fakes import ShakyStore
from conductor_house import PATIENCE_S, House, WorkerDiedError, await_that
from dispatcher_house import FakeConductors
from store_values import new_sweep

from sweep_service.cluster_port import EndedConductor
from sweep_service.domain.errors import LeaseLostError
from sweep_service.domain.states import SweepState, TrialEnding
from sweep_service.domain.trial import Lease
from sweep_service.logs import JsonLines
from sweep_service.services.dispatcher import Dispatcher
from sweep_service.services.losses import Loss
from sweep_service.services.packs import LaneMessage, PackOrder


class Log:
    """What is written meanwhile."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def line(self, part: str) -> dict[str, Any]:
        """The only one that has that in its message."""
        (found,) = self.having(part)
        return found

    def having(self, part: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if part in line["message"]]

    def await_line(self, part: str) -> None:
        """Threads that end with their conductor may write later than it ends."""
        await_that(lambda: self.having(part), what=f"a line that has {part!r}")


@pytest.fixture
def log() -> Iterator[Log]:
    log, root = Log(), logging.getLogger()
    handler = logging.StreamHandler(log.stream)
    handler.setFormatter(JsonLines("conductor"))
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    yield log
    root.removeHandler(handler)
    root.setLevel(level)


def test_every_line_of_a_conductor_tells_its_sweep(house: House, log: Log) -> None:
    assert house.run().state is SweepState.COMPLETED
    assert len(log.lines) >= 2
    own = [line for line in log.lines if line["logger"].startswith("sweep_service")]
    assert {(line.get("sweep_id"), line.get("generation")) for line in own} == {(house.lease.sweep_id, 1)}
    assert not any("trial_id" in line or "pack" in line for line in own)


def test_a_trial_that_fails_is_told_with_its_number_and_its_pack(house: House, log: Log) -> None:
    def fail(key: str, order: PackOrder) -> None:
        (lane,) = order.lanes
        end = LaneMessage(trial_id=lane.trial_id, step=1, metrics={}, ending=TrialEnding.ERROR, message="its fault")
        assert house.packs.conductor is not None
        house.packs.conductor.packs.report(key, [end])

    house.packs.during = fail
    house.run()
    for trial, pack in zip(house.trials, ("pack-1", "pack-2", "pack-3"), strict=True):
        line = log.line(f"Trial {trial.id} ")
        assert (line["trial_id"], line["trial_number"], line["pack"]) == (trial.id, trial.number, pack)
        assert line["sweep_id"] == house.lease.sweep_id


def test_calls_of_packs_are_told_with_the_sweep_although_they_come_in_threads_of_their_own(
    house: House, log: Log
) -> None:
    def call(key: str, order: PackOrder) -> None:
        assert house.packs.conductor is not None
        thread = threading.Thread(target=house.packs.conductor.packs.explain, args=(key, "no space left"))
        thread.start()
        thread.join(PATIENCE_S)

    house.packs.during = call
    house.run()
    line = log.line("the worker of pack pack-1 ends: no space left")
    assert (line["sweep_id"], line["generation"], line["pack"]) == (house.lease.sweep_id, 1, "pack-1")


def test_why_a_pack_was_lost_is_found_out_in_a_thread_that_knows_which(house: House, log: Log) -> None:
    ends = iter([WorkerDiedError()])

    def lose_once(key: str, order: PackOrder) -> None:
        with suppress(StopIteration):
            raise next(ends)

    house.packs.during = lose_once
    house.packs.evidence = lambda pack, worker: Loss.WORKER
    assert house.run().state is SweepState.COMPLETED
    line = log.line("the pack pack-1 was lost")
    assert (line["sweep_id"], line["pack"]) == (house.lease.sweep_id, "pack-1")


def test_the_watch_knows_the_sweep(house: House, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:

    def stumble(_: str) -> None:
        raise ZeroDivisionError

    def wait(key: str, order: PackOrder) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(house.store, "get_standing", stumble)
            log.await_line("the watch stumbled")

    house.packs.during = wait
    assert house.run().state is SweepState.COMPLETED
    stumbles = log.having("the watch stumbled")
    assert {line["sweep_id"] for line in stumbles} == {house.lease.sweep_id}
    assert all("ZeroDivisionError" in line["exception"] for line in stumbles)


def test_the_thread_that_keeps_the_lease_knows_the_sweep(
    house: House, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Renewed after a third of it, given up after four fifths: the time between is for a machine that is busy.
    house.settings = house.settings.model_copy(update={"lease_ttl": timedelta(seconds=4)})

    def fail(lease: Lease, **_: object) -> Lease:
        raise ZeroDivisionError

    def wait(key: str, order: PackOrder) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(house.store, "renew_lease", fail)
            log.await_line("could not be renewed")

    house.packs.during = wait
    house.run()
    lines = [line for line in log.having("could not be renewed") if "exception" in line]
    assert lines
    assert {line["sweep_id"] for line in lines} == {house.lease.sweep_id}


def test_the_delivery_knows_the_sweep(house: House, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweep_service.services.conductor.DELIVERY_INTERVAL_S", 0.01)
    opens = house.tracker.open_sweep

    def fail(_: object) -> str:
        raise ZeroDivisionError

    def wait(key: str, order: PackOrder) -> None:
        log.await_line("delivery failed")
        monkeypatch.setattr(house.tracker, "open_sweep", opens)

    monkeypatch.setattr(house.tracker, "open_sweep", fail)  # from the start: the first delivery may precede any pack
    house.packs.during = wait
    assert house.run().state is SweepState.COMPLETED
    lines = log.having("delivery failed")
    assert lines
    assert {line["sweep_id"] for line in lines} == {house.lease.sweep_id}


def test_a_conductor_that_is_told_to_leave_tells_its_sweep_although_others_have_called(house: House, log: Log) -> None:
    killed = threading.Event()
    seen: list[dict[str, Any]] = []

    def note_context() -> None:
        logging.getLogger("test").warning("ending workers")
        seen.append(log.line("ending workers"))
        house.packs.on_kill = lambda: None
        killed.set()

    def leave(key: str, order: PackOrder) -> None:
        house.packs.on_kill = note_context
        assert house.packs.conductor is not None
        house.packs.conductor.leave(timedelta(0))
        assert killed.wait(PATIENCE_S)
        raise LeaseLostError("its process is to end")

    house.packs.during = leave
    house.run()
    assert seen[0]["sweep_id"] == house.lease.sweep_id


def test_a_run_that_the_tracking_server_refuses_is_told_with_its_trial(house: House, log: Log) -> None:
    refused: list[str] = []

    def refuse(key: str, order: PackOrder) -> None:
        refused.append(order.lanes[0].trial_id)
        house.tracker.cannot_open.add(f"run of {order.lanes[0].trial_id}")
        house.tracker.cannot_close.add(f"run of {order.lanes[0].trial_id}")
        house.packs.during = lambda key, order: None

    house.packs.during = refuse
    house.run()
    line = log.line("does not take trial")
    assert (line["trial_id"], line["trial_number"], line["sweep_id"]) == (refused[0], 0, house.lease.sweep_id)


def test_a_dispatcher_tells_the_sweep_that_it_starts_and_that_it_settles(
    dispatcher: Dispatcher, store: ShakyStore, conductors: FakeConductors, log: Log
) -> None:
    for index in range(2):
        store.add_sweep(new_sweep(index))
    dispatcher.look()
    assert dispatcher.dispatch_one()
    assert dispatcher.dispatch_one()
    first, second = conductors.started
    for lease in (first, second):
        line = log.line(f"Claimed {lease.sweep_id}")
        assert (line["sweep_id"], line["generation"]) == (lease.sweep_id, lease.generation)
    conductors.ended = [EndedConductor(lease=second, error="ImportError", message="no module")]
    dispatcher.settle_ended()
    assert log.line("could not start")["sweep_id"] == second.sweep_id
    logging.getLogger("test").warning("after it")
    assert "sweep_id" not in log.line("after it")
