"""Trials that are trained together, and the processes that train them."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from mlflow import MlflowClient
from stack_control import (
    PROBLEMS,
    RunningStack,
    await_that,
    conductor_pid,
    events_of,
    faulty_spec,
    kill_conductor,
    run_sweep,
    runs_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_trials_of_one_structure_are_trained_together_and_a_network_a_task_by_itself(
    stack: RunningStack, digits_sweep: dict[str, Any]
) -> None:
    trials = [stack.client.trial(trial["id"]) for trial in stack.client.trials(digits_sweep["id"])]
    assert {len(trial["attempts"]) for trial in trials} == {1}
    packs: dict[str, set[str]] = {}
    for trial in trials:
        packs.setdefault(trial["attempts"][0]["pack"], set()).add(trial["balancer"])
    sizes = Counter(trial["attempts"][0]["pack"] for trial in trials)
    assert max(sizes.values()) >= 3
    assert {"single_task" in balancers for balancers in packs.values() if len(balancers) > 1} == {False}
    assert "Up to 4 trials are trained together in a pack." in [
        event["message"] for event in events_of(stack, digits_sweep["id"], "sweep.notice")
    ]


def test_a_network_with_running_statistics_is_trained_one_by_one_and_everybody_is_told_why(
    stack: RunningStack,
) -> None:
    spec = faulty_spec("statistics", trainable="normalised", params={"steps": 20}, budget={"trials": 3})
    why = "a step changes trunk.1.num_batches_tracked, as BatchNorm does with its running statistics"
    # The dispatcher has found out with the default parameters.
    fusion = await_that(lambda: told(stack.client.preview(spec)["fusion"]), what="what is found out of the problem")
    assert fusion == {"fused": False, "lanes": "auto", "reason": f"With its default parameters: {why}."}
    sweep = run_sweep(stack, spec)
    assert sweep["state"] == "completed"
    notices = [event["message"] for event in events_of(stack, sweep["id"], "sweep.notice") if not event["trial_id"]]
    assert notices == [f"Trials are trained one by one, because {why}."]
    trials = [stack.client.trial(trial["id"]) for trial in stack.client.trials(sweep["id"])]
    assert len({trial["attempts"][0]["pack"] for trial in trials}) == 3


def told(fusion: dict[str, Any]) -> dict[str, Any] | None:
    return None if fusion["fused"] else fusion


def alone(name: str) -> dict[str, Any]:
    return faulty_spec(name, budget={"trials": 1}, params={"steps": 10}, resources={"parallel": 1})


def test_a_trainer_outlives_its_sweep_and_ends_when_code_that_it_has_loaded_changes(stack: RunningStack) -> None:
    assert run_sweep(stack, alone("loads"))["state"] == "completed"
    trainers = set(stack.pids("ray::Trainer"))
    assert run_sweep(stack, alone("trains in the same process"))["state"] == "completed"
    assert trainers <= set(stack.pids("ray::Trainer"))
    os.utime(PROBLEMS / "faulty_problems.py")
    assert run_sweep(stack, alone("trains in another"))["state"] == "completed"
    await_that(lambda: trainers - set(stack.pids("ray::Trainer")), within_s=60, what="the end of who had the old code")


def test_what_trains_gives_way_to_conductors(stack: RunningStack) -> None:
    spec = faulty_spec("niceness", budget={"trials": 1}, params={"delay_ms": 200, "steps": 1000, "report_every": 500})
    sweep_id = stack.client.submit(spec)["id"]
    await_that(lambda: [t for t in stack.client.trials(sweep_id) if t["state"] == "running"], what="a trial that runs")
    (trainer,) = stack.pids("ray::Trainer.train")
    threads = [int(folder.name) for folder in Path(f"/proc/{trainer}/task").iterdir()]
    assert max(os.getpriority(os.PRIO_PROCESS, thread) for thread in threads) == 15
    assert psutil.Process(conductor_pid(stack, sweep_id, generation=1)).nice() == 0
    stack.client.cancel(sweep_id)
    assert stack.client.wait(sweep_id, timeout=120)["state"] == "cancelled"


def test_packs_that_have_gpus_and_find_no_cuda_tell_of_it_once(stack: RunningStack) -> None:
    sweep = run_sweep(stack, {**alone("no cuda"), "budget": {"trials": 2}, "resources": {"gpus": 1, "parallel": 2}})
    assert sweep["state"] == "completed"
    notices = [event["message"] for event in events_of(stack, sweep["id"], "sweep.notice") if not event["trial_id"]]
    told = [message for message in notices if "torch finds no CUDA" in message]
    assert len(told) == (0 if torch.cuda.is_available() else 1)


@pytest.mark.long
def test_who_trains_for_a_conductor_that_has_died_ends(stack: RunningStack) -> None:
    spec = faulty_spec("orphans", budget={"trials": 1}, params={"delay_ms": 1000, "steps": 1000, "report_every": 500})
    sweep_id = stack.client.submit(spec)["id"]
    await_that(lambda: [t for t in stack.client.trials(sweep_id) if t["state"] == "running"], what="a trial that runs")
    trainers = set(stack.pids("ray::Trainer.train"))
    assert trainers
    kill_conductor(stack, sweep_id, generation=1)
    await_that(lambda: not trainers & set(stack.pids("ray::Trainer")), within_s=60, what="the end of its trainer")
    stack.client.cancel(sweep_id)
    assert stack.client.wait(sweep_id, timeout=180)["state"] == "cancelled"


@pytest.mark.long
def test_a_trainer_whose_pack_loses_its_place_ends_and_does_not_train_beside_its_successor(
    stack: RunningStack,
) -> None:
    params = {"delay_ms": 1000, "steps": 1000, "report_every": 500}
    sweep_id = stack.client.submit({**alone("loses its place"), "params": params})["id"]
    await_that(lambda: [t for t in stack.client.trials(sweep_id) if t["state"] == "running"], what="a trial that runs")
    (trainer,) = stack.pids("ray::Trainer.train")
    (place,) = stack.pids("ray::ImplicitFunc.train")
    os.kill(place, signal.SIGKILL)
    await_that(lambda: trainer not in stack.pids("ray::Trainer"), within_s=120, what="the end of the trainer")
    await_that(lambda: stack.pids("ray::Trainer.train"), within_s=120, what="another one")
    stack.client.cancel(sweep_id)
    assert stack.client.wait(sweep_id, timeout=120)["state"] == "cancelled"


@pytest.mark.long
def test_packs_that_lose_their_trainer_and_then_their_conductor_go_on_from_their_checkpoints(
    stack: RunningStack, mlflow_client: MlflowClient
) -> None:
    spec = {
        "name": "packs that die",
        "trainable": "digits",
        "params": {"steps": 3000, "report_every": 250, "checkpoint_every": 250},
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
        "search": {"sampler": "random", "seed": 3},
        "budget": {"trials": 8},
        "resources": {"cpus": 1, "parallel": 2, "lanes": 4},
        "tracking": {"experiment": "packs that die"},
    }
    sweep_id = stack.client.submit(spec)["id"]

    def trials() -> list[dict[str, Any]]:
        return [stack.client.trial(trial["id"]) for trial in stack.client.trials(sweep_id)]

    def again() -> list[dict[str, Any]]:
        """Trials of a second attempt that has reported."""
        return [trial for trial in trials() if len(trial["attempts"]) == 2 and trial["last_step"] >= 1000]

    await_that(lambda: sum((trial["last_step"] or 0) >= 500 for trial in trials()) == 8, what="two packs that train")
    os.kill(stack.pids("ray::Trainer.train")[0], signal.SIGKILL)
    await_that(again, what="a report of a new attempt")
    kill_conductor(stack, sweep_id, generation=1)
    sweep = stack.client.wait(sweep_id, timeout=300)
    assert (sweep["state"], sweep["generation"]) == ("completed", 2)
    ended = trials()
    assert [(trial["number"], trial["state"]) for trial in ended] == [(number, "completed") for number in range(8)]
    for trial in ended:
        states = [attempt["state"] for attempt in trial["attempts"]]
        assert states == ["lost"] * (len(states) - 1) + ["finished"]
        assert all(attempt["resumed_from"] for attempt in trial["attempts"][1:])
    lost_twice = [trial for trial in ended if len(trial["attempts"]) == 3]
    # Nobody knows whose fault a death in company was: they went on in company half as large.
    assert lost_twice
    assert max(Counter(trial["attempts"][1]["pack"] for trial in lost_twice).values()) <= 2
    for run in runs_of(mlflow_client, "packs that die", sweep_id)[1]:
        points = mlflow_client.get_metric_history(run.info.run_id, "val/normalized_loss")
        assert sorted(point.step for point in points) == list(range(250, 3001, 250))
