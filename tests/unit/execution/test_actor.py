"""The process of a conductor, without Ray: what it is given, and that it takes no more than one sweep."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from sweep_service.domain.trial import Lease
from sweep_service.execution import actor
from sweep_service.execution.actor import ConductorActor


class ProcessEndedError(BaseException):
    """What leaving an actor raises in it."""


class FakeConductor:
    def __init__(self, made: list[str]) -> None:
        self._made = made

    def run(self) -> None:
        """A sweep that is over at once."""

    def leave(self, within: timedelta) -> None:
        self._made.append(f"leaves within {within.total_seconds():.0f} s")


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the actor has done: loaded its libraries, made a conductor."""
    made: list[str] = []

    def leave() -> None:
        raise ProcessEndedError

    def new_conductor(*_: object) -> FakeConductor:
        made.append("conductor")
        return FakeConductor(made)

    monkeypatch.setattr(actor, "exit_actor", leave)
    monkeypatch.setattr(actor, "_new_conductor", new_conductor)
    monkeypatch.setattr(actor, "_load_libraries", lambda: made.append("libraries"))
    return made


def lease() -> Lease:
    return Lease(sweep_id="swp_1", token="t", generation=1, owner="test", expires_at=datetime(2030, 1, 1, tzinfo=UTC))


def test_a_conductor_that_waits_leaves_when_it_is_asked_to_and_takes_no_sweep_any_more(made: list[str]) -> None:
    waiting = ConductorActor("conductor-1")
    assert waiting.is_idle()
    with pytest.raises(ProcessEndedError):
        waiting.leave_if_idle()
    assert not waiting.is_idle()
    assert waiting.run(lease()) is False
    assert made == []


def test_a_conductor_that_another_dispatcher_has_given_a_sweep_stays() -> None:
    running = ConductorActor("conductor-1")
    with pytest.raises(ProcessEndedError):
        running.run(lease())
    assert running.leave_if_idle() is False
    assert running.run(lease()) is False


def test_a_sweep_waits_until_the_libraries_that_are_being_loaded_are_complete(
    monkeypatch: pytest.MonkeyPatch, made: list[str]
) -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    def load() -> None:
        has_begun.set()
        assert may_end.wait(120)
        made.append("libraries")

    def run() -> None:
        with pytest.raises(ProcessEndedError):
            prepared.run(lease())

    monkeypatch.setattr(actor, "_load_libraries", load)
    prepared = ConductorActor("conductor-1")
    threads = [threading.Thread(target=work, daemon=True) for work in (prepared.prepare, run)]
    threads[0].start()
    assert has_begun.wait(120)
    threads[1].start()
    assert not threading.Event().wait(0.1)
    assert made == []
    may_end.set()
    for thread in threads:
        thread.join(120)
    assert made == ["libraries", "conductor"]


def test_a_conductor_that_has_a_sweep_prepares_nothing_beside_it(made: list[str]) -> None:
    running = ConductorActor("conductor-1")
    with pytest.raises(ProcessEndedError):
        running.run(lease())
    running.prepare()
    assert made == ["conductor"]


def test_a_conductor_that_is_to_let_go_of_its_sweep_before_it_is_there_does_so_when_it_is(made: list[str]) -> None:
    early = ConductorActor("conductor-1")
    early.leave(timedelta(seconds=7))
    with pytest.raises(ProcessEndedError):
        early.run(lease())
    assert made == ["conductor", "leaves within 7 s"]
    early.leave(timedelta(seconds=3))
    assert made[-1] == "leaves within 3 s"
