"""deploy/open-cluster and deploy/join-worker.sh for real: a second machine takes part, and leaves."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cluster_sweeps import SPEC, check_each_trial_once, nodes_of, num_ended
from compose_cluster import PROJECT, Cluster, await_that, copy_checkout, has_engine, running_cluster
from second_machine import FIRST_ADDRESS, SECOND_ADDRESS, can_be_two, second_machine

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not has_engine(), reason="needs a Docker engine with Compose"),
    pytest.mark.skipif(not can_be_two(), reason="needs root, to start another engine in a network of its own"),
]
PORTS_OF_RAY = (6379, 6380, 6381, 6382, 6383, 6384, 6385, 10002)
USER = 10001  # of all containers
NETWORK = "gradnorm-sweeps-ray"  # between the machines


@dataclass(frozen=True)
class Machine:
    """The second one: an engine, and a checkout."""

    engine: str
    checkout: Path

    def run(
        self, *argv: str | Path, check: bool = True, folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SWEEP_", "COMPOSE_"))}
        env |= {"DOCKER_HOST": self.engine, "SWEEP_IMAGE": PROJECT}
        done = subprocess.run(
            argv, cwd=folder or self.checkout, env=env, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0 or not check, f"{argv}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done

    def worker(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.run("docker", "compose", *command, folder=self.checkout / "deploy")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    checkout = tmp_path_factory.mktemp("second-checkout")
    copy_checkout(checkout)
    with second_machine(tmp_path_factory.mktemp("second-engine")) as engine:
        yield Machine(engine=engine, checkout=checkout)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage that both machines have."""
    folder = tmp_path_factory.mktemp("shared")
    os.chown(folder, USER, USER)  # those above it are closed to others, but Docker mounts it by itself
    return folder


@pytest.fixture(scope="module")
def cluster(machine: Machine, shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """On the first machine, with one worker, and open to others. The second has the cable before it."""

    def open_it(cluster: Cluster) -> None:
        cluster.set_variable("SWEEP_WORKERS", "1")
        cluster.run("deploy/open-cluster", FIRST_ADDRESS, "--checkpoints", shared, "--unencrypted")

    folder = tmp_path_factory.mktemp("installation")
    try:
        with running_cluster(folder, before_start=open_it) as running:
            yield running
            machine.run("docker", "swarm", "leave", "--force")
    finally:
        for command in (["swarm", "leave", "--force"], ["network", "rm", NETWORK]):
            subprocess.run(["docker", *command], capture_output=True, check=False)


def join(cluster: Cluster, machine: Machine, checkpoints: Path, *, check: bool = True) -> str:
    """What deploy/join-worker.sh says on the second machine, which has been handed the file."""
    terms = machine.checkout / "join"
    shutil.copy(cluster.folder / "deploy" / "secrets" / "join", terms)
    options = ["--join", terms, "--checkpoints", checkpoints, "--gpus", "none"]
    done = machine.run("deploy/join-worker.sh", FIRST_ADDRESS, *options, check=check)
    return done.stdout + done.stderr


def test_a_folder_that_is_not_the_shared_one_is_refused_before_anything_is_changed(cluster, machine, tmp_path):
    assert "is not the storage" in join(cluster, machine, tmp_path, check=False)
    state = machine.run("docker", "info", "--format", "{{.Swarm.LocalNodeState}}").stdout
    assert state.strip() == "inactive"


def test_a_machine_joins_trains_and_leaves_and_nothing_is_lost(cluster, machine, shared):
    image = f"{PROJECT}/node:dev"
    copy = f"docker save {image} | docker --host {machine.engine} load"
    subprocess.run(["sh", "-c", copy], check=True, capture_output=True, timeout=900)
    join(cluster, machine, shared)
    with cluster.client() as client:
        await_that(client.trainables)
        # More packs at once than the first machine's worker, of one processor, has room for.
        spec = {**SPEC, "name": "two machines", "resources": {"cpus": 1, "parallel": 3, "lanes": 1}}
        sweep_id = client.submit({**spec, "params": {"steps": 6000, "batch_size": 64}})["id"]
        await_that(lambda: len(nodes_of(client, sweep_id)) == 2)
        (hostname,) = machine.worker("exec", "-T", "ray-worker", "hostname").stdout.split()
        await_that(lambda: num_ended(client, sweep_id) >= 3)
        assert nodes_of(client, sweep_id)[hostname] >= 1
        for address in (FIRST_ADDRESS, SECOND_ADDRESS):
            assert not [port for port in PORTS_OF_RAY if is_open(address, port)], address
        machine.worker("down")
        check_each_trial_once(client, sweep_id, 16)
        attempts = [attempt for trial in client.trials(sweep_id) for attempt in client.trial(trial["id"])["attempts"]]
    there = [attempt for attempt in attempts if attempt["node"] == hostname]
    assert {attempt["state"] for attempt in there} <= {"finished", "preempted"}, there


def is_open(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0
