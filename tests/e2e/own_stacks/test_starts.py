"""`sweep up` and `sweep demo` that do not come up, or are interrupted: nothing is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from stack_control import await_that, end_process, read, start_command

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_demo_whose_parts_do_not_come_up_says_which(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "sweep_service.cli", "demo", "--home", str(tmp_path), "--output", str(tmp_path / "o")]
    environment = {**os.environ, "SWEEP_LOG_LEVEL": "NONSENSE"}
    demo = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=240)
    assert demo.returncode == 1
    message, *log = demo.stderr.splitlines()
    assert message == f"Error: api: ended (status 1). The end of {tmp_path / 'logs' / 'api.log'}:"
    assert log == (tmp_path / "logs" / "api.log").read_text().splitlines()[-20:]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_is_interrupted_ends_at_once_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = start_command(tmp_path, "up", "--port", "0", "--mlflow-port", "0")
    await_that(lambda: (tmp_path / "logs" / "mlflow.log").exists(), what="the first parts to be started")
    assert end_process(process, number, within_s=60) == []
    assert process.returncode == 128 + number
    assert read(tmp_path / "out.txt") == "Ended before it was up.\n"
    assert "Traceback" not in read(tmp_path / "err.txt")


def test_a_demo_that_is_interrupted_ends_its_stack(tmp_path: Path) -> None:
    process = start_command(tmp_path, "demo", "--output", str(tmp_path / "result.json"))
    try:
        await_that(lambda: "search 0/" in read(tmp_path / "out.txt"), within_s=240, what="the sweep to be watched")
    finally:
        left = end_process(process)
    assert left == []
    assert process.returncode == 128 + signal.SIGINT
    assert read(tmp_path / "out.txt").endswith("Interrupted. Nothing runs any more.\n")
    assert "Traceback" not in read(tmp_path / "err.txt")
