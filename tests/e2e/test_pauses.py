"""A sweep that is paused and resumed over REST, with real workers: nothing is lost, and nothing is done twice."""

from __future__ import annotations

from typing import Any

import pytest
from mlflow import MlflowClient
from stack_control import RunningStack, await_that, kill_conductor, runs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRIALS, STEPS, EVERY = 6, 4000, 250


def spec_named(name: str) -> dict[str, Any]:
    """Packs of four, two at once; no checkpoint before the last step but those of a pause."""
    return {
        "name": name,
        "trainable": "digits",
        "params": {"steps": STEPS, "report_every": EVERY, "checkpoint_every": STEPS},
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
        "search": {"sampler": "random", "seed": 4},
        "budget": {"trials": TRIALS},
        "resources": {"cpus": 1, "parallel": 2, "lanes": 4},
        "tracking": {"experiment": name},
    }


def trials_of(stack: RunningStack, sweep_id: str) -> list[dict[str, Any]]:
    return [stack.client.trial(trial["id"]) for trial in stack.client.trials(sweep_id)]


def pause_in_mid_training(stack: RunningStack, sweep_id: str, *, after: int) -> None:
    """Pause when several trials have reported ``after`` steps, and wait until the sweep rests."""

    def num_under_way() -> int:
        running = [trial for trial in stack.client.trials(sweep_id) if trial["state"] == "running"]
        return sum((trial["last_step"] or 0) >= after for trial in running)

    await_that(lambda: num_under_way() >= 4, what="four trials that train")
    stack.client.pause(sweep_id)
    await_that(lambda: stack.client.get(sweep_id)["state"] == "paused", what="the sweep to rest")


def test_a_paused_sweep_holds_nothing_and_goes_on_where_its_trials_rest(
    stack: RunningStack, mlflow_client: MlflowClient
) -> None:
    sweep_id = stack.client.submit(spec_named("paused"))["id"]
    pause_in_mid_training(stack, sweep_id, after=500)
    resting = {trial["id"]: trial for trial in trials_of(stack, sweep_id) if trial["state"] == "resting"}
    assert sum(trial["last_step"] >= 500 for trial in resting.values()) >= 4  # a second pack may have begun since
    assert {trial["state"] for trial in trials_of(stack, sweep_id)} <= {"completed", "resting", "pending"}
    for trial in resting.values():
        assert [attempt["state"] for attempt in trial["attempts"]] == ["preempted"]
        assert EVERY <= trial["last_step"] < STEPS
    await_that(lambda: not stack.pids("ray::Trainer.train"), what="nobody to train")
    parent, children = runs_of(mlflow_client, "paused", sweep_id)
    assert {run.info.status for run in (parent, *children)} <= {"RUNNING", "FINISHED"}
    assert stack.client.pause(sweep_id)["state"] == "paused"

    assert stack.client.resume(sweep_id)["state"] in ("queued", "starting", "running")
    sweep = stack.client.wait(sweep_id, timeout=300)
    assert (sweep["state"], sweep["reason"], sweep["generation"]) == ("completed", "budget_trials", 2)
    ended = trials_of(stack, sweep_id)
    assert [(trial["number"], trial["state"]) for trial in ended] == [(n, "completed") for n in range(TRIALS)]
    for trial in ended:
        states = [attempt["state"] for attempt in trial["attempts"]]
        assert states == (["preempted", "finished"] if trial["id"] in resting else ["finished"])
        if trial["id"] in resting:
            rested_at = resting[trial["id"]]["last_step"]
            assert trial["attempts"][1]["resumed_from"].endswith(f"step-{rested_at:08d}.pt")
    parent, children = runs_of(mlflow_client, "paused", sweep_id)
    assert len(children) == TRIALS
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    for run in children:
        points = mlflow_client.get_metric_history(run.info.run_id, "val/normalized_loss")
        assert sorted(point.step for point in points) == list(range(EVERY, STEPS + 1, EVERY))


@pytest.mark.long
def test_a_pause_outlives_its_conductor_and_a_sweep_can_be_stopped_in_it(
    stack: RunningStack, mlflow_client: MlflowClient
) -> None:
    spec = spec_named("stopped in a pause")
    spec["params"] = {"steps": 40_000, "report_every": 20_000}  # no report before the conductor is dead
    sweep_id = stack.client.submit(spec)["id"]
    await_that(lambda: "running" in {t["state"] for t in trials_of(stack, sweep_id)}, what="trials that run")
    assert stack.client.pause(sweep_id)["state"] == "pausing"
    kill_conductor(stack, sweep_id, generation=1)
    await_that(
        lambda: stack.client.get(sweep_id)["state"] == "paused", within_s=240, what="the next one to end the pause"
    )
    assert {trial["state"] for trial in trials_of(stack, sweep_id)} <= {"resting", "pending"}
    assert stack.client.stop(sweep_id)["state"] == "stopping"
    sweep = stack.client.wait(sweep_id, timeout=300)
    assert (sweep["state"], sweep["reason"], sweep["generation"]) == ("stopped", "user", 3)
    assert {trial["state"] for trial in trials_of(stack, sweep_id)} == {"cancelled"}
    parent, children = runs_of(mlflow_client, "stopped in a pause", sweep_id)
    assert parent.info.status == "FINISHED"
    assert children
    assert {run.info.status for run in children} == {"KILLED"}
