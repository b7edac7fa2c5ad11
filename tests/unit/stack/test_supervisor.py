"""The supervisor over real children. It runs in a process of its own: it ends all children of the one that it is in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweep_service.supervisor import MAX_LOG_BYTES

# Arguments: the folder of the logs, the program of the child, which is ready when it has written the file "ready".
SUPERVISING = """
import signal, sys, time
from pathlib import Path
from sweep_service.supervisor import Child, EndRequestedError, EndSignals, Supervisor

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
logs, program = Path(sys.argv[1]), sys.argv[2]
child = Child(name="child", argv=(sys.executable, "-c", program), env={}, is_ready=(logs.parent / "ready").exists)
with EndSignals() as signals:
    try:
        with Supervisor(log_dir=logs, signals=signals) as supervisor:
            supervisor.start(child)
            print("up", flush=True)
            while True:
                signals.check()
                supervisor.tend()
                time.sleep(0.02)
    except EndRequestedError as error:
        sys.exit(error.exit_code)
"""


class Supervised:
    """A supervisor of one child that writes its process id, a line for each of its lives, into the file "pids"."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.process: Any = None

    def start(self, program: str = "") -> None:
        names = f"import os, sys, time, pathlib, subprocess; folder = pathlib.Path({str(self.folder)!r})"
        note = "print(os.getpid(), file=(folder / 'pids').open('a'), flush=True)"
        ready = "(folder / 'ready').touch()"
        child = "\n".join((names, program, ready, note, "time.sleep(600)"))
        argv = [sys.executable, "-c", SUPERVISING, str(self.logs), child]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def await_up(self) -> None:
        """Until the child is known to be ready: its supervisor ends where a child dies that it still waits for."""
        assert self.process.stdout.readline() == "up\n", self.process.stderr.read()

    def pids(self, num: int) -> list[int]:
        """The ids of the child's first lives, once it has had so many."""
        file = self.folder / "pids"
        return await_that(lambda: [int(p) for p in file.read_text().split()] if lines_of(file) >= num else None)


def lines_of(file: Path) -> int:
    return file.read_text().count("\n") if file.exists() else 0


def await_that(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not come to be")


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Supervised]:
    running = Supervised(tmp_path)
    yield running
    if running.process is not None and running.process.poll() is None:
        running.process.terminate()
        running.process.communicate(timeout=60)


def test_a_child_that_dies_is_started_again_and_its_log_goes_on(supervised: Supervised) -> None:
    supervised.start("print('alive', flush=True)")
    supervised.await_up()
    (first,) = supervised.pids(1)
    os.kill(first, signal.SIGKILL)
    second = supervised.pids(2)[1]
    assert second != first
    assert (supervised.logs / "child.log").read_text() == "alive\n" * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_the_start_ends_what_was_started(supervised: Supervised, number: signal.Signals) -> None:
    supervised.start("print(os.getpid(), file=(folder / 'pids').open('a'), flush=True); time.sleep(600)")  # not ready
    (child,) = supervised.pids(1)
    supervised.process.send_signal(number)
    assert supervised.process.wait(60) == 128 + number
    assert not psutil.pid_exists(child)
    assert supervised.process.communicate() == ("", "")


def test_what_a_dead_child_had_started_ends_before_its_successor_starts(supervised: Supervised) -> None:
    supervised.start(
        "for pid in map(int, (folder / 'left').read_text().split() if (folder / 'left').exists() else ()):\n"
        "    print('still there' if os.path.exists(f'/proc/{pid}') else 'gone', flush=True)\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "(folder / 'left').write_text(str(left.pid))"
    )
    supervised.await_up()
    os.kill(supervised.pids(1)[0], signal.SIGKILL)
    supervised.pids(2)
    assert (supervised.logs / "child.log").read_text() == "gone\n"


def test_a_long_log_is_put_aside_when_its_child_starts(supervised: Supervised) -> None:
    supervised.logs.mkdir()
    log = supervised.logs / "child.log"
    log.write_text("of earlier\n")
    os.truncate(log, MAX_LOG_BYTES + 1)
    supervised.start("print('of now', flush=True)")
    supervised.pids(1)
    assert log.read_text() == "of now\n"
    assert (supervised.logs / "child.log.1").stat().st_size == MAX_LOG_BYTES + 1


def test_a_child_that_cannot_be_started_for_now_is_tried_again(supervised: Supervised) -> None:
    supervised.start()
    supervised.await_up()
    (first,) = supervised.pids(1)
    supervised.logs.rename(supervised.folder / "elsewhere")
    os.kill(first, signal.SIGKILL)
    lines = iter(supervised.process.stderr.readline, "")
    assert any("cannot be started" in line for line in lines)
    supervised.logs.mkdir()
    assert supervised.pids(2)[1] != first


def test_a_supervisor_told_to_end_leaves_nothing_even_of_another_session(supervised: Supervised) -> None:
    supervised.start(
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "(folder / 'left').write_text(str(left.pid))"
    )
    (child,) = supervised.pids(1)
    left = int((supervised.folder / "left").read_text())
    supervised.process.terminate()
    assert supervised.process.wait(60) == 128 + signal.SIGTERM
    assert not psutil.pid_exists(child)
    assert not psutil.pid_exists(left)
