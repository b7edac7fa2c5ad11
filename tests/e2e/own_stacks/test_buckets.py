"""Checkpoints and MLflow's artifacts in an object store: workers die, the store goes away, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from bucket_server import BucketServer, bucket_server, reach
from mlflow.pytorch import load_model
from stack_control import RunningStack, await_that, end_stack, start_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

STEPS, EVERY = 4000, 400


@pytest.fixture(scope="module")
def server() -> Iterator[BucketServer]:
    with bucket_server() as running:
        yield running


@pytest.fixture(scope="module")
def stack(server: BucketServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    settings = {
        **server.environment,
        "SWEEP_CHECKPOINTS": f"s3://{server.bucket}/checkpoints/",
        "SWEEP_MLFLOW_ARTIFACTS": f"s3://{server.bucket}/artifacts",
    }
    running = start_stack(tmp_path_factory.mktemp("stack"), "--cpus", "2", settings=settings)
    try:
        yield running
    finally:
        left = end_stack(running)
    assert not left, f"processes outlived the stack: {left}"


def spec_named(name: str, trials: int) -> dict[str, Any]:
    """One after another."""
    return {
        "name": name,
        "trainable": "digits",
        "params": {"steps": STEPS, "report_every": EVERY, "checkpoint_every": EVERY},
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
        "search": {"sampler": "random", "seed": 4},
        "budget": {"trials": trials},
        "resources": {"cpus": 1, "parallel": 1, "lanes": 1},
        "tracking": {"experiment": "buckets"},
    }


def trials_of(stack: RunningStack, sweep_id: str) -> list[dict[str, Any]]:
    return [stack.client.trial(trial["id"]) for trial in stack.client.trials(sweep_id)]


def trains_with_a_checkpoint(stack: RunningStack, sweep_id: str) -> int | None:
    """The process in which a trial trains that has left checkpoints, and is not about to end."""
    trials = trials_of(stack, sweep_id)
    has_some = any(t["state"] == "running" and EVERY < (t["last_step"] or 0) < STEPS - 2 * EVERY for t in trials)
    return next(iter(stack.pids("ray::Trainer.train")), None) if has_some else None


def test_trials_go_on_from_a_bucket_and_the_best_model_is_in_it(
    stack: RunningStack, server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_id = stack.client.submit(spec_named("a worker dies", 2))["id"]
    psutil.Process(await_that(lambda: trains_with_a_checkpoint(stack, sweep_id), what="a checkpoint")).kill()
    sweep = stack.client.wait(sweep_id, timeout=200)
    trials = trials_of(stack, sweep_id)
    assert (sweep["state"], [trial["state"] for trial in trials]) == ("completed", ["completed"] * 2)
    resumed = [attempt["resumed_from"] for trial in trials for attempt in trial["attempts"][1:]]
    prefix = f"s3://{server.bucket}/checkpoints/{sweep_id}/"
    assert resumed
    assert all(name.startswith(prefix) for name in resumed)
    for trial in trials:
        steps = [report["step"] for report in stack.client.metrics(trial["id"])]
        assert steps == list(range(EVERY, STEPS + 1, EVERY))
    kept = [name for name in server.names() if name.startswith(f"checkpoints/{sweep_id}/")]
    assert [Path(name).parts[2] for name in kept] == [sweep["best_trial_id"]], "the best trial's last one, no other"
    reach(server, monkeypatch)
    assert load_model(model_uri(stack, sweep)) is not None


def test_a_store_that_goes_away_is_waited_for_and_told_of(stack: RunningStack, server: BucketServer) -> None:
    sweep_id = stack.client.submit(spec_named("the store goes away", 2))["id"]
    await_that(lambda: trains_with_a_checkpoint(stack, sweep_id), what="a checkpoint")
    server.stop()
    try:
        await_that(lambda: "its pack waits" in messages_of(stack, sweep_id), what="a word of it")
    finally:
        server.start()
    sweep = stack.client.wait(sweep_id, timeout=200)
    assert (sweep["state"], sweep["generation"]) == ("completed", 1)
    assert [trial["num_attempts"] for trial in stack.client.trials(sweep_id)] == [1, 1]
    assert "its pack goes on" in messages_of(stack, sweep_id)


def messages_of(stack: RunningStack, sweep_id: str) -> str:
    return json.dumps([event["message"] for event in stack.client.events(sweep_id)])


def model_uri(stack: RunningStack, sweep: Mapping[str, Any]) -> str:
    """Where MLflow keeps the best trial's model."""
    from mlflow import MlflowClient

    client = MlflowClient(stack.mlflow_url)
    return f"{client.get_run(sweep['tracking_ref']).info.artifact_uri}/model"
