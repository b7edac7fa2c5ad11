"""How the checkpoints of a report are written, and what is done where one cannot be for now."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.clock import SystemClock
from sweep_service.execution.capture import Capture
from sweep_service.execution.lane_reporter import RETRY_INTERVAL_S, LaneReporter
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


def report_with(checkpoints: Mapping[str, Any], folder: Path) -> tuple[list[str], list[float], Collection[str]]:
    """Each is a trial's. What was told, how long was waited, and what the report said."""
    lanes = tuple(
        LaneOrder(
            trial_id=trial_id,
            balancer="equal",
            params={},
            evaluate_test=False,
            checkpoint_dir=str(folder / trial_id),
            resume_from=None,
        )
        for trial_id in checkpoints
    )
    order = PackOrder(
        trainable="t", lanes=lanes, places=len(lanes), is_settled=True, is_measured=False, num_threads=1, gpus=0
    )
    link, pauses, capture = Told(), [], Capture([*checkpoints], clock=SystemClock())
    sender = LogSender(capture, link.log)
    reporter = LaneReporter(order, link, capture, sender, FolderFiles(), rest=pauses.append)
    reports = [
        LaneReport(lane=one, step=20, metrics={}, checkpoint=checkpoint) for one, checkpoint in checkpoints.items()
    ]
    return link.events, pauses, reporter(reports)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_room_for_a_checkpoint_is_waited_for_and_told_of_once(tmp_path: Path, number: int) -> None:
    told, pauses, leaving = report_with({"trl_1": LateCheckpoint(3, number)}, tmp_path)
    assert (tmp_path / "trl_1" / "step-00000020.pt").exists()
    assert pauses == [RETRY_INTERVAL_S] * 3
    why = os.strerror(number)
    assert told == [
        f"trl_1: Step 20: its pack waits, for there is no room for a checkpoint in {tmp_path / 'trl_1'}: {why}.",
        "trl_1: Step 20: its pack goes on: the checkpoint is written.",
        "report 20",
    ]
    assert not leaving


def test_a_checkpoint_that_can_be_written_is_no_news(tmp_path: Path) -> None:
    assert report_with({"trl_1": LateCheckpoint(0, 0)}, tmp_path)[:2] == (["report 20"], [])


def test_what_does_not_pass_by_itself_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(PermissionError):
        report_with({"trl_1": LateCheckpoint(1, errno.EACCES)}, tmp_path)


def test_one_that_has_to_wait_for_room_costs_no_other_its_checkpoint(tmp_path: Path) -> None:
    checkpoints = {f"trl_{n}": LateCheckpoint(1 if n == 7 else 0, errno.ENOSPC) for n in range(20)}
    told, pauses, _ = report_with(checkpoints, tmp_path)
    assert all((tmp_path / trial_id / "step-00000020.pt").exists() for trial_id in checkpoints)
    assert pauses == [RETRY_INTERVAL_S]
    assert [event.partition(":")[0] for event in told] == ["trl_7", "trl_7", *["report 20"] * 20]


def test_a_pack_waits_once_for_all_of_its_checkpoints(tmp_path: Path) -> None:
    checkpoints = {f"trl_{n}": LateCheckpoint(1, errno.ENOSPC) for n in range(20)}
    told, pauses, _ = report_with(checkpoints, tmp_path)
    assert all((tmp_path / trial_id / "step-00000020.pt").exists() for trial_id in checkpoints)
    assert pauses == [RETRY_INTERVAL_S]
    assert [event.partition(":")[0] for event in told] == ["trl_0", "trl_0", *["report 20"] * 20]


def test_all_that_are_due_are_written_at_once(tmp_path: Path) -> None:
    """Each comes to its end only when another is being written too."""
    met = threading.Barrier(2, timeout=30)

    class Meeting(LateCheckpoint):
        def save(self, path: Path) -> None:
            met.wait()
            super().save(path)

    told, _, _ = report_with({f"trl_{n}": Meeting(0, 0) for n in range(4)}, tmp_path)
    assert told == ["report 20"] * 4
