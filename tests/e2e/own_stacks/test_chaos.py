"""Whatever dies under a sweep, and whenever: it completes, and nothing is lost, repeated or left running.

One short round always; the others, with more and rarer trouble, where there is time. Each prints what it has survived.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from calm_sweep import calm_trials
from chaos import Scene, drawn, patiently, small_disk, unleash
from chaos_laws import check_laws
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from postgres_server import DURABLE
from stack_control import await_that, end_stack, runs_of, start_stack

from benchmarks.postgres_server import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

TRIALS, STEPS, EVERY = 24, 400, 50
KILLED = {"worker": 2, "place": 1, "conductor": 1, "dispatcher": 1, "api": 1, "mlflow": 1}


def spec_named(name: str, **changes: Any) -> dict[str, Any]:
    """Two packs of four at once, as somebody has them who knows that machines fail."""
    spec: dict[str, Any] = {
        "name": name,
        "trainable": "digits",
        "params": {"steps": STEPS, "hidden": [32], "report_every": EVERY, "checkpoint_every": EVERY},
        "space": {
            "alpha": {"type": "float", "low": 0.0, "high": 3.0},
            "weight_lr": {"type": "float", "low": 1e-3, "high": 1.0, "log": True},
        },
        "search": {"sampler": "random", "seed": 7},
        "budget": {"trials": TRIALS},
        "resources": {"cpus": 1, "parallel": 2, "lanes": 4},
        "tracking": {"experiment": "chaos"},
        "retries": 20,
    }
    return {**spec, **changes}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """SQLite, and a server of MLflow's."""
    with ExitStack() as left:
        yield staged(tmp_path_factory.mktemp("plain"), left)


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """PostgreSQL, and a disk of its own for the checkpoints, where this user may mount one."""
    folder = tmp_path_factory.mktemp("rich")
    with ExitStack() as left:
        data = Path(tempfile.mkdtemp(prefix="sweep-postgres-"))  # pytest's own folders are closed to its user
        left.callback(shutil.rmtree, data, ignore_errors=True)
        postgres = PostgresServer(data, DURABLE)
        postgres.start()
        left.callback(postgres.stop)
        disk = left.enter_context(small_disk(folder / "disk", megabytes=64))
        settings = {
            "SWEEP_DATABASE_URL": postgres.url.render_as_string(hide_password=False),
            "SWEEP_CHECKPOINTS": str(folder / "disk" / "checkpoints"),
        }
        scene = staged(folder, left, settings)
        yield Scene(stack=scene.stack, mlflow=scene.mlflow, postgres=postgres, disk=disk)


def staged(folder: Path, left: ExitStack, settings: Mapping[str, str] | None = None) -> Scene:
    mlflow = MlflowServer(folder / "mlflow")
    mlflow.start()
    left.callback(mlflow.kill)
    stack = start_stack(
        folder / "stack", "--cpus", "2", settings={"SWEEP_MLFLOW_TRACKING_URI": mlflow.url, **(settings or {})}
    )
    left.callback(end_stack, stack)
    mlflow.await_answer()
    return Scene(stack=stack, mlflow=mlflow)


def survive(
    scene: Scene,
    spec: dict[str, Any],
    kinds: Mapping[str, int],
    folder: Path,
    *,
    seed: int,
    others: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, Any]:
    """Run the sweep while so much of each kind of trouble comes; the sweep, of which every law holds. ``others``: its
    trials beside the search's, by role.
    """
    rng = random.Random(seed)
    strikes = drawn(kinds, rng)
    sweep_id = patiently(lambda: scene.stack.client.submit(spec))["id"]
    hits = unleash(scene, sweep_id, strikes, rng, steps=TRIALS * STEPS)
    sweep = scene.stack.client.wait(sweep_id, timeout=300, patience=180)
    survived = ", ".join(f"{kind} {times}" for kind, times in sorted(hits.items()))
    sys.stdout.write(f"\n{spec['name']}, seed {seed}: generation {sweep['generation']}; survived: {survived}\n")
    assert hits == Counter(kinds)
    check_laws(scene, sweep, roles={"search": TRIALS, **others}, steps=range(EVERY, STEPS + 1, EVERY), folder=folder)
    return sweep


def test_a_sweep_survives_whatever_dies(plain: Scene, tmp_path: Path) -> None:
    sweep = survive(plain, spec_named("a short round"), KILLED, tmp_path, seed=1)
    trials = [plain.stack.client.trial(trial["id"]) for trial in plain.stack.client.trials(sweep["id"])]
    again = [attempt for trial in trials for attempt in trial["attempts"][1:]]
    assert any(attempt["resumed_from"] for attempt in again), "they go on from their checkpoints"


@pytest.mark.long
def test_a_sweep_that_is_cancelled_while_mlflow_is_away_is_closed_there_once_it_is_back(plain: Scene) -> None:
    client, tracked = plain.stack.client, MlflowClient(plain.mlflow.url)
    params = {"steps": 1_000_000, "hidden": [32], "report_every": 500, "checkpoint_every": 500}
    sweep_id = client.submit(spec_named("cancelled", params=params))["id"]
    await_that(lambda: any(trial["tracking_ref"] for trial in client.trials(sweep_id)), what="runs in MLflow")
    plain.mlflow.kill()
    client.cancel(sweep_id)
    assert client.wait(sweep_id, timeout=120)["state"] == "cancelled", "it does not wait for MLflow"
    plain.mlflow.start()
    plain.mlflow.await_answer()

    def statuses() -> set[str]:
        parent, children = runs_of(tracked, "chaos", sweep_id)
        return {run.info.status for run in (parent, *children)}

    await_that(lambda: statuses() == {"KILLED"}, what="its runs to be closed")
    started = [trial for trial in client.trials(sweep_id) if trial["started_at"]]
    assert len(runs_of(tracked, "chaos", sweep_id)[1]) == len(started)
    assert client.get(sweep_id)["state"] == "cancelled"


@pytest.mark.long
def test_a_sweep_of_single_trials_survives_the_deaths_of_ray_and_comes_out_as_a_calm_one(
    plain: Scene, tmp_path: Path
) -> None:
    resources = {"cpus": 0.5, "parallel": 2, "lanes": 1}
    spec = spec_named("ray dies", resources=resources)
    sweep = survive(plain, spec, {"ray": 3, "worker": 2, "conductor": 1}, tmp_path, seed=2)
    trials = plain.stack.client.trials(sweep["id"])
    calm = calm_trials(spec, tmp_path)
    for fact in ("role", "balancer", "searched", "seed", "state", "ending", "objective", "last_step", "metrics"):
        assert [trial[fact] for trial in trials] == [getattr(trial, fact) for trial in calm], fact


@pytest.mark.long
def test_a_sweep_survives_a_database_that_stops_and_one_that_freezes(rich: Scene, tmp_path: Path) -> None:
    sweep = survive(rich, spec_named("postgres"), {"postgres stopped": 3, "postgres frozen": 2}, tmp_path, seed=3)
    assert sweep["state"] == "completed"


@pytest.mark.long
def test_a_sweep_survives_a_disk_that_is_full_for_a_while(rich: Scene, tmp_path: Path) -> None:
    if rich.disk is None:
        pytest.skip("this user may mount no disk to be filled")
    # As many retries as there are where nobody thinks of it: a full disk is no fault of a trial's.
    spec = spec_named("full disk", resources={"cpus": 0.5, "parallel": 2, "lanes": 1}, retries=2)
    sweep = survive(rich, spec, {"disk full": 3}, tmp_path, seed=4)
    trials = rich.stack.client.trials(sweep["id"])
    assert {trial["num_attempts"] for trial in trials} == {1}
    messages = [event["message"] for event in rich.stack.client.events(sweep["id"])]
    assert any("no room for a checkpoint" in message for message in messages)


@pytest.mark.long
@pytest.mark.parametrize("seed", [5, 6, 7])
def test_a_sweep_with_a_baseline_and_a_comparison_survives_everything_at_random(
    rich: Scene, tmp_path: Path, seed: int
) -> None:
    kinds = {**KILLED, "ray": 1, "postgres stopped": 1, "postgres frozen": 1, **({"disk full": 1} if rich.disk else {})}
    spec = spec_named(
        f"everything {seed}", search={"sampler": "tpe", "seed": seed}, baselines=["equal"], confirm={"seeds": 2}
    )
    sweep = survive(rich, spec, kinds, tmp_path, seed=seed, others={"baseline": 1, "confirm": 4})
    assert len(rich.stack.client.trials(sweep["id"])) == TRIALS + 5
