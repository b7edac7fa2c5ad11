"""Where there is no room for a checkpoint."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweep_service.clock import SystemClock
from sweep_service.execution.capture import Capture
from sweep_service.execution.lane_reporter import ROOM_INTERVAL_S, LaneReporter
from sweep_service.execution.log_sender import LogSender
from sweep_service.services.packs import Departure, LaneLines, LaneMessage, LaneOrder, PackOrder
from trainables.protocol import LaneReport


class Told:
    """A link that keeps what it is told, in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def report(self, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        self.events += [f"report {message.step}" for message in messages]
        return {}

    def note(self, trial_id: str, message: str) -> None:
        self.events.append(f"{trial_id}: {message}")

    def log(self, said: Sequence[LaneLines]) -> bool:
        return True


class LateCheckpoint:
    """One whose writing fails so many times."""

    def __init__(self, failures: int, number: int) -> None:
        self._failures = failures
        self._number = number

    def save(self, path: Path) -> None:
        if self._failures:
            self._failures -= 1
            raise OSError(self._number, os.strerror(self._number))
        path.parent.mkdir(exist_ok=True)
        path.touch()


def report_with(checkpoint: Any, folder: Path) -> tuple[list[str], list[float], Collection[str]]:
    """What was told, how long was waited, and what the report said."""
    lane = LaneOrder(
        trial_id="trl_1",
        balancer="equal",
        params={},
        evaluate_test=False,
        checkpoint_dir=str(folder),
        resume_from=None,
    )
    order = PackOrder(trainable="t", lanes=(lane,), places=1, is_settled=True, is_measured=False, num_threads=1, gpus=0)
    link, pauses, capture = Told(), [], Capture(["trl_1"], clock=SystemClock())
    sender = LogSender(capture, link.log)
    reporter = LaneReporter(order, link, capture, sender, rest=pauses.append)
    leaving = reporter([LaneReport(lane="trl_1", step=20, metrics={}, checkpoint=checkpoint)])
    return link.events, pauses, leaving


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_room_for_a_checkpoint_is_waited_for_and_told_of_once(tmp_path: Path, number: int) -> None:
    told, pauses, leaving = report_with(LateCheckpoint(3, number), tmp_path / "trl_1")
    assert (tmp_path / "trl_1" / "step-00000020.pt").exists()
    assert pauses == [ROOM_INTERVAL_S] * 3
    why = os.strerror(number)
    assert told == [
        f"trl_1: Step 20: there is no room for a checkpoint in {tmp_path / 'trl_1'}, and its pack waits for it: {why}.",
        "trl_1: Step 20: there is room for a checkpoint again.",
        "report 20",
    ]
    assert not leaving


def test_a_checkpoint_that_can_be_written_is_no_news(tmp_path: Path) -> None:
    assert report_with(LateCheckpoint(0, 0), tmp_path / "trl_1")[:2] == (["report 20"], [])


def test_what_does_not_pass_by_itself_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        report_with(LateCheckpoint(1, errno.EACCES), tmp_path / "trl_1")
