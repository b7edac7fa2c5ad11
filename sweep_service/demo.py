"""The demo: start a stack, sweep real data over REST, show and write what came out, end the stack."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from sweep_service.client import SweepClient
from sweep_service.launcher import Stack, StackOptions, running_stack
from sweep_service.rendering import console_for, print_results, shown_updates

POLL_S = 0.5


def run(*, home: Path, output: Path) -> int:
    """Run the demo and write its result to ``output``. 0: the sweep completed; whether GradNorm helped is its result.

    Must be called from the main thread.
    """
    logging.basicConfig(level="WARNING", format="%(asctime)s %(message)s")
    console = console_for()
    began = time.monotonic()
    console.print("Starting Ray, the dispatcher, the API and MLflow on loopback ...")
    # Any free ports: a stack of the user's own may have the usual ones.
    with running_stack(StackOptions(home=home, port=0, mlflow_port=0)) as stack:
        console.print(f"Up after {time.monotonic() - began:.0f} s. API {stack.api_url}, MLflow {stack.mlflow_url}")
        sweep, num_trials = _sweep(stack)
        print_results(console, sweep)
        document = _document(sweep, num_trials, tracking_uri=stack.settings.tracking_uri, began=began)
    output.write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"{document['seconds']:.0f} s in all. Written to {output}.")
    console.print("Nothing runs any more. To look at the runs:")
    console.print(f"  {_mlflow_command(home)}", soft_wrap=True)
    return 0 if sweep["state"] == "completed" else 1


def demo_spec() -> Mapping[str, Any]:
    """The spec that the demo submits."""
    return yaml.safe_load(files("sweep_service.examples").joinpath("census.yaml").read_text())


def _sweep(stack: Stack) -> tuple[Mapping[str, Any], int]:
    """Submit the sweep over REST and watch it to its end; with the number of its trials."""
    console = console_for()
    with SweepClient(stack.api_url) as client, shown_updates(console) as show:
        sweep_id = client.submit(demo_spec())["id"]

        def on_update(sweep: Mapping[str, Any]) -> None:
            stack.tend()
            show(sweep)

        sweep = client.wait(sweep_id, poll=POLL_S, on_update=on_update)
        return sweep, len(client.trials(sweep_id))


def _document(sweep: Mapping[str, Any], num_trials: int, *, tracking_uri: str, began: float) -> dict[str, Any]:
    results = sweep["results"] or {}
    return {
        "sweep_id": sweep["id"],
        "state": sweep["state"],
        "reason": sweep["reason"],
        "best": results.get("best"),
        "baselines": results.get("baselines"),
        "verdict": results.get("verdict"),
        "trials": num_trials,
        "mlflow_tracking_uri": tracking_uri,
        "mlflow_experiment": sweep["experiment"],
        "seconds": round(time.monotonic() - began, 1),
    }


def _mlflow_command(home: Path) -> str:
    database = os.path.relpath(home.resolve() / "mlflow.db")
    return f"mlflow server --workers 1 --backend-store-uri sqlite:///{database}"
