"""Sweeps that live on when all of their stack has died, and been started anew."""

from __future__ import annotations

import signal
from pathlib import Path

import psutil
import pytest
from changed_sweeps import check_that_all_was_done_once, num_ended, spec_named
from stack_control import (
    RunningStack,
    await_that,
    end_process,
    end_stack,
    faulty_spec,
    read,
    start_command,
    start_stack,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def kill_the_supervisor(stack: RunningStack) -> None:
    """Nothing of it may live on, or the next start would find its ports and its folder in other hands."""
    family = psutil.Process(stack.process.pid).children(recursive=True)
    stack.process.kill()
    stack.process.wait(60)
    _, left = psutil.wait_procs(family, timeout=60)
    outlived = [(process, process.cmdline()) for process in left]
    for process in left:
        process.kill()
    stack.client.close()
    assert not outlived


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
        sweep = stack.client.wait(sweep_id, timeout=300)
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


@pytest.mark.long
def test_a_sweep_survives_the_death_of_ray_and_the_stacks_own_leaves_nothing(tmp_path: Path) -> None:
    """Ray is killed in mid-run, and the sweep completes; then the supervisor itself, and every process goes with it."""
    stack = start_stack(tmp_path / "stack", "--cpus", "2")
    try:
        spec = faulty_spec("ray-dies", params={"delay_ms": 60, "checkpoint_every": 5}, budget={"trials": 6})
        sweep_id = stack.client.submit(spec)["id"]
        await_that(lambda: stack.client.get(sweep_id)["progress"]["used_trials"] >= 1, what="a first trial to end")
        psutil.Process(stack.pid("gcs_server")).kill()  # the head without which no part of Ray lives on
        sweep = stack.client.wait(sweep_id, timeout=300, patience=120)
        assert (sweep["state"], sweep["generation"]) == ("completed", 2)
        trials = stack.client.trials(sweep_id)
        assert [trial["number"] for trial in trials] == list(range(6))
        assert {trial["state"] for trial in trials} == {"completed"}

        family = psutil.Process(stack.process.pid).children(recursive=True)
        stack.process.send_signal(signal.SIGKILL)
        stack.process.wait(60)
        await_that(lambda: not psutil.wait_procs(family, timeout=1)[1], within_s=60, what=f"the end of {family}")
        left = Path(read(stack.home / "ray-folder"))
        assert left.is_dir()
        again = start_command(stack.home, "up", "--port", "0", "--mlflow-port", "0")
        try:
            await_that(lambda: not left.exists(), what="the next start to remove Ray's folder")
        finally:
            end_process(again)
    finally:
        if stack.process.poll() is None:
            end_stack(stack)
        stack.client.close()
