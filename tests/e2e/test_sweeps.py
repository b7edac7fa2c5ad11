"""Whole sweeps, from HTTP to MLflow, on real Ray."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import httpx
import pytest
from mlflow import MlflowClient
from stack_control import RunningStack, await_that, events_of, faulty_spec, kill_conductor, run_sweep, runs_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_sweep_over_http_runs_to_its_end_with_baselines_and_verdict(
    stack: RunningStack, digits_sweep: dict[str, Any]
) -> None:
    assert (digits_sweep["state"], digits_sweep["reason"]) == ("completed", "budget_trials")
    trials = stack.client.trials(digits_sweep["id"])
    assert Counter(trial["role"] for trial in trials) == {"search": 5, "baseline": 3, "confirm": 8}
    assert {trial["state"] for trial in trials} == {"completed"}
    assert [trial["number"] for trial in trials] == list(range(16))
    searched = [tuple(trial["searched"].values()) for trial in trials if trial["role"] == "search"]
    assert len(set(searched)) == 5
    best = min((t for t in trials if t["role"] == "search"), key=lambda trial: trial["objective"])
    assert digits_sweep["best_trial_id"] == best["id"]
    verdict = digits_sweep["results"]["verdict"]
    assert {row["baseline"] for row in verdict["against"]} == {"equal", "inverse_initial_loss", "single_task"}
    for row in verdict["against"]:
        assert row["num_pairs"] == 2
        assert row["outcome"] in {"helped", "hurt", "equivalent", "inconclusive"}
        assert row["interval"][0] <= row["mean_difference"] <= row["interval"][1]


def test_the_comparison_uses_fresh_seeds_the_same_for_all_and_only_it_sees_the_test_split(
    stack: RunningStack, digits_sweep: dict[str, Any]
) -> None:
    trials = stack.client.trials(digits_sweep["id"])
    confirm = [trial for trial in trials if trial["role"] == "confirm"]
    others = [trial for trial in trials if trial["role"] != "confirm"]
    seeds_by_balancer = {
        b: {t["seed"] for t in confirm if t["balancer"] == b} for b in {t["balancer"] for t in confirm}
    }
    assert len(seeds_by_balancer) == 4
    assert len({frozenset(seeds) for seeds in seeds_by_balancer.values()}) == 1
    assert not {trial["seed"] for trial in others} & {trial["seed"] for trial in confirm}
    assert all("test/normalized_loss" in trial["metrics"] for trial in confirm)
    assert not any(key.startswith("test/") for trial in others for key in trial["metrics"])


def test_mlflow_holds_a_parent_and_a_finished_child_per_trial_with_whole_curves(
    stack: RunningStack, digits_sweep: dict[str, Any], mlflow_client: MlflowClient
) -> None:
    parent, children = runs_of(mlflow_client, digits_sweep["experiment"], digits_sweep["id"])
    trials = {trial["id"]: trial for trial in stack.client.trials(digits_sweep["id"])}
    assert parent.info.status == "FINISHED"
    assert {run.info.status for run in children} == {"FINISHED"}
    assert {run.data.tags["trial_id"] for run in children} == set(trials)
    for run in children:
        for task in ("digit", "lower_half", "odd"):
            for key in ("weight", "grad_norm", "train/loss", "val/loss"):
                history = mlflow_client.get_metric_history(run.info.run_id, f"{key}/{task}")
                steps = [point.step for point in history]
                assert len(steps) >= 15
                assert len(steps) == len(set(steps))
                assert max(steps) == 100
                assert all(math.isfinite(point.value) for point in history)
        assert run.info.run_id == trials[run.data.tags["trial_id"]]["tracking_ref"]
    names = {file.path for file in mlflow_client.list_artifacts(parent.info.run_id)}
    assert {"leaderboard.csv", "model", "plots", "report.html"} <= names


def test_the_best_model_loads_and_predicts(
    stack: RunningStack, digits_sweep: dict[str, Any], mlflow_client: MlflowClient
) -> None:
    import mlflow.pytorch
    import torch

    parent, _ = runs_of(mlflow_client, digits_sweep["experiment"], digits_sweep["id"])
    root = parent.info.artifact_uri
    model = mlflow.pytorch.load_model(f"{root}/model")
    outputs = model(torch.rand(3, 32))
    assert {name: tuple(output.shape)[:1] for name, output in outputs.items()} == {
        "digit": (3,),
        "lower_half": (3,),
        "odd": (3,),
    }


def test_mlflows_page_answers_with_the_experiment(stack: RunningStack, digits_sweep: dict[str, Any]) -> None:
    url = f"{stack.mlflow_url}/api/2.0/mlflow/experiments/get-by-name"
    answer = httpx.get(url, params={"experiment_name": digits_sweep["experiment"]}, timeout=60)
    assert answer.status_code == 200


def test_a_sweep_of_two_objectives_ends_with_its_front_and_the_gpu_hours_that_it_took(
    stack: RunningStack, mlflow_client: MlflowClient
) -> None:
    objectives = [{"metric": "val/loss/lower_half"}, {"metric": "val/accuracy/digit", "direction": "maximize"}]
    spec = {
        "name": "two-objectives",
        "trainable": "digits",
        "params": {"steps": 60, "batch_size": 64},
        "space": {
            "alpha": {"type": "float", "low": 0.0, "high": 3.0},
            "lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        },
        "objectives": objectives,
        "search": {"sampler": "nsga2"},
        "budget": {"trials": 8, "gpu_hours": 10},
        "resources": {"cpus": 1, "gpus": 0.5, "parallel": 2},
        "baselines": ["equal"],
    }
    sweep = run_sweep(stack, spec)
    assert (sweep["state"], sweep["reason"]) == ("completed", "budget_trials")
    trials = [trial for trial in stack.client.trials(sweep["id"]) if trial["role"] == "search"]
    points = {t["number"]: (t["metrics"]["val/loss/lower_half"], -t["metrics"]["val/accuracy/digit"]) for t in trials}
    undominated = {
        number
        for number, (loss, cost) in points.items()
        if not any(a <= loss and b <= cost and (a, b) != (loss, cost) for a, b in points.values())
    }
    found = stack.client.best(sweep["id"])
    assert {trial["number"] for trial in found["front"]} == undominated
    assert found["best"]["objective"] == min(trial["objective"] for trial in trials)
    for trial in found["front"]:
        assert trial["values"] == {one["metric"]: trial["metrics"][one["metric"]] for one in objectives}
    assert [row["trial_id"] for row in sweep["results"]["front"]] == [trial["id"] for trial in found["front"]]
    assert 0 < sweep["progress"]["used_gpu_hours"] < 0.5 * 16 / 60, "half a GPU, for less than a minute a trial"
    parent, _ = runs_of(mlflow_client, sweep["experiment"], sweep["id"])
    assert "front.csv" in {file.path for file in mlflow_client.list_artifacts(parent.info.run_id)}


def test_a_nan_trial_is_infeasible_and_a_crashing_one_failed_and_the_sweep_goes_on(
    stack: RunningStack, mlflow_client: MlflowClient
) -> None:
    fault = {"type": "categorical", "choices": ["none", "nan", "raise"]}
    spec = faulty_spec("faults", space={"fault": fault}, budget={"trials": 12}, search={"sampler": "tpe", "seed": 3})
    sweep = run_sweep(stack, spec)
    assert sweep["state"] == "completed"
    trials = stack.client.trials(sweep["id"])
    assert len(trials) == 12
    expected = {"none": ("completed", "completed"), "nan": ("infeasible", "non_finite"), "raise": ("failed", "error")}
    seen = {trial["params"]["fault"] for trial in trials}
    assert seen == set(expected), "choose another seed: this one does not draw every fault"
    for trial in trials:
        assert (trial["state"], trial["ending"]) == expected[trial["params"]["fault"]]
        assert (trial["objective"] is not None) == (trial["state"] == "completed")
        if trial["params"]["fault"] == "raise":
            assert "ValueError: the trunk was told to raise" in trial["message"]
            assert "faulty_problems.py" in trial["traceback"]
            assert trial["num_attempts"] == 1, "an error of the user's code is not tried again"
            check_logs_of_failure(list(stack.client.trial_logs(trial["id"])), trial)
        if trial["params"]["fault"] == "nan":
            assert "near" in trial["message"] or "far" in trial["message"]
    _, children = runs_of(mlflow_client, "faults", sweep["id"])
    statuses = {run.data.tags["trial_id"]: run.info.status for run in children}
    by_state = {"completed": "FINISHED", "infeasible": "FAILED", "failed": "FAILED"}
    assert statuses == {trial["id"]: by_state[trial["state"]] for trial in trials}


def check_logs_of_failure(lines: list[dict[str, Any]], trial: dict[str, Any]) -> None:
    """Prints, logging, warnings and the traceback of a trial that raised."""
    assert [line["seq"] for line in lines] == sorted({line["seq"] for line in lines})
    assert {(line["trial_id"], line["attempt"], line["left_out"]) for line in lines} == {(trial["id"], 0, 0)}
    said = [(line["stream"], line["level"], line["text"]) for line in lines]
    assert ("stdout", "", "what will go wrong: raise") in said
    assert ("log", "INFO", "faulty: 400 rows") in said
    assert any(text.startswith("trainables.engine.eager: gradnorm on cpu") for _, _, text in said)
    failure = "\n".join(text for stream, level, text in said if (stream, level) == ("log", "ERROR"))
    assert failure == trial["traceback"].rstrip()


def test_a_sweep_of_which_nothing_completes_fails_early_and_says_why(stack: RunningStack) -> None:
    sweep = run_sweep(stack, faulty_spec("hopeless", params={"fault": "raise"}, budget={"trials": 50}))
    assert (sweep["state"], sweep["reason"]) == ("failed", "too_many_failures")
    assert "the trunk was told to raise" in sweep["message"]
    assert len(stack.client.trials(sweep["id"])) <= 8


@pytest.mark.long
def test_a_trial_whose_worker_is_killed_goes_on_from_its_checkpoint_in_another_attempt(stack: RunningStack) -> None:
    # Killed in the thirtieth pass of each process: the second starts at step 25 and has only 25 to go.
    params = {"fault": "kill", "at_step": 30, "report_every": 5, "checkpoint_every": 5}
    sweep = run_sweep(stack, faulty_spec("killed-once", params=params, budget={"trials": 2}))
    assert sweep["state"] == "completed"
    trials = stack.client.trials(sweep["id"])
    assert [(trial["state"], trial["num_attempts"]) for trial in trials] == [("completed", 2)] * 2
    said = [(line["attempt"], line["text"]) for line in stack.client.trial_logs(trials[0]["id"])]
    assert (1, "what will go wrong: kill") in said
    assert any(attempt == 1 and "step 25 to 50 (resumed)" in text for attempt, text in said)


def test_a_trial_that_kills_its_worker_every_time_fails_after_its_retries(stack: RunningStack) -> None:
    params = {"fault": "kill", "at_step": 5}
    sweep = run_sweep(stack, faulty_spec("killer", params=params, budget={"trials": 2}, retries=1))
    assert (sweep["state"], sweep["reason"]) == ("failed", "too_many_failures")
    trials = stack.client.trials(sweep["id"])
    assert [(trial["ending"], trial["num_attempts"]) for trial in trials] == [("worker_lost", 2)] * 2


def test_stop_lets_running_trials_finish_and_starts_no_new_ones(
    stack: RunningStack, mlflow_client: MlflowClient
) -> None:
    spec = faulty_spec("stopped", params={"delay_ms": 40, "steps": 60}, budget={"trials": 50}, baselines=["equal"])
    sweep_id = stack.client.submit({**spec, "confirm": {"seeds": 2}})["id"]
    await_that(lambda: used(stack, sweep_id) >= 1, what="a first trial to end")
    assert stack.client.stop(sweep_id)["state"] == "stopping"
    assert stack.client.stop(sweep_id)["state"] in {"stopping", "stopped"}
    sweep = stack.client.wait(sweep_id, timeout=300)
    assert (sweep["state"], sweep["reason"]) == ("stopped", "user")
    trials = stack.client.trials(sweep_id)
    assert {trial["state"] for trial in trials if trial["num_attempts"]} == {"completed"}
    assert {trial["role"] for trial in trials} <= {"search", "baseline"}
    assert len(trials) < 25, "most of the fifty have not begun, however late the stop has come through"
    _, children = runs_of(mlflow_client, "stopped", sweep_id)
    assert {run.info.status for run in children} == {"FINISHED"}


def test_cancel_kills_what_runs_within_seconds(stack: RunningStack, mlflow_client: MlflowClient) -> None:
    # A step of two minutes: only killing its worker ends it in time, that of a busy machine too.
    spec = faulty_spec("cancelled", params={"delay_ms": 120_000, "steps": 1000}, budget={"trials": 8})
    sweep_id = stack.client.submit(spec)["id"]
    await_that(lambda: running(stack, sweep_id) == 2, what="two running trials")
    await_that(lambda: list(stack.client.sweep_logs(sweep_id)), within_s=90, what="lines of trials that hang")
    assert stack.client.cancel(sweep_id)["state"] == "cancelling"
    sweep = stack.client.wait(sweep_id, timeout=60)
    assert (sweep["state"], sweep["reason"]) == ("cancelled", "user")
    trials = stack.client.trials(sweep_id)
    assert {trial["state"] for trial in trials} == {"cancelled"}
    parent, children = runs_of(mlflow_client, "cancelled", sweep_id)
    assert {run.info.status for run in (parent, *children)} == {"KILLED"}


def test_a_sweep_that_no_node_can_ever_hold_says_so_and_holds_up_nobody(stack: RunningStack) -> None:
    greedy = stack.client.submit(faulty_spec("greedy", priority=9, resources={"cpus": 1, "gpus": 8, "parallel": 1}))
    behind = stack.client.submit(faulty_spec("behind it", budget={"trials": 1}))["id"]
    await_that(lambda: stack.client.get(greedy["id"])["reason"], within_s=120, what="it to say why it waits")
    sweep = stack.client.get(greedy["id"])
    assert (sweep["state"], sweep["reason"], sweep["position"]) == ("queued", "unschedulable", None)
    assert "8 GPUs" in sweep["message"]
    assert "2 GPUs" in sweep["message"]
    assert [event["message"] for event in events_of(stack, sweep["id"], "sweep.notice")] == [sweep["message"]]
    assert stack.client.wait(behind, timeout=300)["state"] == "completed"
    assert stack.client.cancel(sweep["id"])["state"] == "cancelled"


@pytest.mark.parametrize(
    ("verb", "state"), [("stop", "stopped"), pytest.param("cancel", "cancelled", marks=pytest.mark.long)]
)
def test_a_sweep_whose_trials_wait_for_a_place_can_be_ended(stack: RunningStack, verb: str, state: str) -> None:
    slow = {"delay_ms": 500, "steps": 1000}
    holder = stack.client.submit(faulty_spec("holder", params=slow))["id"]
    await_that(lambda: running(stack, holder) == 2, what="a sweep that holds both CPUs")
    waiter = stack.client.submit(faulty_spec("waiter"))["id"]
    await_that(lambda: stack.client.trials(waiter), what="a trial that waits for a CPU")
    getattr(stack.client, verb)(waiter)
    assert stack.client.wait(waiter, timeout=120)["state"] == state
    assert {trial["state"] for trial in stack.client.trials(waiter)} == {"cancelled"}
    assert running(stack, holder) == 2
    stack.client.cancel(holder)
    assert stack.client.wait(holder, timeout=120)["state"] == "cancelled"


def test_a_conductor_that_cannot_start_fails_its_sweep_and_says_why(stack: RunningStack) -> None:
    log = stack.home / "logs" / "conductors.log"
    log.touch()
    aside = log.rename(log.with_suffix(".aside"))
    log.mkdir()  # where it must write a file
    try:
        sweep = run_sweep(stack, faulty_spec("no-conductor"))
    finally:
        log.rmdir()
        aside.rename(log)
    assert (sweep["state"], sweep["reason"], sweep["generation"]) == ("failed", "error", 3)
    assert "IsADirectoryError" in sweep["message"]
    # One waits for the next sweep.
    await_that(
        lambda: len(stack.pids("ConductorActor")) <= 1,
        within_s=90,
        what="the end of the processes that were to run it",
    )
    assert "IsADirectoryError" in stack.log("dispatcher")


def gpus_seen(stack: RunningStack, sweep_id: str) -> list[str]:
    """What each trial has found in CUDA_VISIBLE_DEVICES."""
    said = "GPUs that can be seen: "
    lines = [line["text"] for trial in stack.client.trials(sweep_id) for line in stack.client.trial_logs(trial["id"])]
    return sorted(line.removeprefix(said) for line in lines if line.startswith(said))


def test_half_a_gpu_puts_two_trials_on_one_which_is_all_that_they_see(stack: RunningStack) -> None:
    # Slow enough that the first still trains when the process of the fourth has come up, on a slow machine too.
    resources = {"cpus": 0.5, "gpus": 0.5, "parallel": 4, "lanes": 1}
    spec = faulty_spec("half-gpus", resources=resources, params={"delay_ms": 200, "steps": 1000, "report_every": 5})
    sweep_id = stack.client.submit(spec)["id"]
    await_that(lambda: running(stack, sweep_id) == 4, what="four trials at once on two logical GPUs")
    await_that(lambda: all(t["last_step"] for t in stack.client.trials(sweep_id)), what="reports of all four")
    await_that(lambda: gpus_seen(stack, sweep_id) == ["0", "0", "1", "1"], what="what all four have printed")
    stack.client.cancel(sweep_id)
    assert stack.client.wait(sweep_id, timeout=120)["state"] == "cancelled"


def test_a_trial_without_a_gpu_sees_none(stack: RunningStack) -> None:
    sweep = run_sweep(stack, faulty_spec("no-gpu", budget={"trials": 1}, params={"steps": 10}))
    assert gpus_seen(stack, sweep["id"]) == [""]


@pytest.mark.long
def test_a_conductor_that_is_killed_is_replaced_and_no_trial_is_lost_or_repeated(
    stack: RunningStack, mlflow_client: MlflowClient
) -> None:
    spec = faulty_spec(
        "survivor", params={"delay_ms": 60, "checkpoint_every": 5, "report_every": 2}, budget={"trials": 8}
    )
    sweep_id = stack.client.submit(spec)["id"]
    await_that(lambda: used(stack, sweep_id) >= 2, what="two ended trials")
    kill_conductor(stack, sweep_id, generation=1)
    sweep = stack.client.wait(sweep_id, timeout=300)
    assert (sweep["state"], sweep["generation"]) == ("completed", 2)
    trials = stack.client.trials(sweep_id)
    assert [trial["number"] for trial in trials] == list(range(8))
    assert {trial["state"] for trial in trials} == {"completed"}
    assert len({trial["searched"]["alpha"] for trial in trials}) == 8
    parent, children = runs_of(mlflow_client, "survivor", sweep_id)
    assert len(children) == 8
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    for run in children:
        steps = [point.step for point in mlflow_client.get_metric_history(run.info.run_id, "val/normalized_loss")]
        assert sorted(steps) == sorted(set(steps))
        assert len(steps) == 25


def test_no_run_is_left_running_and_no_log_holds_a_surprise(stack: RunningStack, mlflow_client: MlflowClient) -> None:
    experiments = [experiment.experiment_id for experiment in mlflow_client.search_experiments()]
    unfinished = mlflow_client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=100)
    assert unfinished == []
    for name in ("api", "dispatcher", "conductors"):
        assert "Traceback" not in stack.log(name), f"{name}.log: {stack.log(name)[-3000:]}"


def used(stack: RunningStack, sweep_id: str) -> int:
    return stack.client.get(sweep_id)["progress"]["used_trials"]


def running(stack: RunningStack, sweep_id: str) -> int:
    by_role = stack.client.get(sweep_id)["progress"]["trials"]
    return sum(states.get("running", 0) for states in by_role.values())


def test_a_sweep_over_balancers_ranks_them_by_fresh_seeds(stack: RunningStack, mlflow_client: MlflowClient) -> None:
    spec = {
        "name": "which-balancer",
        "trainable": "digits",
        "params": {"steps": 40, "batch_size": 64},
        "space": {
            "balancer": {"type": "categorical", "choices": ["gradnorm", "static", "equal"]},
            "alpha": {"type": "float", "low": 0.0, "high": 3.0},
            "weight/lower_half": {"type": "float", "low": 0.1, "high": 10.0, "log": True},
        },
        "budget": {"trials": 5},
        "resources": {"cpus": 1, "parallel": 2},
        "confirm": {"seeds": 2},
    }
    sweep = run_sweep(stack, spec)
    assert (sweep["state"], sweep["reason"]) == ("completed", "budget_trials")
    trials = stack.client.trials(sweep["id"])
    assert Counter((trial["role"], trial["balancer"]) for trial in trials) == {
        ("search", "gradnorm"): 2,
        ("search", "static"): 2,
        ("search", "equal"): 1,
        **{("confirm", name): 2 for name in ("gradnorm", "static", "equal")},
    }
    searched = {trial["balancer"]: set(trial["searched"]) for trial in trials if trial["role"] == "search"}
    assert searched == {"gradnorm": {"alpha"}, "static": {"weight/lower_half"}, "equal": set()}
    methods = sweep["results"]["methods"]
    assert [row["rank"] for row in methods] == [1, 2, 3]
    means = [row["confirmed"]["mean"] for row in methods]
    assert means == sorted(means)
    assert stack.client.best(sweep["id"])["methods"] is not None
    best = next(trial["balancer"] for trial in trials if trial["id"] == sweep["best_trial_id"])
    against = {row["baseline"]: row["role"] for row in sweep["results"]["verdict"]["against"]}
    assert against == {name: "search" for name in ("gradnorm", "static", "equal") if name != best}
    parent, children = runs_of(mlflow_client, sweep["experiment"], sweep["id"])
    assert "methods.csv" in {file.path for file in mlflow_client.list_artifacts(parent.info.run_id)}
    weights = [run.data.params.get("weight/lower_half") for run in children]
    assert sum(weight is not None for weight in weights) == 4
