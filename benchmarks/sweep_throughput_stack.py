"""A sweep of our own service over REST, in a private stack that is started for it and ended after it.

Warm: before the clock starts the stack is up and ready, and a sweep of one trial of the same problem has gone through.
The clock runs from the POST to the sweep's terminal state, which it has only when everything can be read in MLflow.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.sweep_throughput_memory import PeakMemory
from benchmarks.sweep_throughput_processes import Family, private_environment, said, started
from benchmarks.sweep_throughput_workload import (
    ALPHA,
    LR,
    METRIC,
    PARALLEL,
    REDUCTION_FACTOR,
    SEED,
    WEIGHT_LR,
    Curve,
    Measurement,
    NotAvailableError,
    VariantFailedError,
    Workload,
)
from sweep_service.client import ClientError, InvalidRequestError, SweepClient

UP_WITHIN_S, DOWN_WITHIN_S = 180.0, 60.0
SETTLE_S = 15.0  # for the service to get ready for the next sweep, as it does when it has nothing to do
POLL_S = 0.5  # what the measured seconds may be too long by
WARM_UP_STEPS = 15


@dataclass(frozen=True, kw_only=True)
class ServiceVariant:
    """How the service is asked to train the trials."""

    lanes: int | str | None  # trials of a pack; None: all trials in as few packs as run at once
    sampler: str = "tpe"
    asha: bool = False

    def lanes_for(self, workload: Workload) -> int | str:
        return math.ceil(workload.trials / PARALLEL) if self.lanes is None else self.lanes


def spec_of(workload: Workload, variant: ServiceVariant) -> Mapping[str, Any]:
    """The sweep that is measured."""
    spec: dict[str, Any] = {
        "name": f"throughput-{workload.problem}",
        "trainable": workload.problem,
        "params": {
            "steps": workload.steps,
            "batch_size": workload.batch_size,
            "lr": LR,
            "report_every": workload.report_every,
        },
        "space": {
            "alpha": {"type": "float", "low": ALPHA[0], "high": ALPHA[1]},
            "weight_lr": {"type": "float", "low": WEIGHT_LR[0], "high": WEIGHT_LR[1], "log": True},
        },
        "search": {"sampler": variant.sampler, "seed": SEED},
        "budget": {"trials": workload.trials},
        "resources": {"cpus": 1, "parallel": PARALLEL, "lanes": variant.lanes_for(workload)},
    }
    if variant.asha:
        rule = {"pruner": "asha", "min_steps": workload.min_steps, "reduction_factor": REDUCTION_FACTOR}
        spec["early_stopping"] = rule
    return spec


def warm_up_spec(workload: Workload) -> Mapping[str, Any]:
    """A short trial of the same problem for each pack that may run, each alone in its own."""
    few = Workload(
        problem=workload.problem,
        trials=PARALLEL,
        steps=min(WARM_UP_STEPS, workload.steps),
        batch_size=workload.batch_size,
    )
    return {**spec_of(few, ServiceVariant(lanes=1)), "name": "warm-up"}


def measure_service(workload: Workload, variant: ServiceVariant, folder: Path, ray_folder: Path) -> Measurement:
    """Start a stack, warm it up, measure one sweep, end the stack.

    Raises:
        NotAvailableError: the service refuses the sweep.
        VariantFailedError: the stack or the sweep failed.
    """
    family = Family()
    try:
        with private_stack(folder, ray_folder) as (url, up_seconds), SweepClient(url, timeout=60) as client:
            _refuse_early(client, workload, variant)
            run(client, warm_up_spec(workload))
            time.sleep(SETTLE_S)
            with PeakMemory(family) as memory:
                started_at = time.time()
                sweep = run(client, spec_of(workload, variant))
                seconds = time.time() - started_at
            finals = [trial["objective"] for trial in client.trials(sweep["id"]) if trial["state"] == "completed"]
            return Measurement(
                seconds=seconds,
                cold_seconds=up_seconds + seconds,
                peak_mb=memory.peak_mb,
                completed=len(finals),
                curve=_curve(client, sweep["id"], started_at),
                best=min(finals, default=None),
            )
    except ClientError as error:
        raise VariantFailedError(str(error)) from error
    finally:
        if left := family.end():
            sys.stderr.write(f"left of the stack, and ended: {', '.join(left)}\n")


def _refuse_early(client: SweepClient, workload: Workload, variant: ServiceVariant) -> None:
    try:
        client.preview(spec_of(workload, variant))
    except InvalidRequestError as error:
        reasons = [f"{fault.get('pointer', '')}: {fault.get('detail', '')}" for fault in error.errors]
        raise NotAvailableError("; ".join(reasons) or str(error)) from error


def run(client: SweepClient, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The sweep, completed. Raises VariantFailedError."""
    sweep = client.wait(client.submit(spec)["id"], poll=POLL_S)
    if sweep["state"] != "completed":
        raise VariantFailedError(f"the sweep {sweep['state']}: {sweep['reason']} {json.dumps(sweep['results'])[:2000]}")
    return sweep


def _curve(client: SweepClient, sweep_id: str, started_at: float) -> Curve:
    """What the trials reported, and when the service recorded it."""
    points: list[tuple[float, float]] = []
    for trial in client.trials(sweep_id):
        for point in client.metrics(trial["id"], keys=[METRIC]):
            value = point["metrics"].get(METRIC)
            if value is not None:
                points.append((datetime.fromisoformat(point["reported_at"]).timestamp() - started_at, value))
    return sorted(points)


@contextlib.contextmanager
def private_stack(
    folder: Path, ray_folder: Path, settings: Mapping[str, str] | None = None
) -> Iterator[tuple[str, float]]:
    """The address of a stack that is ready, and how long that took; ended at the end of the block. ``settings`` are
    set in its environment besides.
    """
    argv = [sys.executable, "-m", "sweep_service.cli", "up", "--home", str(folder / "home")]
    argv += ["--port", "0", "--mlflow-port", "0", "--cpus", str(PARALLEL), "--gpus", "0"]
    began = time.monotonic()
    environment = {**private_environment(ray_folder), "COLUMNS": "200", **(settings or {})}
    with started(argv, folder, environment) as process:
        try:
            url = _await_ready(process, folder, began + UP_WITHIN_S)
            yield url, time.monotonic() - began
        finally:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(DOWN_WITHIN_S)


def _await_ready(process: subprocess.Popen[bytes], folder: Path, deadline: float) -> str:
    while "Submit a sweep" not in (text := said(folder)):
        if process.poll() is not None or time.monotonic() > deadline:
            raise VariantFailedError(f"the stack did not come up:\n{text[-3000:]}")
        time.sleep(0.1)
    found = re.search(r"API\s+(http://\S+)", text)
    assert found is not None, text
    return found[1]
