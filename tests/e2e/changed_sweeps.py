"""A sweep that tests change while it is there, and what must be true of it at its end."""

from __future__ import annotations

from typing import Any

from mlflow import MlflowClient
from stack_control import RunningStack, runs_of

STEPS, EVERY = 200, 50


def spec_named(name: str, **changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "name": name,
        "trainable": "digits",
        "params": {"steps": STEPS, "report_every": EVERY, "checkpoint_every": STEPS},
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
        "search": {"sampler": "tpe", "seed": 4},
        "budget": {"trials": 24},
        "resources": {"cpus": 1, "parallel": 1, "lanes": 4},
        "tracking": {"experiment": name},
    }
    return {**spec, **changes}


def num_ended(stack: RunningStack, sweep_id: str) -> int:
    return sum(trial["ended_at"] is not None for trial in stack.client.trials(sweep_id))


def check_that_all_was_done_once(stack: RunningStack, sweep: dict[str, Any], *, trials: int) -> None:
    """Every trial of that number, with a point and a run of its own, and each step of it once."""
    found = stack.client.trials(sweep["id"])
    assert [(trial["number"], trial["state"]) for trial in found] == [(n, "completed") for n in range(trials)]
    assert len({trial["searched"]["alpha"] for trial in found}) == trials, "none is repeated"
    client = MlflowClient(f"sqlite:///{stack.home / 'mlflow.db'}")
    parent, children = runs_of(client, sweep["experiment"], sweep["id"])
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert sorted(run.data.tags["trial_id"] for run in children) == sorted(trial["id"] for trial in found)
    for run in children:
        points = client.get_metric_history(run.info.run_id, "val/normalized_loss")
        assert sorted(point.step for point in points) == list(range(EVERY, STEPS + 1, EVERY))
