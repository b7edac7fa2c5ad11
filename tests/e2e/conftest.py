"""One whole stack for all end-to-end tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from mlflow import MlflowClient
from stack_control import RunningStack, end_stack, run_sweep, start_stack

from sweep_service.client import ApiError, SweepClient, UnreachableError

UNFINISHED = ("queued", "starting", "running", "pausing", "paused", "stopping")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = start_stack(tmp_path_factory.mktemp("stack"), "--cpus", "2", "--gpus", "2")
    try:
        yield running
    finally:
        left = end_stack(running)
    assert not left, f"processes outlived the stack: {left}"


@pytest.fixture(autouse=True)
def nothing_is_left_running(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that fails in the middle would keep the stack's CPUs from all that come after it."""
    yield
    if "stack" in request.fixturenames:
        client: SweepClient = request.getfixturevalue("stack").client
        with contextlib.suppress(UnreachableError, ApiError):  # the tests that need it will tell
            for sweep in client.list(states=UNFINISHED):
                client.cancel(sweep["id"])


@pytest.fixture(scope="module")
def mlflow_client(stack: RunningStack) -> MlflowClient:
    return MlflowClient(f"sqlite:///{stack.home / 'mlflow.db'}")


@pytest.fixture(scope="session")
def digits_sweep(stack: RunningStack) -> dict[str, Any]:
    """A small sweep with every role, over HTTP, to its end."""
    spec = {
        "name": "digits",
        "trainable": "digits",
        "params": {"steps": 100, "batch_size": 64},
        "space": {
            "alpha": {"type": "float", "low": 0.0, "high": 3.0},
            "weight_lr": {"type": "float", "low": 1e-3, "high": 1e-1, "log": True},
        },
        "budget": {"trials": 5},
        "resources": {"cpus": 1, "parallel": 2, "lanes": 4},
        "baselines": ["equal", "inverse_initial_loss", "single_task"],
        "confirm": {"seeds": 2},
    }
    return run_sweep(stack, spec)
