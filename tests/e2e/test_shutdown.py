"""A service that is told to end while a sweep runs: nothing that was trained is lost."""

from __future__ import annotations

import signal
import time

import psutil
import pytest
from mlflow import MlflowClient
from stack_control import RunningStack, await_that, read, runs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRIALS, STEPS, EVERY = 4, 3000, 100


def test_a_dispatcher_that_is_told_to_end_has_its_sweeps_let_go_of_with_checkpoints(
    stack: RunningStack, mlflow_client: MlflowClient
) -> None:
    spec = {
        "name": "drained",
        "trainable": "digits",
        "params": {"steps": STEPS, "report_every": EVERY, "checkpoint_every": STEPS},
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
        "search": {"sampler": "random", "seed": 4},
        "budget": {"trials": TRIALS},
        "resources": {"cpus": 1, "parallel": 2, "lanes": 2},
        "retries": 0,
        "tracking": {"experiment": "drained"},
    }
    sweep_id = stack.client.submit(spec)["id"]

    def num_under_way() -> int:
        return sum(trial["last_step"] >= 2 * EVERY for trial in stack.client.trials(sweep_id))

    await_that(lambda: num_under_way() == TRIALS, what="all trials to train")
    log = len(stack.log("dispatcher"))
    dispatcher = psutil.Process(stack.pid("sweep_service.worker"))
    dispatcher.send_signal(signal.SIGTERM)
    await_that(lambda: not dispatcher.is_running(), within_s=90, what="its end")
    assert "Not drained in time" not in stack.log("dispatcher")[log:]
    assert "gone; its lease runs out" not in stack.log("dispatcher")[log:]

    sweep = stack.client.wait(sweep_id, timeout=300, patience=120)
    assert (sweep["state"], sweep["generation"]) == ("completed", 2)
    for trial in (stack.client.trial(one["id"]) for one in stack.client.trials(sweep_id)):
        first, second = trial["attempts"]
        assert (first["state"], first["message"]) == ("preempted", "The service is shutting down.")
        assert (second["state"], "step-" in (second["resumed_from"] or "")) == ("finished", True)
    parent, children = runs_of(mlflow_client, "drained", sweep_id)
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert len(children) == TRIALS
    for run in children:
        points = mlflow_client.get_metric_history(run.info.run_id, "val/normalized_loss")
        assert sorted(point.step for point in points) == list(range(EVERY, STEPS + 1, EVERY))


def test_a_dispatcher_ends_although_ray_does_not_answer(stack: RunningStack) -> None:
    dispatcher = psutil.Process(stack.pid("sweep_service.worker"))
    gcs = psutil.Process(stack.pid("gcs_server"))
    log, supervised = len(stack.log("dispatcher")), len(read(stack.home / "err.txt"))
    gcs.suspend()
    try:
        time.sleep(2)  # for a call to be under way, in which it hears nothing
        dispatcher.send_signal(signal.SIGTERM)
        await_that(lambda: not dispatcher.is_running(), within_s=90, what="its end")
    finally:
        gcs.resume()
    assert "Not ended in time" in stack.log("dispatcher")[log:]
    await_that(lambda: "Dispatching." in stack.log("dispatcher")[log:], what="its successor")
    assert "dispatcher ended (status 75)" in read(stack.home / "err.txt")[supervised:]
