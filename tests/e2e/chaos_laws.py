"""What holds of a sweep that has ended, whatever died meanwhile."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import mlflow.pytorch
import torch
from chaos import Scene
from mlflow import MlflowClient
from stack_control import RunningStack, await_that, runs_of


def check_laws(scene: Scene, sweep: dict[str, Any], *, roles: dict[str, int], steps: range, folder: Path) -> None:
    """Completed, with exactly these trials by role, each of which has reported these steps once, here and in MLflow;
    nothing of it runs any more, and the best model loads. ``folder`` takes what is read of MLflow.
    """
    stack = scene.stack
    assert (sweep["state"], sweep["reason"]) == ("completed", "budget_trials"), sweep["message"]
    trials = [stack.client.trial(trial["id"]) for trial in stack.client.trials(sweep["id"])]
    _check_trials(trials, roles)
    await_that(lambda: not stack.pids("ray::Trainer.train"), within_s=90, what="nobody to train")
    curves = {trial["id"]: _curves(stack, trial, steps) for trial in trials}
    client = MlflowClient(scene.mlflow.url)
    parent, children = runs_of(client, sweep["experiment"], sweep["id"])
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    runs = {run.data.tags["trial_id"]: run.info.run_id for run in children}
    assert len(children) == len(trials)
    assert runs == {trial["id"]: trial["tracking_ref"] for trial in trials}
    tracked = _tracked(scene.mlflow.database, set(runs.values()))
    for trial_id, run_id in runs.items():
        assert tracked[run_id] == curves[trial_id], f"of trial {trial_id}, MLflow has something else"
    _check_best_model(client, parent.info.run_id, sweep, trials, folder)


def _check_trials(trials: list[dict[str, Any]], roles: dict[str, int]) -> None:
    assert [trial["number"] for trial in trials] == list(range(sum(roles.values())))
    assert Counter(trial["role"] for trial in trials) == roles
    assert {trial["state"] for trial in trials} == {"completed"}, [trial["message"] for trial in trials]
    points = [tuple(sorted(trial["searched"].items())) for trial in trials if trial["role"] == "search"]
    assert len(set(points)) == len(points), "a point was drawn twice"
    for trial in trials:
        states = [attempt["state"] for attempt in trial["attempts"]]
        assert states == ["lost"] * (len(states) - 1) + ["finished"]
        assert all(attempt["ended_at"] for attempt in trial["attempts"])
        assert [attempt["number"] for attempt in trial["attempts"]] == list(range(len(states)))


def _curves(stack: RunningStack, trial: dict[str, Any], steps: range) -> Counter[tuple[str, int, float]]:
    """What the trial has reported: key, step and value, each as often as it is there."""
    points = stack.client.metrics(trial["id"])
    assert [point["step"] for point in points] == list(steps), f"trial {trial['number']}"
    assert [point["seq"] for point in points] == sorted(point["seq"] for point in points)
    return Counter((key, point["step"], value) for point in points for key, value in point["metrics"].items())


def _tracked(database: Path, runs: set[str]) -> dict[str, Counter[tuple[str, int, float]]]:
    """The same of MLflow's runs, read from its tables: over its API it would be some hundred calls."""
    found: dict[str, Counter[tuple[str, int, float]]] = {run: Counter() for run in runs}
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for run, key, step, value in connection.execute("SELECT run_uuid, key, step, value FROM metrics"):
            if run in runs:
                found[run][key, step, value] += 1
    return found


def _check_best_model(
    client: MlflowClient, parent: str, sweep: dict[str, Any], trials: list[dict[str, Any]], folder: Path
) -> None:
    best = min((trial for trial in trials if trial["role"] == "search"), key=lambda trial: trial["objective"])
    assert sweep["best_trial_id"] == best["id"]
    ranked = [row["objective"] for row in sweep["results"]["leaderboard"]]
    assert ranked == sorted(trial["objective"] for trial in trials if trial["role"] != "confirm")
    folder.mkdir(parents=True, exist_ok=True)
    model = mlflow.pytorch.load_model(client.download_artifacts(parent, "model", str(folder)))
    outputs = model(torch.rand(3, 32))
    assert {name: output.shape[0] for name, output in outputs.items()} == dict.fromkeys(
        ("digit", "lower_half", "odd"), 3
    )
