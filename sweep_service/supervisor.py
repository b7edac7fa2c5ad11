"""Keeps child processes running, and ends all of them with itself.

Linux does the hard parts where it can: children get SIGTERM when this process dies, however it dies, and their orphaned
descendants become this process's children, so that none is overlooked at the end.

Each child leads a session of its own, which all that it starts belongs to: Ctrl-C does not reach it, and what it leaves
behind can be told from what the others have started.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType, TracebackType
from typing import BinaryIO, Self

import psutil

logger = logging.getLogger(__name__)

TERM_GRACE_S = 15.0
MAX_LOG_BYTES = 20_000_000  # a longer log is put aside when its child is started
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 15.0
_STEADY_AFTER_S = 30.0  # a child that ran for so long did not fail at its start
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


class ChildFailedError(Exception):
    """A child did not come up; the message holds the end of its log."""


class EndRequestedError(Exception):
    """A signal told this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"Told to end by {signal.Signals(number).name}.")

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that the signal ended."""
        return 128 + self.number


class EndSignals:
    """SIGINT, SIGTERM and SIGHUP noted instead of obeyed at once, so that what was started can be ended in order.

    A context manager, to be entered from the main thread; before that it notes nothing. The note is a plain attribute:
    a handler runs between any two instructions of the main thread, which may just hold the lock of an Event.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._replaced: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup: to live on without its terminal
            self._replaced[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._replaced.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def check(self) -> None:
        """Raises EndRequestedError if a signal has come."""
        if self.number is not None:
            raise EndRequestedError(self.number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number


@dataclass(frozen=True, kw_only=True)
class Child:
    """A process to keep running."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    is_ready: Callable[[], bool]
    ready_within_s: float = 60.0
    term_grace_s: float = TERM_GRACE_S  # from SIGTERM to SIGKILL


@dataclass(kw_only=True)
class _Running:
    child: Child
    process: subprocess.Popen[bytes]
    started: float
    pause_s: float = _SHORTEST_PAUSE_S
    restart_at: float | None = None


class Supervisor:
    """Starts children in order, restarts those that die, ends them in reverse order. A context manager.

    To be used from the main thread only: on Linux a child gets its SIGTERM when the thread that started it ends.
    """

    def __init__(self, *, log_dir: Path | None, signals: EndSignals) -> None:
        """A log file for each child in that folder. None: they write to where this process does."""
        self._log_dir = log_dir
        self._signals = signals
        self._running: list[_Running] = []

    def __enter__(self) -> Self:
        if self._log_dir is not None:
            self._log_dir.mkdir(parents=True, exist_ok=True)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *children: Child) -> None:
        """Start the children and return once all of them are ready.

        Raises:
            ChildFailedError: one ended, or was not ready in its time.
            EndRequestedError: a signal has come meanwhile.
        """
        started: list[_Running] = []
        for child in children:
            self._signals.check()
            started.append(_Running(child=child, process=self._spawn(child), started=time.monotonic()))
            self._running.append(started[-1])
        for running in started:
            self._await_ready(running)

    def tend(self) -> None:
        """Restart what has died. To be called about every half second."""
        now = time.monotonic()
        for running in self._running:
            if running.restart_at is not None:
                if now >= running.restart_at:
                    self._restart(running, now)
            elif running.process.poll() is not None:
                _kill(_session(running.process.pid))  # or its successor would find its port taken
                steady = now - running.started > _STEADY_AFTER_S
                pause_s = _SHORTEST_PAUSE_S if steady else _longer(running.pause_s)
                self._put_off(running, now, pause_s, f"ended (status {running.process.returncode})")
        _reap_orphans(ours={running.process.pid for running in self._running})

    def pid(self, name: str) -> int:
        """The process id of a child."""
        return next(running.process.pid for running in self._running if running.child.name == name)

    def log_tail(self, name: str, *, lines: int = 20) -> str:
        """The end of a child's log."""
        if self._log_dir is None:
            return ""
        with contextlib.suppress(OSError):
            text = _log_path(self._log_dir, name).read_text(errors="replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    def close(self) -> None:
        """End every child and all that they have started: SIGTERM, some patience, SIGKILL."""
        for running in reversed(self._running):
            _end(running.process, running.child.term_grace_s)
        self._running.clear()
        _end_orphans()

    def _restart(self, running: _Running, now: float) -> None:
        try:
            running.process = self._spawn(running.child)
        except OSError as error:  # no memory, no disk, no folder for the log: the others are not to die of it
            self._put_off(running, now, _longer(running.pause_s), f"cannot be started ({error})")
        else:
            running.started, running.restart_at = now, None

    def _put_off(self, running: _Running, now: float, pause_s: float, fact: str) -> None:
        running.pause_s, running.restart_at = pause_s, now + pause_s
        logger.warning("%s %s; restarting in %.1f s.", running.child.name, fact, pause_s)

    def _spawn(self, child: Child) -> subprocess.Popen[bytes]:
        with _open_log(self._log_dir, child.name) as log:
            return subprocess.Popen(
                list(child.argv),
                env={**os.environ, **child.env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the supervisor, which ends the others in order
                # Safe: this process has one thread when it starts children.
                preexec_fn=partial(_die_with_parent, os.getpid()),
            )

    def _await_ready(self, running: _Running) -> None:
        child = running.child
        deadline = time.monotonic() + child.ready_within_s
        while not child.is_ready():
            self._signals.check()
            status = running.process.poll()
            if status is not None or time.monotonic() > deadline:
                fact = (
                    f"ended (status {status})" if status is not None else f"not ready in {child.ready_within_s:.0f} s"
                )
                if self._log_dir is None:
                    raise ChildFailedError(f"{child.name}: {fact}.")
                path = _log_path(self._log_dir, child.name)
                raise ChildFailedError(f"{child.name}: {fact}. The end of {path}:\n{self.log_tail(child.name)}")
            time.sleep(0.05)


def _open_log(folder: Path | None, name: str) -> contextlib.AbstractContextManager[BinaryIO | None]:
    """What a child is to write to. None: what this process writes to."""
    if folder is None:
        return contextlib.nullcontext()
    path = _log_path(folder, name)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    return path.open("ab")


def _log_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.log"


def _longer(pause_s: float) -> float:
    return min(2 * pause_s, _LONGEST_PAUSE_S)


def _end(process: subprocess.Popen[bytes], grace_s: float) -> None:
    if process.poll() is not None:
        return  # its id may be another process's by now
    family = _family(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    _kill(family)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(TERM_GRACE_S)


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _session(leader: int) -> list[psutil.Process]:
    """What a dead child left behind of all that it had started; on Linux this process has inherited it."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader:
                found.append(process)
    return found


def _reap_orphans(*, ours: set[int]) -> None:
    """Descendants of dead children have become ours, and stay zombies until somebody asks how they ended."""
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if process.pid not in ours and process.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(process.pid, os.WNOHANG)


def _end_orphans() -> None:
    """What the children left behind has become ours; nothing else has a reason to be a child of this process now."""
    for _ in range(10):  # one that dies may leave children of its own
        orphans = psutil.Process().children(recursive=True)
        if not orphans:
            return
        _kill(orphans)


def _kill(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(processes), timeout=5.0)


def _die_with_parent(parent: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before it could be asked for
        os._exit(1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(option, value, 0, 0, 0)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
