"""Trials that are trained together, and the processes that train them."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from stack_control import PROBLEMS, RunningStack, await_that, events_of, faulty_spec, kill_conductor, run_sweep

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


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
    await_that(lambda: trainers - set(stack.pids("ray::Trainer")), within_s=10, what="the end of who had the old code")


def test_who_trains_for_a_conductor_that_has_died_ends(stack: RunningStack) -> None:
    spec = faulty_spec("orphans", budget={"trials": 1}, params={"delay_ms": 1000, "steps": 1000, "report_every": 500})
    sweep_id = stack.client.submit(spec)["id"]
    await_that(lambda: [t for t in stack.client.trials(sweep_id) if t["state"] == "running"], what="a trial that runs")
    trainers = set(stack.pids("ray::Trainer.train"))
    assert trainers
    kill_conductor(stack, sweep_id, generation=1)
    await_that(lambda: not trainers & set(stack.pids("ray::Trainer")), within_s=15, what="the end of its trainer")
    stack.client.cancel(sweep_id)
    assert stack.client.wait(sweep_id, timeout=90)["state"] == "cancelled"
