"""The demo: start a stack, sweep real data over REST, show and write what came out, end the stack."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import yaml

from sweep_service.client import ENDED_STATES, ClientError, SweepClient
from sweep_service.launcher import LaunchError, Stack, StackOptions, running_stack
from sweep_service.rendering import console_for, print_results, shown_updates
from sweep_service.supervisor import ChildFailedError, EndRequestedError, EndSignals

POLL_S = 0.5


def run(*, home: Path, output: Path) -> int:
    """Run the demo and write its result to ``output``. Must be called from the main thread.

    0: the sweep completed; whether GradNorm helped is its result. 1: it did not complete, or the stack failed.
    128 + the signal's number: Ctrl-C or SIGTERM ended the demo, and its stack with it.
    """
    logging.basicConfig(level="WARNING", format="%(asctime)s %(message)s")
    with EndSignals() as signals:
        try:
            return _run(home, output, signals)
        except EndRequestedError as error:
            console_for().print("Interrupted. Nothing runs any more.")
            return error.exit_code
        except (LaunchError, ChildFailedError, OSError) as error:
            sys.stderr.write(f"Error: {error}\n")
        except ClientError as error:
            sys.stderr.write(f"Error: {error} The logs of the stack, which has ended, are in {home / 'logs'}.\n")
        return 1


def _run(home: Path, output: Path, signals: EndSignals) -> int:
    with output.open("a"):
        pass  # a place that cannot be written to is told now, not after the sweep
    console = console_for()
    began = time.monotonic()
    console.print("Starting Ray, the dispatcher, the API and MLflow on loopback ...")
    # Any free ports: a stack of the user's own may have the usual ones.
    with running_stack(StackOptions(home=home, port=0, mlflow_port=0), signals) as stack:
        console.print(f"Up after {time.monotonic() - began:.0f} s. API {stack.api_url}, MLflow {stack.mlflow_page}")
        end_earlier_sweeps(stack)
        sweep, num_trials = run_sweep(stack)
        print_results(console, sweep)
        document = _document(sweep, num_trials, tracking_uri=stack.settings.tracking_uri, began=began)
    output.write_text(json.dumps(document, indent=2) + "\n")
    console.print(f"{document['seconds']:.0f} s in all. Written to {output}.")
    console.print("Nothing runs any more. To look at the runs:")
    console.print(f"  {_mlflow_command(home)}", soft_wrap=True)
    if document["best"] is not None:
        console.print("To ask the best trial's model about rows:")
        console.print(f"  {_predict_command(home)}", soft_wrap=True)
    return 0 if sweep["state"] == "completed" else 1


def demo_spec() -> Mapping[str, Any]:
    """The spec that the demo submits."""
    return yaml.safe_load(files("sweep_service.examples").joinpath("census.yaml").read_text())


def end_earlier_sweeps(stack: Stack) -> None:
    """A demo that was interrupted has left its sweep in the home; it would go on beside this one, and slow it down."""
    with SweepClient(stack.api_url, sleep=stack.rest) as client:
        for sweep in client.list():
            if sweep["name"] == demo_spec()["name"] and sweep["state"] not in ENDED_STATES:
                client.cancel(sweep["id"])


def run_sweep(stack: Stack) -> tuple[Mapping[str, Any], int]:
    """Submit the sweep over REST and watch it to its end; with the number of its trials.

    Raises:
        ClientError: the service refuses, or does not come back.
        EndRequestedError: a signal has come.
    """
    # The stack is tended whenever the client sleeps, which it also does while nobody answers: the API may have died.
    with SweepClient(stack.api_url, sleep=stack.rest) as client, shown_updates(console_for()) as show:
        sweep_id = client.submit(demo_spec())["id"]
        sweep = client.wait(sweep_id, poll=POLL_S, on_update=show)
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
    return f"{_command('mlflow')} server --workers 1 --backend-store-uri sqlite:///{database}"


def _predict_command(home: Path) -> str:
    name = demo_spec()["tracking"]["register_as"]
    with as_file(files("trainables") / "data" / "census20k.csv.gz") as rows:
        return (
            f"{_command('sweep')} predict {name} {os.path.relpath(rows)} --home {os.path.relpath(home)} -o answers.csv"
        )


def _command(name: str) -> str:
    beside_python = Path(sys.executable).with_name(name)  # of the environment that this runs in, which may be none
    return os.path.relpath(beside_python) if beside_python.exists() else name
