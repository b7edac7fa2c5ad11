"""From what the engine reports of its lanes to checkpoints and messages to the conductor."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.domain.errors import CheckpointsUnavailableError
from sweep_service.domain.logs import LogStream
from sweep_service.domain.states import TrialEnding
from sweep_service.execution.capture import Capture
from sweep_service.execution.links import PackLink
from sweep_service.execution.log_sender import LogSender
from sweep_service.services.packs import Departure, LaneMessage, LaneOrder, PackOrder

if TYPE_CHECKING:
    from trainables.checkpoint import Checkpoint
    from trainables.protocol import LaneReport

MOST_WRITERS = 8  # threads that write a pack's checkpoints
RETRY_INTERVAL_S = 2.0  # between tries to write or read a checkpoint where that cannot be done for now
_ENDINGS: Mapping[str, TrialEnding] = {
    "completed": TrialEnding.COMPLETED,
    "non_finite": TrialEnding.NON_FINITE,
    "out_of_memory": TrialEnding.OUT_OF_MEMORY,
    "error": TrialEnding.ERROR,
}  # a lane that was STOPPED has no ending of its own: who stopped it knows why


@dataclass(frozen=True)
class _Unwritten:
    """A checkpoint that cannot be written for now, and why."""

    report: LaneReport
    checkpoint: Checkpoint
    why: str


class LaneReporter:
    """Writes the checkpoints of reports and passes the rest on. What ends a trial early is also said in its log.

    For room on the disk, and for a bucket that does not answer, it waits, as everything waits for the store: to give up
    would cost all trials their retries within seconds. Who does not want to wait as well can cancel, which ends this
    process.
    """

    def __init__(
        self,
        order: PackOrder,
        link: PackLink,
        capture: Capture,
        sender: LogSender,
        files: CheckpointFiles,
        *,
        rest: Callable[[float], None] = time.sleep,
    ) -> None:
        self._orders = {lane.trial_id: lane for lane in order.lanes}
        self._link = link
        self._capture = capture
        self._sender = sender
        self._files = files
        self._rest = rest
        self._last_checkpoint: dict[str, str] = {}
        self._ended: set[str] = set()
        self._resting: set[str] = set()  # lanes that have been asked to
        self.provenance: dict[str, str] = {}

    def __call__(self, reports: Sequence[LaneReport]) -> Collection[str]:
        """Pass the reports on; which lanes are to leave."""
        written = self._write_checkpoints(reports)
        messages = [self._message(report, written.get(report.lane)) for report in reports]
        notices = [(report, notice) for report in reports for notice in report.notices]
        for report, notice in notices:
            self._capture.say(LogStream.LOG, f"step {report.step}: {notice}", level="WARNING", lane=report.lane)
        leaving = self._send(messages)
        self._resting |= {trial_id for trial_id, why in leaving.items() if why is Departure.RESTS}
        ended = {report.lane for report in reports if report.ending is not None}
        self._ended |= ended
        self._capture.close(ended)  # what the pack's code says from here on is of those that go on
        for report, notice in notices:
            self._link.note(report.lane, f"Step {report.step}: {notice}.")
        # Only now that the store names the new ones may their predecessors go.
        due = {self._last_checkpoint[trial_id] for trial_id in written.keys() & self._last_checkpoint.keys()}
        self._last_checkpoint |= written
        _errors_of([partial(self._remove, name) for name in due - set(written.values())])
        return leaving.keys()

    def expect(self, orders: Sequence[LaneOrder]) -> None:
        """These lanes have come to the pack."""
        self._orders |= {order.trial_id: order for order in orders}
        self._capture.add([order.trial_id for order in orders])

    @property
    def num_open(self) -> int:
        """Lanes of the pack that have not said that they end."""
        return len(self._orders) - len(self._ended)

    def fail_all(self, error: Exception) -> None:
        """The problem could not even be loaded."""
        import traceback

        text = "".join(traceback.format_exception(error))
        message = f"{type(error).__name__}: {error}"
        self._send(
            [
                LaneMessage(
                    trial_id=trial_id, step=0, metrics={}, ending=TrialEnding.ERROR, message=message, traceback=text
                )
                for trial_id in self._orders
            ]
        )

    def _send(self, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        for message in messages:
            if text := message.traceback or message.message:
                self._capture.say(LogStream.LOG, text, level="ERROR", lane=message.trial_id)
        if any(message.ending is not None or message.rests for message in messages):
            self._sender.flush()  # who sees that a trial has ended, or rests, finds all that it had to say
        return self._link.report(messages)

    def _write_checkpoints(self, reports: Sequence[LaneReport]) -> dict[str, str]:
        """The names of those that are due, by lane."""
        due = [(report, checkpoint) for report in reports if (checkpoint := self._checkpoint_of(report)) is not None]
        if due:
            self._write_at_once(due)
        return {report.lane: self._name_of(report) for report, _ in due}

    def _write_at_once(self, due: Sequence[tuple[LaneReport, Checkpoint]]) -> None:
        """Most of the time of one goes by in waiting for the disk or the bucket, which makes several of them durable in
        the time of one.
        """
        left = self._try_to_write(due)
        if not left:
            return
        first = left[0].report
        self._tell(first, f"its pack waits, for {left[0].why}")
        while left:
            self._rest(RETRY_INTERVAL_S)
            left = self._try_to_write([(one.report, one.checkpoint) for one in left])
        self._tell(first, "its pack goes on: the checkpoint is written")

    def _try_to_write(self, due: Sequence[tuple[LaneReport, Checkpoint]]) -> Sequence[_Unwritten]:
        """Those that cannot be written for now."""
        tries = [partial(self._files.save, checkpoint, self._name_of(report)) for report, checkpoint in due]
        return [
            _Unwritten(report, checkpoint, _reason_to_wait(error))
            for (report, checkpoint), error in zip(due, _errors_of(tries), strict=True)
            if error is not None
        ]

    def _checkpoint_of(self, report: LaneReport) -> Checkpoint | None:
        if report.leave_checkpoint is not None and report.lane in self._resting:
            return report.leave_checkpoint()
        return report.checkpoint

    def _name_of(self, report: LaneReport) -> str:
        return f"{self._orders[report.lane].checkpoint_dir}/step-{report.step:08d}.pt"

    def _remove(self, name: str) -> None:
        """One that is left lying takes room, and harms nobody."""
        with suppress(OSError, CheckpointsUnavailableError):
            self._files.remove(name)

    def _tell(self, report: LaneReport, notice: str) -> None:
        self._capture.say(LogStream.LOG, f"step {report.step}: {notice}", level="WARNING", lane=report.lane)
        self._link.note(report.lane, f"Step {report.step}: {notice}.")

    def _message(self, report: LaneReport, checkpoint: str | None) -> LaneMessage:
        ending = _ENDINGS.get(report.ending) if report.ending is not None else None
        return LaneMessage(
            trial_id=report.lane,
            step=report.step,
            metrics=dict(report.metrics),
            checkpoint=checkpoint,
            ending=ending,
            rests=_is_stopped(report) and report.lane in self._resting,
            message=report.message,
            traceback=report.traceback,
            provenance=self.provenance if ending is not None else {},
        )


def _errors_of(calls: Sequence[Callable[[], None]]) -> Sequence[BaseException | None]:
    """What each raises, all called at once; one needs no thread."""
    if not calls:
        return []
    if len(calls) == 1:
        try:
            calls[0]()
        except CheckpointsUnavailableError as error:
            return [error]
        return [None]
    with ThreadPoolExecutor(max_workers=min(len(calls), MOST_WRITERS)) as threads:
        return [one.exception() for one in [threads.submit(call) for call in calls]]


def _reason_to_wait(error: BaseException) -> str:
    """Why it cannot be written for now. Raises the error itself where it will not pass."""
    if not isinstance(error, CheckpointsUnavailableError):
        raise error
    return str(error)


def _is_stopped(report: LaneReport) -> bool:
    return report.ending is not None and report.ending not in _ENDINGS


def provenance_of(data_hash: str, encoding_hash: str | None) -> dict[str, str]:
    """What a result depends on beside its parameters."""
    packages = {"code_version": "gradnorm-sweeps", "torch": "torch", "numpy": "numpy", "ray": "ray"}
    return {
        "data_hash": data_hash,
        **({"encoding_hash": encoding_hash} if encoding_hash is not None else {}),
        "python": platform.python_version(),
        **{key: _version(package) for key, package in packages.items()},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed as a package"
