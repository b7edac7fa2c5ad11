"""docker-compose.yml for real: what it promises, with everything in it running. Only where a Docker engine is there."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import httpx
import pytest
import yaml
from compose_cluster import PROJECT, Cluster, await_that, has_engine, running_cluster

from sweep_service.client import ApiError, SweepClient

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not has_engine(), reason="needs a Docker engine with Compose"),
]
PORTS_INSIDE = (5000, 5432, 6379, 6380, 8000, 8265, 10002)
ENDED = ("completed", "failed", "stopped", "cancelled")
SPEC = {
    "name": "cluster",
    "trainable": "digits",
    "params": {"steps": 3000, "batch_size": 64},
    "space": {
        "alpha": {"type": "float", "low": 0.0, "high": 3.0},
        "weight_lr": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
    },
    "search": {"sampler": "random"},
    "budget": {"trials": 16},
    "baselines": [],
    "resources": {"cpus": 1, "parallel": 4, "lanes": 2},
    "tracking": {"experiment": "cluster"},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("installation")) as running:
        yield running


@pytest.fixture
def client(cluster: Cluster) -> Iterator[SweepClient]:
    with cluster.client() as connected:
        await_that(connected.trainables)
        yield connected


def key_of(client: SweepClient, role: str) -> str:
    return client.create_key(f"{role}-{time.time_ns()}", role)["key"]


def has_ended(client: SweepClient, sweep_id: str) -> Mapping[str, Any] | None:
    sweep = client.get(sweep_id)
    return sweep if sweep["state"] in ENDED else None


def num_ended(client: SweepClient, sweep_id: str) -> int:
    counts = client.get(sweep_id)["progress"]["trials"]["search"]
    return sum(number for state, number in counts.items() if state not in ("pending", "running"))


def nodes_of(client: SweepClient, sweep_id: str) -> Counter[str]:
    """On which nodes its attempts ran."""
    trials = (client.trial(trial["id"]) for trial in client.trials(sweep_id))
    return Counter(attempt["node"] for trial in trials for attempt in trial["attempts"])


def check_each_trial_once(client: SweepClient, sweep_id: str, num_trials: int) -> None:
    sweep = await_that(lambda: has_ended(client, sweep_id), within_s=600)
    assert (sweep["state"], sweep["reason"]) == ("completed", "budget_trials"), sweep["message"]
    trials = client.trials(sweep_id)
    assert [trial["number"] for trial in trials] == list(range(num_trials))
    assert {trial["state"] for trial in trials} <= {"completed", "early_stopped"}


def test_the_census_sweep_runs_on_both_workers_and_its_runs_are_seen_through_the_gateway(cluster, client):
    spec = yaml.safe_load(files("sweep_service.examples").joinpath("census.yaml").read_text())
    key = key_of(client, "submitter")
    with cluster.client(key) as submitter:
        sweep_id = submitter.submit(spec)["id"]
        sweep = await_that(lambda: has_ended(submitter, sweep_id), within_s=600)
    assert sweep["state"] == "completed", sweep["message"]
    assert sweep["created_by"].startswith("submitter-")
    assert len(nodes_of(client, sweep_id)) == 2
    viewer = ("anybody", key_of(client, "viewer"))
    with httpx.Client(base_url=f"{cluster.url}/mlflow", auth=viewer, timeout=60) as mlflow:
        assert "text/html" in mlflow.get("/").headers["content-type"]
        found = mlflow.post("/ajax-api/2.0/mlflow/experiments/search", json={"max_results": 10}).json()
        (experiment,) = (one for one in found["experiments"] if one["name"] == spec["tracking"]["experiment"])
        wish = {"experiment_ids": [experiment["experiment_id"]], "max_results": 100}
        runs = mlflow.post("/ajax-api/2.0/mlflow/runs/search", json=wish).json()["runs"]
        assert len(runs) == 1 + len(client.trials(sweep_id))
        assert {run["info"]["status"] for run in runs} == {"FINISHED"}
        made = {"experiment_id": experiment["experiment_id"]}
        assert mlflow.post("/ajax-api/2.0/mlflow/runs/create", json=made).status_code == 403


def test_nothing_answers_without_a_key_or_with_one_that_may_not(cluster, client):
    for path in ("/api/v1/sweeps", "/docs", "/mlflow/", "/mlflow/ajax-api/2.0/mlflow/experiments/search"):
        assert httpx.get(cluster.url + path, timeout=60).status_code == 401, path
    for path in ("/internal/authorize", "/metrics", "/nothing"):  # not the gateway's business
        assert httpx.get(cluster.url + path, timeout=60).status_code == 404, path
    assert httpx.get(f"{cluster.url}/healthz", timeout=60).status_code == 200
    with cluster.client(key_of(client, "viewer")) as viewer:
        assert viewer.list() is not None
        with pytest.raises(ApiError) as refused:
            viewer.submit(SPEC)
        assert refused.value.status == 403


def test_a_revoked_key_stops_working_within_a_second(cluster, client):
    made = client.create_key("short-lived", "viewer")
    header = {"Authorization": f"Bearer {made['key']}"}
    assert httpx.get(f"{cluster.url}/api/v1/sweeps", headers=header, timeout=60).status_code == 200
    client.revoke_key(made["id"])
    time.sleep(1)
    assert httpx.get(f"{cluster.url}/api/v1/sweeps", headers=header, timeout=60).status_code == 401


def test_from_outside_there_is_one_port(cluster):
    published = cluster.run(
        "docker", "ps", "--filter", f"label=com.docker.compose.project={PROJECT}", "--format={{.Ports}}"
    )
    ports = re.findall(r"([\d.]+):(\d+)->", published.stdout)
    assert ports == [("127.0.0.1", cluster.url.rpartition(":")[2])]
    addresses = cluster.run(
        "docker",
        "inspect",
        "--format={{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}",
        *cluster.compose("ps", "--quiet").stdout.split(),
    ).stdout.split()
    cluster.run("docker", "network", "create", f"{PROJECT}-outside")
    try:
        script = (
            "import socket, sys\n"
            "for address in sys.argv[2:]:\n"
            "    for port in map(int, sys.argv[1].split(',')):\n"
            "        with socket.socket() as probe:\n"
            "            probe.settimeout(0.3)\n"
            "            if probe.connect_ex((address, port)) == 0: print(address, port)\n"
        )
        ports_told = ",".join(map(str, PORTS_INSIDE))
        probe = ["docker", "run", "--rm", "--network", f"{PROJECT}-outside", "--entrypoint", "python"]
        seen = cluster.run(*probe, f"{PROJECT}/service:dev", "-c", script, ports_told, *addresses)
    finally:
        cluster.run("docker", "network", "rm", f"{PROJECT}-outside")
    assert len(addresses) >= 8
    assert seen.stdout == ""


def test_workers_reach_neither_databases_nor_mlflow_nor_the_outside(cluster):
    script = (
        "import socket, sys\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(socket.gethostbyname(name))\n"
        "    except OSError: pass\n"
    )
    seen = cluster.compose("exec", "-T", "ray-worker", "python", "-c", script, "postgres", "mlflow", "api", "gateway")
    assert seen.stdout == ""
    environment = cluster.compose("exec", "-T", "ray-worker", "env").stdout
    assert not [line for line in environment.splitlines() if "DATABASE" in line or "MLFLOW_TRACKING" in line]
    assert cluster.compose("exec", "-T", "ray-worker", "ls", "/run/secrets").stdout.split() == ["ray_token"]


def test_an_empty_secret_keeps_a_service_from_starting(cluster):
    path = cluster.folder / "deploy" / "secrets" / "ray_token"
    kept = path.read_text()
    path.chmod(0o644)
    path.write_text("")
    try:
        refused = cluster.compose("run", "--rm", "--no-deps", "-T", "ray-worker", check=False)
    finally:
        path.write_text(kept)
        path.chmod(0o444)
    assert refused.returncode == 78
    assert "ray_token is empty" in refused.stdout + refused.stderr
    assert "deploy/init" in refused.stdout + refused.stderr


def test_a_sweep_survives_whatever_is_killed(cluster, client):
    sweep_id = client.submit({**SPEC, "name": "survivor"})["id"]
    for victim in ("ray-worker", "ray-head", "dispatcher", "postgres"):
        had = await_that(lambda: num_ended(client, sweep_id) + 1)
        cluster.kill(victim)
        time.sleep(3)
        cluster.up("--no-build")
        if victim != "postgres":
            await_that(lambda had=had: num_ended(client, sweep_id) >= min(had, 16))
    check_each_trial_once(client, sweep_id, 16)


def test_more_workers_take_part_at_once_and_those_that_go_lose_nothing(cluster, client):
    spec = {**SPEC, "name": "scaled", "budget": {"trials": 24}, "resources": {**SPEC["resources"], "lanes": 1}}
    sweep_id = client.submit(spec)["id"]
    await_that(lambda: num_ended(client, sweep_id) >= 2)
    cluster.up("--no-build", "--scale", "ray-worker=4")
    await_that(lambda: len(nodes_of(client, sweep_id)) >= 4)
    cluster.compose("up", "--detach", "--no-build", "--scale", "ray-worker=1")
    check_each_trial_once(client, sweep_id, 24)
    cluster.up("--no-build", "--scale", "ray-worker=2")


def test_half_a_gpu_puts_two_trials_on_one(cluster, client):
    cluster.set_variable("SWEEP_WORKER_GPUS", "1")
    cluster.up("--no-build", "--scale", "ray-worker=1")
    spec = {**SPEC, "name": "halves", "budget": {"trials": 4}}
    spec["resources"] = {"cpus": 0.5, "gpus": 0.5, "parallel": 2, "lanes": 1}
    await_that(lambda: client.preview(spec))
    sweep_id = client.submit(spec)["id"]
    await_that(lambda: client.get(sweep_id)["progress"]["trials"]["search"].get("running") == 2)
    check_each_trial_once(client, sweep_id, 4)
    cluster.set_variable("SWEEP_WORKER_GPUS", "0")
    told = [event["message"] for event in client.events(sweep_id) if event["kind"] == "sweep.notice"]
    assert [message for message in told if "have been given GPUs" in message]  # which are not there in truth


def test_what_was_saved_is_back_after_all_of_it_was_lost(cluster, client, tmp_path):
    sweep_id = client.submit({**SPEC, "name": "saved", "budget": {"trials": 8}})["id"]
    await_that(lambda: num_ended(client, sweep_id) >= 2)
    cluster.run(cluster.folder / "deploy" / "backup", tmp_path / "saved", timeout=600)
    await_that(lambda: has_ended(client, sweep_id), within_s=600)  # it goes on
    known = {sweep["id"] for sweep in client.list()}
    key = key_of(client, "viewer")
    cluster.compose("down", "--volumes")
    cluster.up("--no-build")
    assert await_that(lambda: client.trainables() and client.list() == [])
    cluster.run(cluster.folder / "deploy" / "restore", tmp_path / "saved", timeout=600)
    assert {sweep["id"] for sweep in client.list()} == known
    check_each_trial_once(client, sweep_id, 8)  # from where it stood when it was saved
    with cluster.client(key) as younger, pytest.raises(ApiError):
        younger.list()  # made after the backup
    with httpx.Client(base_url=f"{cluster.url}/mlflow", auth=("x", key_of(client, "viewer")), timeout=60) as mlflow:
        found = mlflow.post("/ajax-api/2.0/mlflow/experiments/search", json={"max_results": 10}).json()
        assert "cluster" in {one["name"] for one in found["experiments"]}
    refused = cluster.run(cluster.folder / "deploy" / "restore", tmp_path / "saved", check=False)
    assert refused.returncode == 2
    assert "--replace" in refused.stderr


def test_the_logs_are_lines_of_json_that_tell_their_sweep(cluster, client):
    sweep_id = client.list()[0]["id"]
    lines = cluster.compose("logs", "--no-log-prefix", "--no-color", "dispatcher").stdout.splitlines()
    told = [yaml.safe_load(line) for line in lines if line.startswith('{"time"')]
    assert {line["process"] for line in told} >= {"dispatcher", "node", "conductor"}
    assert [line for line in told if line.get("sweep_id") == sweep_id and line["process"] == "conductor"]


def test_only_the_gateways_port_is_open_on_this_machine(cluster):
    host, port = "127.0.0.1", int(cluster.url.rpartition(":")[2])
    with socket.create_connection((host, port), timeout=5):
        pass
    for inner in PORTS_INSIDE:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.settimeout(0.5)
            taken = probe.connect_ex((host, inner)) == 0
            assert not taken or inner == port
