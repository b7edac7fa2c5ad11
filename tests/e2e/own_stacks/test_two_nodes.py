"""Nodes of a cluster die under the packs that they run: their trials go on elsewhere, and it counts against nobody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from mlflow import MlflowClient
from ray_nodes import RayNode, join
from stack_control import RunningStack, await_that, conductor_pid, end_stack, runs_of, start_stack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, EVERY = 2000, 250
# Ray sees after some five seconds that a node has died, not after fourteen.
HEALTH = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """A stack whose own node has no GPU: nothing that asks for one runs on it."""
    running = start_stack(tmp_path_factory.mktemp("cluster"), "--cpus", "1", "--gpus", "0", settings=HEALTH)
    try:
        yield running
    finally:
        left = end_stack(running)
    assert not left, f"processes outlived the stack: {left}"


@pytest.fixture(scope="module")
def joined(cluster: RunningStack) -> Iterator[dict[str, RayNode]]:
    nodes: dict[str, RayNode] = {}
    yield nodes
    for node in nodes.values():
        if node.is_alive:
            node.kill()


@pytest.fixture
def nodes(cluster: RunningStack, joined: dict[str, RayNode]) -> dict[str, RayNode]:
    """Two live nodes with a GPU each, by name."""
    for name in ("one", "two"):
        if name not in joined or not joined[name].is_alive:
            joined[name] = join(cluster, name, cpus=1, gpus=1)
    return joined


def spec_named(name: str, *, lanes: int) -> dict[str, Any]:
    """Two packs of so many trials, of which each takes the GPU of a node; no trial may fail even once."""
    return {
        "name": name,
        "trainable": "digits",
        "params": {"steps": STEPS, "report_every": EVERY, "checkpoint_every": EVERY},
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
        "search": {"sampler": "random", "seed": 4},
        "budget": {"trials": 2 * lanes},
        "resources": {"cpus": 1, "gpus": 1, "parallel": 2, "lanes": lanes},
        "retries": 0,
        "tracking": {"experiment": name},
    }


def trials_of(stack: RunningStack, sweep_id: str) -> list[dict[str, Any]]:
    return [stack.client.trial(trial["id"]) for trial in stack.client.trials(sweep_id)]


def under_way(stack: RunningStack, sweep_id: str) -> dict[str, list[str]]:
    """By node, the trials that it trains and that have left a checkpoint."""
    found: dict[str, list[str]] = {}
    for trial in trials_of(stack, sweep_id):
        if trial["state"] == "running" and (trial["last_step"] or 0) >= 2 * EVERY:
            found.setdefault(trial["attempts"][-1]["node"], []).append(trial["id"])
    return found


@pytest.mark.parametrize(
    ("lanes", "workers_first_by_s"),
    [pytest.param(1, 0.0, id="alone"), pytest.param(2, 1.0, id="together, workers first", marks=pytest.mark.long)],
)
def test_the_trials_of_a_node_that_dies_go_on_on_the_other_from_their_checkpoints(
    cluster: RunningStack, nodes: dict[str, RayNode], lanes: int, workers_first_by_s: float
) -> None:
    name = f"dying under {lanes}"
    sweep_id = cluster.client.submit(spec_named(name, lanes=lanes))["id"]

    def full_pack() -> tuple[str, list[str]] | None:
        """On a node without the conductor, which would be lost with it."""
        for node, trials in under_way(cluster, sweep_id).items():
            if len(trials) == lanes and conductor_pid(cluster, sweep_id, generation=1) not in nodes[node].pids:
                return node, trials
        return None

    victim, hit = await_that(full_pack, within_s=240, what="a full pack on one of the nodes")
    (other,) = nodes.keys() - {victim}
    nodes[victim].kill(workers_first_by_s=workers_first_by_s)

    sweep = cluster.client.wait(sweep_id, timeout=300)
    assert (sweep["state"], sweep["generation"]) == ("completed", 1)
    ended = trials_of(cluster, sweep_id)
    assert [(trial["number"], trial["state"]) for trial in ended] == [(n, "completed") for n in range(2 * lanes)]
    moved = [trial for trial in ended if trial["id"] in hit]
    assert len(moved) == lanes
    for trial in moved:
        lost, last = trial["attempts"]
        assert (lost["state"], lost["node"]) == ("lost", victim)
        assert lost["message"] == f"The node {victim} is gone."
        assert (last["state"], last["node"]) == ("finished", other)
        assert f"/{lost['id']}/" in last["resumed_from"]
    assert len({trial["attempts"][1]["pack"] for trial in moved}) == 1, "they go on together"
    assert all(len(trial["attempts"]) == 1 for trial in ended if trial["id"] not in hit)
    client = MlflowClient(f"sqlite:///{cluster.home / 'mlflow.db'}")
    _, children = runs_of(client, name, sweep_id)
    for run in children:
        points = client.get_metric_history(run.info.run_id, "val/normalized_loss")
        assert sorted(point.step for point in points) == list(range(EVERY, STEPS + 1, EVERY))


@pytest.mark.long
def test_what_trains_on_a_node_that_is_told_to_end_goes_on_elsewhere_before_it_does(
    cluster: RunningStack, nodes: dict[str, RayNode]
) -> None:
    sweep_id = cluster.client.submit(spec_named("leaving", lanes=1))["id"]
    busy = await_that(lambda: under_way(cluster, sweep_id), within_s=240, what="a trial under way")
    victim, (trial_id,) = next(iter(busy.items()))
    nodes[victim].tell_to_leave()

    def moved() -> bool:
        return cluster.client.trial(trial_id)["attempts"][0]["state"] != "running"

    await_that(moved, within_s=60, what="the end of its attempt")  # before the node's, as it says
    first = cluster.client.trial(trial_id)["attempts"][0]
    assert (first["state"], first["message"]) == ("preempted", "Its node leaves the cluster.")
    sweep = cluster.client.wait(sweep_id, timeout=300)
    nodes[victim].kill()  # what is left of it
    assert (sweep["state"], sweep["generation"]) == ("completed", 1)
    last = cluster.client.trial(trial_id)["attempts"][-1]
    assert (last["state"], last["node"] != victim) == ("finished", True)
    assert f"/{first['id']}/" in last["resumed_from"]
