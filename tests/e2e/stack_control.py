"""Starts and ends a whole stack as a user does, with a package of faulty problems installed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from sweep_service.client import SweepClient

PROBLEMS = Path(__file__).parent / "problems"
START_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class RunningStack:
    process: subprocess.Popen[str]
    home: Path
    api_url: str
    mlflow_url: str
    client: SweepClient

    def log(self, name: str) -> str:
        path = self.home / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def pids(self, *words: str) -> list[int]:
        """The processes below the stack whose command line holds all the words."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return sorted(process.pid for process in family if all(word in _command(process) for word in words))

    def pid(self, *words: str) -> int:
        """The first of them."""
        found = self.pids(*words)
        assert found, f"no process {words}"
        return found[0]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


def start_stack(home: Path, *options: str) -> RunningStack:
    """`sweep up` on any free ports, ready."""
    argv = [sys.executable, "-m", "sweep_service.cli", "up", "--home", str(home), "--port", "0", "--mlflow-port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(PROBLEMS), "SWEEP_LEASE_TTL": "PT4S", "COLUMNS": "200"}
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.log").open("w") as log:
        process = subprocess.Popen(
            [*argv, *options], stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
        )
    printed = ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if "Submit a sweep" in line:
            break
    urls = re.findall(r"(?:API|MLflow)\s+(http://\S+)", printed)
    assert len(urls) == 2, f"the stack did not start: {printed}\n{(home / 'up.log').read_text()}"
    return RunningStack(
        process=process, home=home, api_url=urls[0], mlflow_url=urls[1], client=SweepClient(urls[0], timeout=30)
    )


def end_stack(stack: RunningStack) -> list[psutil.Process]:
    """Ctrl-C; returns the processes that are left of it."""
    family = psutil.Process(stack.process.pid).children(recursive=True)
    stack.client.close()
    stack.process.send_signal(signal.SIGINT)
    try:
        stack.process.wait(60)
    finally:
        if stack.process.poll() is None:
            stack.process.kill()
    _, left = psutil.wait_procs(family, timeout=5)
    for process in left:
        process.kill()
    return left


def await_that(condition: Callable[[], Any], *, within_s: float = 60.0, what: str = "") -> Any:
    """Poll a real process until the condition holds; its value."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"not within {within_s:.0f} s: {what or condition}")


def faulty_spec(name: str, **changes: Any) -> dict[str, Any]:
    """A short sweep of the faulty problem; ``params`` and ``space`` are merged, all else replaced."""
    spec: dict[str, Any] = {
        "name": name,
        "trainable": "faulty",
        "params": {"steps": 50, "batch_size": 32, **changes.pop("params", {})},
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}, **changes.pop("space", {})},
        "search": {"sampler": "random", "seed": 11},
        "budget": {"trials": 4},
        "resources": {"cpus": 1, "parallel": 2},
        "tracking": {"experiment": name},
    }
    return {**spec, **changes}
