"""Every sampler and every pruner: a sweep whose conductor is killed after half of its trials comes out as one that went
on, to the last digit. One of them always; the others, which take minutes, where there is time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from calm_sweep import calm_trials
from stack_control import RunningStack, kill_conductor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TRIALS = 6
WITHIN_SECONDS = 480
REALS: dict[str, Any] = {
    "alpha": {"type": "float", "low": 0.0, "high": 3.0},
    "weight_lr": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
}
GRID: dict[str, Any] = {
    "alpha": {"type": "float", "low": 0.0, "high": 1.0, "step": 0.5},
    "batch_size": {"type": "categorical", "choices": [32, 64]},
}
# Where lr decides, early values rank trials as the late ones do.
RATES: dict[str, Any] = {"lr": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}}

# Each sampler and each pruner once: most of the time is the starting of processes.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
    "tpe-median": ("tpe", RATES, {"pruner": "median", "min_steps": 8, "startup_trials": 2}),
    "random-asha": ("random", RATES, {"pruner": "asha", "min_steps": 8, "reduction_factor": 2}),
    "cmaes": ("cmaes", REALS, None),
    "qmc-hyperband": ("qmc", RATES, {"pruner": "hyperband", "min_steps": 8, "reduction_factor": 2}),
    "gp": ("gp", REALS, None),
    "nsga2": ("nsga2", REALS, None),
    "grid": ("grid", GRID, None),
}
ALWAYS, WHERE_THERE_IS_TIME = tuple(CASES)[:1], tuple(CASES)[1:]
CHOSEN = [*ALWAYS, *(pytest.param(case, marks=pytest.mark.long) for case in WHERE_THERE_IS_TIME)]


def spec_of(case: str) -> dict[str, Any]:
    """One after another (parallel: 1), and small enough that half of them have ended long before the other half."""
    sampler, space, early_stopping = CASES[case]
    return {
        "name": case,
        "trainable": "digits",
        "params": {"steps": 40, "hidden": [16], "report_every": 4, "checkpoint_every": 8},
        "budget": {"trials": TRIALS},
        # One by one: what is asked of a sampler, and how numbers are rounded, then follows from the spec alone.
        "resources": {"cpus": 0.5, "parallel": 1, "lanes": 1},
        "search": {"sampler": sampler, "seed": 5},
        "space": space,
        "early_stopping": early_stopping,
        "tracking": {"experiment": "kills"},
    }


@pytest.fixture(scope="module")
def killed_always(stack: RunningStack) -> dict[str, str]:
    return kill_half_way(stack, ALWAYS)


@pytest.fixture(scope="module")
def killed_where_there_is_time(stack: RunningStack) -> dict[str, str]:
    return kill_half_way(stack, WHERE_THERE_IS_TIME)


@pytest.fixture
def killed(case: str, request: pytest.FixtureRequest) -> str:
    """The id of the case's sweep."""
    return request.getfixturevalue("killed_always" if case in ALWAYS else "killed_where_there_is_time")[case]


def kill_half_way(stack: RunningStack, cases: Sequence[str]) -> dict[str, str]:
    """By case, the id of a sweep whose conductor was killed after half of its trials, and which has ended since."""
    found = {case: stack.client.submit(spec_of(case))["id"] for case in cases}
    to_kill, running = set(found.values()), set(found.values())
    deadline = time.monotonic() + WITHIN_SECONDS
    while running and time.monotonic() < deadline:
        for sweep_id in sorted(running):
            sweep = stack.client.get(sweep_id)
            if sweep_id in to_kill and sweep["progress"]["used_trials"] >= TRIALS // 2:
                kill_conductor(stack, sweep_id, sweep["generation"])
                to_kill.discard(sweep_id)
            if sweep["state"] in ("completed", "failed"):
                running.discard(sweep_id)
        time.sleep(0.25)  # a third of a trial: asked without a pause, the API would take the trials' processor
    assert not running, f"{len(running)} sweeps have not ended within {WITHIN_SECONDS} s"
    return found


@pytest.mark.parametrize("case", CHOSEN)
def test_a_killed_sweep_comes_out_as_one_that_went_on(
    stack: RunningStack, killed: str, case: str, tmp_path: Path
) -> None:
    sweep = stack.client.get(killed)
    assert sweep["state"] == "completed"
    assert sweep["generation"] >= 2
    trials = stack.client.trials(sweep["id"])
    assert [trial["number"] for trial in trials] == list(range(TRIALS))
    assert len({tuple(sorted(trial["searched"].items())) for trial in trials}) == TRIALS, "a point was drawn twice"
    states = {trial["state"] for trial in trials}
    assert states == ({"completed", "early_stopped"} if CASES[case][2] else {"completed"})
    calm = calm_trials(spec_of(case), tmp_path)
    for fact in ("role", "balancer", "searched", "seed", "state", "ending", "objective", "last_step", "metrics"):
        assert [trial[fact] for trial in trials] == [getattr(trial, fact) for trial in calm], fact
