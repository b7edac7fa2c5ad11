"""docker-compose.yml for real: what it promises, with everything in it running. Only where a Docker engine is there."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import yaml
from cluster_sweeps import SPEC, check_each_trial_once, has_ended, nodes_of, num_ended
from compose_cluster import PROJECT, PROMETHEUS_IMAGE, Cluster, await_that, has_engine, have_image, running_cluster
from next_version import NEXT_REVISION, NEXT_VERSION, make_next_version

from sweep_service.client import ApiError, SweepClient
from sweep_service.membership import TERMS_FILE
from sweep_service.storage.tables import VERSION_TABLE

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not has_engine(), reason="needs a Docker engine with Compose"),
]
DASHBOARD = Path("deploy", "monitoring", "grafana", "dashboards", "sweeps.json")
# Panels that say nothing where there is no GPU, where no sweep runs, and where all is well.
MAY_BE_SILENT = {
    "max(sweep_gpus_busy) / (max(sweep_cluster_gpus) > 0)",
    "min(sweep_lease_left_seconds)",
    'ALERTS{alertstate="firing"}',
}
PORTS_INSIDE = (5000, 5432, 6379, 6380, 8000, 8265, 10002)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("installation")) as running:
        yield running
    running.run("docker", "image", "rm", *(f"{PROJECT}/{name}:next" for name in ("service", "node")), check=False)


@pytest.fixture
def client(cluster: Cluster) -> Iterator[SweepClient]:
    with cluster.client() as connected:
        await_that(connected.trainables)
        yield connected


def key_of(client: SweepClient, role: str) -> str:
    return client.create_key(f"{role}-{time.time_ns()}", role)["key"]


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


@pytest.mark.parametrize(
    ("service", "secret"),
    [
        ("ray-worker", "ray_token"),
        ("databases", "postgres_password"),
        ("databases", "mlflow_database_password"),
        ("setup", "admin_key"),
        ("api", "sweep_database_url"),
        ("mlflow", "mlflow_database_url"),
        ("dispatcher", "ray_token"),
    ],
)
def test_an_empty_secret_keeps_a_service_from_starting(cluster, service, secret):
    path = cluster.folder / "deploy" / "secrets" / secret
    kept = path.read_text()
    path.chmod(0o644)
    path.write_text("")
    try:
        refused = cluster.compose("run", "--rm", "--no-deps", "-T", service, check=False)
    finally:
        path.write_text(kept)
        path.chmod(0o444)
    assert refused.returncode == 78
    assert f"{secret} is empty" in refused.stdout + refused.stderr
    assert "deploy/init" in refused.stdout + refused.stderr


def runs_in_mlflow(cluster: Cluster, client: SweepClient, experiment: str, sweep_id: str) -> list[dict[str, Any]]:
    """The sweep's runs, as a viewer sees them through the gateway."""
    with httpx.Client(base_url=f"{cluster.url}/mlflow", auth=("x", key_of(client, "viewer")), timeout=60) as mlflow:
        api = "/ajax-api/2.0/mlflow"
        found = mlflow.get(f"{api}/experiments/get-by-name", params={"experiment_name": experiment}).json()
        request = {
            "experiment_ids": [found["experiment"]["experiment_id"]],
            "filter": f"tags.sweep_id = '{sweep_id}'",
            "max_results": 1000,
        }
        runs = mlflow.post(f"{api}/runs/search", json=request).json()["runs"]
    return [
        {
            "status": run["info"]["status"],
            "tags": {tag["key"]: tag["value"] for tag in run["data"]["tags"]},
        }
        for run in runs
    ]


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
    runs = runs_in_mlflow(cluster, client, "cluster", sweep_id)
    trial_ids = [run["tags"]["trial_id"] for run in runs if "trial_id" in run["tags"]]
    assert sorted(trial_ids) == sorted(trial["id"] for trial in client.trials(sweep_id))
    assert len(runs) == 1 + len(trial_ids)
    assert {run["status"] for run in runs} == {"FINISHED"}


def trials_a_second(client: SweepClient, sweep_id: str, num: int) -> float:
    """How fast the next so many come to their ends, counted from the first of them."""
    had = num_ended(client, sweep_id)
    await_that(lambda: num_ended(client, sweep_id) > had)
    began, had = time.monotonic(), num_ended(client, sweep_id)
    await_that(lambda: num_ended(client, sweep_id) >= had + num)
    return (num_ended(client, sweep_id) - had) / (time.monotonic() - began)


def test_more_workers_make_a_sweep_faster_at_once_and_those_that_go_lose_nothing(cluster, client):
    # Its trials wait, as those on GPUs do, so that one machine can show what several are good for; it is of a package
    # of a user's own, which deploy/wheels has brought into the images.
    cluster.up("--no-build", "--scale", "ray-worker=1")
    spec = {
        **SPEC,
        "name": "scaled",
        "trainable": "faulty",
        "params": {"delay_ms": 200, "steps": 40, "batch_size": 64},
        "budget": {"trials": 40},
        "resources": {"cpus": 1, "parallel": 4, "lanes": 1},
    }
    sweep_id = client.submit(spec)["id"]
    before = trials_a_second(client, sweep_id, 3)
    cluster.up("--no-build", "--scale", "ray-worker=4")
    await_that(lambda: len(nodes_of(client, sweep_id)) >= 4)
    after = trials_a_second(client, sweep_id, 12)
    sys.stdout.write(
        f"\n{before:.3f} trials a second with one worker, {after:.3f} with four: {after / before:.1f} times\n"
    )
    assert after > 1.5 * before
    cluster.compose("up", "--detach", "--no-build", "--scale", "ray-worker=1")
    check_each_trial_once(client, sweep_id, 40)
    said = [line["text"] for line in client.trial_logs(client.trials(sweep_id)[0]["id"])]
    assert any("what will go wrong: none" in text for text in said)
    cluster.up("--no-build", "--scale", "ray-worker=2")


def test_half_a_gpu_puts_two_trials_on_one_and_both_see_it(cluster, client):
    cluster.set_variable("SWEEP_WORKER_GPUS", "1")
    cluster.up("--no-build", "--scale", "ray-worker=1")
    spec = {
        **SPEC,
        "name": "halves",
        "trainable": "faulty",
        "params": {"delay_ms": 100, "steps": 100, "batch_size": 64},
        "budget": {"trials": 4},
        "resources": {"cpus": 0.5, "gpus": 0.5, "parallel": 2, "lanes": 1},
    }
    await_that(lambda: client.preview(spec))
    sweep_id = client.submit(spec)["id"]
    await_that(lambda: client.get(sweep_id)["progress"]["trials"]["search"].get("running") == 2)
    check_each_trial_once(client, sweep_id, 4)
    for trial in client.trials(sweep_id):
        assert "GPUs that can be seen: 0" in [line["text"] for line in client.trial_logs(trial["id"])]
    cluster.set_variable("SWEEP_WORKER_GPUS", "0")
    told = [event["message"] for event in client.events(sweep_id) if event["kind"] == "sweep.notice"]
    assert [message for message in told if "have been given GPUs" in message]  # which are not there in truth


def test_databases_that_a_first_start_did_not_get_to_are_made_by_the_next(cluster, client):
    known = [sweep["id"] for sweep in client.list()]
    cluster.compose("stop", "api", "dispatcher", "mlflow", "gateway")
    ask = ("exec", "-T", "postgres", "psql", "--username=postgres", "--command")
    cluster.compose(*ask, "DROP DATABASE mlflow WITH (FORCE)")
    cluster.compose(*ask, "DROP ROLE mlflow")
    cluster.compose(*ask, "ALTER ROLE sweep PASSWORD 'of another time'")
    cluster.up("--no-build")
    assert [sweep["id"] for sweep in client.list()] == known
    sweep_id = client.submit({**SPEC, "name": "databases", "budget": {"trials": 2}})["id"]
    check_each_trial_once(client, sweep_id, 2)


def test_what_was_saved_is_back_after_all_of_it_was_lost(cluster, client, tmp_path):
    sweep_id = client.submit({**SPEC, "name": "saved", "budget": {"trials": 8}})["id"]
    await_that(lambda: num_ended(client, sweep_id) >= 2)
    cluster.run(cluster.folder / "deploy" / "backup", f"{tmp_path / 'saved'}/", timeout=600)
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


def test_checkpoints_are_copied_as_it_says_before_others_may_join(cluster, client, tmp_path):
    sweep_id = client.submit({**SPEC, "name": "moved", "budget": {"trials": 2}})["id"]
    check_each_trial_once(client, sweep_id, 2)  # whose best one's checkpoint stays
    shared = tmp_path / "shared"
    shared.mkdir()
    argv = ("deploy/open-cluster", "127.0.0.1", "--checkpoints", shared)
    refused = cluster.run(*argv, check=False)
    assert refused.returncode == 2
    commands = refused.stderr.partition("as root:\n")[2].partition("then run this")[0]
    cluster.run("sh", "-euc", commands)
    kept = {path.name for path in shared.rglob("*") if path.is_file()}
    assert len(kept) >= 2
    assert TERMS_FILE in kept
    cluster.up("--no-build")


def test_prometheus_reads_the_metrics_with_its_own_key_and_knows_the_alerts(cluster, client):
    have_image(cluster, PROMETHEUS_IMAGE, "prometheus-stand-in")
    cluster.set_variable("SWEEP_PROMETHEUS_IMAGE", PROMETHEUS_IMAGE)
    cluster.up("--no-build", "prometheus")

    def asked(path: str) -> Any:
        run = ("exec", "-T", "prometheus", "wget", "-q", "-O", "-", f"http://127.0.0.1:9090/api/v1/{path}")
        return json.loads(cluster.compose(*run).stdout)["data"]

    await_that(lambda: asked("query?query=sweep_sweeps")["result"], within_s=120)
    (target,) = asked("targets?state=active")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    rules = [rule for group in asked("rules")["groups"] for rule in group["rules"]]
    assert len(rules) >= 15
    await_that(lambda: all(r["health"] == "ok" for g in asked("rules")["groups"] for r in g["rules"]), within_s=180)
    panels = json.loads((cluster.folder / DASHBOARD).read_text())["panels"]
    asked_for = {target["expr"] for panel in panels for target in panel.get("targets", ())}

    def silent() -> set[str]:
        return {one for one in asked_for if not asked(f"query?{urlencode({'query': one})}")["result"]}

    await_that(lambda: silent() <= MAY_BE_SILENT)
    firing = {alert["labels"]["alertname"] for alert in asked("alerts")["alerts"] if alert["state"] == "firing"}
    assert not firing, "all is well here"


def test_an_upgrade_migrates_the_database_and_a_sweep_goes_on_in_the_new_version(cluster, client):
    make_next_version(cluster.folder)
    cluster.set_variable("SWEEP_VERSION", "next")
    cluster.compose("build", timeout=1800)
    sweep_id = client.submit({**SPEC, "name": "upgraded"})["id"]
    await_that(lambda: num_ended(client, sweep_id) >= 2)
    cluster.up("--no-build")
    check_each_trial_once(client, sweep_id, 16)
    assert client.get(sweep_id)["generation"] >= 2
    versions = {client.trial(trial["id"])["provenance"]["code_version"] for trial in client.trials(sweep_id)}
    assert NEXT_VERSION in versions
    assert len(versions) == 2, "the first ones had ended before"
    ask = ("exec", "-T", "postgres", "psql", "--username=postgres", "--tuples-only", "--no-align", "sweep", "--command")
    assert cluster.compose(*ask, f"SELECT version_num FROM {VERSION_TABLE}").stdout.strip() == NEXT_REVISION


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
