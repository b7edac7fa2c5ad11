"""Lines on their way from a worker to its conductor."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from store_values import FakeClock

from sweep_service.domain.logs import LogStream
from sweep_service.execution.capture import Capture
from sweep_service.execution.log_sender import LogSender
from sweep_service.services.packs import LaneLines

AT_ONCE, NEVER = 0.001, 1000.0


class Receiver:
    """Takes lines, or does not."""

    def __init__(self) -> None:
        self.is_away = False
        self.got: list[tuple[int, list[str]]] = []
        self.asked = threading.Event()

    def __call__(self, said: Sequence[LaneLines]) -> bool:
        if not self.is_away:
            self.got += [(lane_lines.first, [line.text for line in lane_lines.lines]) for lane_lines in said]
        self.asked.set()
        return not self.is_away


def new_capture() -> Capture:
    return Capture(["a"], clock=FakeClock())


def test_lines_are_sent_while_the_code_is_busy() -> None:
    capture, receiver = new_capture(), Receiver()
    with LogSender(capture, receiver, interval_s=AT_ONCE):
        capture.say(LogStream.STDOUT, "before a step that hangs")
        assert receiver.asked.wait(60)
    assert receiver.got == [(0, ["before a step that hangs"])]


def test_the_last_lines_are_sent_at_the_end() -> None:
    capture, receiver = new_capture(), Receiver()
    with LogSender(capture, receiver, interval_s=NEVER):
        capture.say(LogStream.STDOUT, "last")
    assert receiver.got == [(0, ["last"])]


def test_lines_that_did_not_arrive_are_sent_again_with_what_came_since() -> None:
    capture, receiver = new_capture(), Receiver()
    with LogSender(capture, receiver, interval_s=NEVER) as sender:
        receiver.is_away = True
        capture.say(LogStream.STDOUT, "one")
        sender.flush()
        receiver.is_away = False
        capture.say(LogStream.STDOUT, "two")
        sender.flush()
        sender.flush()
    assert receiver.got == [(0, ["one", "two"])]


def test_nothing_is_sent_where_nothing_is_said() -> None:
    receiver = Receiver()
    with LogSender(new_capture(), receiver, interval_s=NEVER) as sender:
        sender.flush()
    assert not receiver.asked.is_set()
