"""Starts and ends a whole stack as a user does, with a package of faulty problems installed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
from mlflow import MlflowClient

from sweep_service.client import SweepClient

PROBLEMS = Path(__file__).parent / "problems"
START_SECONDS = 240


@dataclass(frozen=True, kw_only=True)
class RunningStack:
    process: subprocess.Popen[str]
    home: Path
    api_url: str
    mlflow_url: str
    client: SweepClient

    @property
    def tables(self) -> Path:
        """The folder that its problems may read."""
        return _tables_of(self.home)

    def log(self, name: str) -> str:
        return read(self.home / "logs" / f"{name}.log")

    def pids(self, *words: str) -> list[int]:
        """The processes below the stack whose command line holds all the words."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return sorted(process.pid for process in family if all(word in _command(process) for word in words))

    def pid(self, *words: str) -> int:
        """The first of them."""
        found = self.pids(*words)
        assert found, f"no process {words}"
        return found[0]


def read(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


def _tables_of(home: Path) -> Path:
    return home / "tables"


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has ended meanwhile
        return ""


def start_command(
    home: Path, *arguments: str, settings: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[str]:
    """A `sweep` command on that folder, whose output goes to out.txt and err.txt in it."""
    paths = [str(PROBLEMS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        **settings,
        "PYTHONPATH": os.pathsep.join(paths),
        "SWEEP_DATA_ROOTS": str(_tables_of(home)),
        "SWEEP_LEASE_TTL": "PT8S",
        "SWEEP_UNSCHEDULABLE_AFTER": "PT3S",
        "SWEEP_LIMITS": '[{"label": "only:one", "packs": 1}]',  # of test_queue_of_users alone
        "COLUMNS": "200",
    }
    home.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "sweep_service.cli", *arguments, "--home", str(home)]
    with (home / "out.txt").open("w") as out, (home / "err.txt").open("w") as err:
        return subprocess.Popen(argv, stdout=out, stderr=err, text=True, env=environment, start_new_session=True)


def start_stack(
    home: Path, *options: str, settings: Mapping[str, str] = MappingProxyType({}), within_s: float = START_SECONDS
) -> RunningStack:
    """`sweep up` on any free ports, ready. Fails with all of its logs if it ends or is not ready in time.
    ``settings`` are variables of its environment.
    """
    process = start_command(home, "up", "--port", "0", "--mlflow-port", "0", *options, settings=settings)
    out = home / "out.txt"
    try:
        await_that(lambda: "Submit a sweep" in read(out) or process.poll() is not None, within_s=within_s, what="start")
        urls = re.findall(r"(?:API|MLflow)\s+(http://\S+)", read(out))
        assert len(urls) == 2, f"it ended with status {process.returncode}"
    except BaseException as error:
        left = end_process(process)
        logs = [out, home / "err.txt", *sorted((home / "logs").glob("*.log"))]
        texts = [f"--- {path.name}\n{read(path)[-3000:]}" for path in logs]
        raise AssertionError("\n".join((f"The stack did not start: {error}; left of it: {left}", *texts))) from error
    return RunningStack(
        process=process,
        home=home,
        api_url=urls[0],
        mlflow_url=urls[1].partition("/#")[0],
        client=SweepClient(urls[0], timeout=60),
    )


def end_stack(stack: RunningStack) -> list[psutil.Process]:
    """Ctrl-C; returns the processes that are left of it."""
    stack.client.close()
    return end_process(stack.process)


def end_process(
    process: subprocess.Popen[str], number: signal.Signals = signal.SIGINT, *, within_s: float = 120.0
) -> list[psutil.Process]:
    """End it by that signal; returns what is left of all that it had started, which is killed then."""
    if process.poll() is not None:
        return []
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    try:
        process.wait(within_s)
    finally:
        if process.poll() is None:
            process.kill()
    _, left = psutil.wait_procs(family, timeout=30)
    for one in left:
        one.kill()
    return left


def await_that(condition: Callable[[], Any], *, within_s: float = 240.0, what: str = "") -> Any:
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


def kill_conductor(stack: RunningStack, sweep_id: str, generation: int) -> None:
    """Kill the process that runs the sweep; others may wait for one."""
    psutil.Process(conductor_pid(stack, sweep_id, generation)).kill()


def conductor_pid(stack: RunningStack, sweep_id: str, generation: int) -> int:
    line = rf"^\S+ \S+ (\d+) INFO .*conductor-{sweep_id}-{generation}: runs "
    started = re.search(line, stack.log("conductors"), re.MULTILINE)
    assert started, f"the log does not tell which process runs {sweep_id}"
    return int(started[1])


def run_sweep(stack: RunningStack, spec: dict[str, Any]) -> dict[str, Any]:
    """Submit it and wait for its end."""
    sweep_id = stack.client.submit(spec)["id"]
    return stack.client.wait(sweep_id, timeout=300)


def events_of(stack: RunningStack, sweep_id: str, kind: str) -> Iterator[dict[str, Any]]:
    """The sweep's events of one kind, those of its trials among them."""
    return (event for event in stack.client.events(sweep_id) if event["kind"] == kind)


def runs_of(client: MlflowClient, experiment: str, sweep_id: str) -> tuple[Any, list[Any]]:
    """The sweep's parent run and its child runs."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], f"tags.sweep_id = '{sweep_id}'", max_results=1000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == len(runs) - 1
    return parents[0], children
