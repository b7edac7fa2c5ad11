"""Sweeps that are changed over REST, with real workers: in a pause and over a restart of everything, while they run,
and after their end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient
from stack_control import RunningStack, await_that, end_stack, faulty_spec, read, runs_of, start_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

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


def kill_the_supervisor(stack: RunningStack) -> None:
    """Nothing of it may live on, or the next start would find its ports and its folder in other hands."""
    family = psutil.Process(stack.process.pid).children(recursive=True)
    stack.process.kill()
    stack.process.wait(10)
    _, left = psutil.wait_procs(family, timeout=30)
    outlived = [(process, process.cmdline()) for process in left]
    for process in left:
        process.kill()
    stack.client.close()
    assert not outlived


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


def test_a_pause_a_larger_budget_and_a_restart_of_everything_lose_and_repeat_nothing(tmp_path: Path) -> None:
    stack = start_stack(tmp_path / "stack", "--cpus", "2")
    try:
        sweep_id = stack.client.submit(spec_named("extended"))["id"]
        await_that(lambda: num_ended(stack, sweep_id) >= 8, what="eight trials")
        stack.client.pause(sweep_id)
        await_that(lambda: stack.client.get(sweep_id)["state"] == "paused", what="the sweep to rest")
        rested = {trial["id"]: trial for trial in stack.client.trials(sweep_id)}
        assert 8 <= num_ended(stack, sweep_id) < 24
        changed = stack.client.amend(sweep_id, {"budget": {"trials": 32}, "resources": {"parallel": 2}})
        assert (changed["state"], changed["revision"], changed["progress"]["budget_trials"]) == ("paused", 1, 32)
        kill_the_supervisor(stack)
        rays_folder = Path(read(stack.home / "ray-folder"))
        assert rays_folder.is_dir()

        stack = start_stack(tmp_path / "stack", "--cpus", "2")
        assert not rays_folder.exists()
        assert stack.client.get(sweep_id)["state"] == "paused"
        stack.client.resume(sweep_id)
        sweep = stack.client.wait(sweep_id, timeout=240)
        assert (sweep["state"], sweep["reason"], sweep["generation"]) == ("completed", "budget_trials", 2)
        check_that_all_was_done_once(stack, sweep, trials=32)
        for before in rested.values():
            after = stack.client.trial(before["id"])
            assert after["searched"] == before["searched"]
            if before["state"] == "completed":
                assert after["ended_at"] == before["ended_at"]
            elif before["state"] == "resting":
                assert after["attempts"][-1]["resumed_from"].endswith(f"step-{before['last_step']:08d}.pt")
        packs = {a["pack"] for t in stack.client.trials(sweep_id) for a in stack.client.trial(t["id"])["attempts"]}
        assert len(packs) >= 3, "one before the pause, two after it"
    finally:
        left = end_stack(stack)
    assert not left


def test_a_running_sweep_takes_a_change_at_once_and_one_that_has_ended_goes_on(stack: RunningStack) -> None:
    sweep_id = stack.client.submit(spec_named("changed", budget={"trials": 4}))["id"]
    await_that(lambda: stack.client.get(sweep_id)["state"] == "running", what="the start")
    stack.client.amend(sweep_id, {"budget": {"trials": 6}, "resources": {"parallel": 2}})
    sweep = stack.client.wait(sweep_id, timeout=120)
    assert (sweep["state"], sweep["generation"], sweep["revision"]) == ("completed", 1, 1)
    check_that_all_was_done_once(stack, sweep, trials=6)

    stack.client.amend(sweep_id, {"budget": {"trials": 8}})
    sweep = stack.client.wait(sweep_id, timeout=120)
    assert (sweep["state"], sweep["generation"], sweep["revision"]) == ("completed", 2, 2)
    check_that_all_was_done_once(stack, sweep, trials=8)
    assert sweep["results"]["leaderboard"]
    kinds = [event["kind"] for event in stack.client.events(sweep_id)]
    assert kinds.count("sweep.verdict") == 2


def test_failed_trials_train_on_where_they_failed(stack: RunningStack, mlflow_client: MlflowClient) -> None:
    # It raises at the 40th pass of a process: those that are left after the checkpoint are fewer.
    params = {"fault": "raise", "at_step": 40, "report_every": 10, "checkpoint_every": 10}
    spec = faulty_spec("retried", params=params, budget={"trials": 3}, retries=0)
    sweep_id = stack.client.submit(spec)["id"]
    sweep = stack.client.wait(sweep_id, timeout=120)
    assert (sweep["state"], sweep["reason"]) == ("failed", "too_many_failures")
    failed = stack.client.trials(sweep_id)
    assert {(trial["state"], trial["last_step"]) for trial in failed} == {("failed", 30)}
    before = {run.data.tags["trial_id"]: run.info.run_id for run in runs_of(mlflow_client, "retried", sweep_id)[1]}

    assert stack.client.retry(sweep_id)["state"] in ("queued", "starting", "running")
    sweep = stack.client.wait(sweep_id, timeout=120)
    assert (sweep["state"], sweep["reason"]) == ("completed", "budget_trials")
    for trial in (stack.client.trial(one["id"]) for one in failed):
        assert (trial["state"], trial["last_step"]) == ("completed", 50)
        assert [attempt["state"] for attempt in trial["attempts"]] == ["failed", "finished"]
        assert trial["attempts"][1]["resumed_from"].endswith("step-00000030.pt")
    parent, children = runs_of(mlflow_client, "retried", sweep_id)
    assert {run.data.tags["trial_id"]: run.info.run_id for run in children} == before, "the same runs"
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    for run in children:
        points = mlflow_client.get_metric_history(run.info.run_id, "val/normalized_loss")
        assert sorted(point.step for point in points) == [10, 20, 30, 40, 50]
