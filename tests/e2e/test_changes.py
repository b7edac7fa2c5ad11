"""Sweeps that are changed over REST, with real workers: while they run, and after their end."""

from __future__ import annotations

import pytest
from changed_sweeps import check_that_all_was_done_once, spec_named
from mlflow import MlflowClient
from stack_control import RunningStack, await_that, faulty_spec, runs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_running_sweep_takes_a_change_at_once_and_one_that_has_ended_goes_on(stack: RunningStack) -> None:
    sweep_id = stack.client.submit(spec_named("changed", budget={"trials": 4}))["id"]
    await_that(lambda: stack.client.get(sweep_id)["state"] == "running", what="the start")
    stack.client.amend(sweep_id, {"budget": {"trials": 6}, "resources": {"parallel": 2}})
    sweep = stack.client.wait(sweep_id, timeout=300)
    assert (sweep["state"], sweep["generation"], sweep["revision"]) == ("completed", 1, 1)
    check_that_all_was_done_once(stack, sweep, trials=6)

    stack.client.amend(sweep_id, {"budget": {"trials": 8}})
    sweep = stack.client.wait(sweep_id, timeout=300)
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
    sweep = stack.client.wait(sweep_id, timeout=300)
    assert (sweep["state"], sweep["reason"]) == ("failed", "too_many_failures")
    failed = stack.client.trials(sweep_id)
    assert {(trial["state"], trial["last_step"]) for trial in failed} == {("failed", 30)}
    before = {run.data.tags["trial_id"]: run.info.run_id for run in runs_of(mlflow_client, "retried", sweep_id)[1]}

    assert stack.client.retry(sweep_id)["state"] in ("queued", "starting", "running")
    sweep = stack.client.wait(sweep_id, timeout=300)
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
