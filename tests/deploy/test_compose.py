"""What docker-compose.yml says, as docker compose itself reads it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from sweep_service.node import NodeSettings
from sweep_service.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE = Path(sysconfig.get_path("purelib"), "compose", "docker-compose")  # its wrapper drops the exit code
ONE_SHOT = {"databases", "setup"}


def config(
    *, profiles: tuple[str, ...] = (), env_file: Path | None, beside: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    files = [f"--file={ROOT / name}" for name in ("docker-compose.yml", *beside)]
    argv = [COMPOSE, *files, "--project-directory", ROOT]
    argv += ["--env-file", env_file or "/dev/null", *(f"--profile={profile}" for profile in profiles)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SWEEP_")}
    return subprocess.run([*argv, "config", "--format=json"], capture_output=True, text=True, env=env, timeout=60)


def installed(folder: Path, *options: str, beside: tuple[str, ...] = ()) -> dict[str, Any]:
    """What compose reads after deploy/init with those options."""
    (folder / "deploy").mkdir()
    shutil.copy(ROOT / "deploy" / "init", folder / "deploy" / "init")
    subprocess.run([folder / "deploy" / "init", *options], check=True, capture_output=True)
    read = config(profiles=("gpu", "monitoring"), env_file=folder / ".env", beside=beside)
    assert read.returncode == 0, read.stderr
    return json.loads(read.stdout)


@pytest.fixture(scope="module")
def compose(tmp_path_factory) -> dict[str, Any]:
    return installed(tmp_path_factory.mktemp("installation"))


@pytest.fixture(scope="module")
def with_bucket(tmp_path_factory) -> dict[str, Any]:
    options = tmp_path_factory.mktemp("of the store") / "config"
    options.write_text("[default]\naws_secret_access_key = b\n")
    folder = tmp_path_factory.mktemp("installation")
    given = ("--bucket", "s3://sweeps/team", "--bucket-config", str(options))
    return installed(folder, *given, beside=("deploy/bucket.yml",))


def networks(compose: dict[str, Any], service: str) -> set[str]:
    return set(compose["services"][service]["networks"])


def secrets(compose: dict[str, Any], service: str) -> set[str]:
    return {secret["source"] for secret in compose["services"][service].get("secrets", ())}


def test_without_what_init_makes_nothing_starts_and_it_says_what_to_run():
    refused = config(env_file=None)
    assert refused.returncode != 0
    assert "deploy/init" in refused.stderr


def test_one_port_is_open(compose):
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert list(published) == ["gateway"]
    (port,) = published["gateway"]
    assert (port["host_ip"], port["published"]) == ("127.0.0.1", "8080")


def test_only_the_gateway_has_a_way_out(compose):
    outward = {name for name, network in compose["networks"].items() if not network.get("internal")}
    assert outward == {"edge"}
    assert [name for name in compose["services"] if "edge" in networks(compose, name)] == ["gateway"]


def test_what_env_does_not_set_is_as_the_service_has_it_by_itself(compose, monkeypatch):
    for name in [name for name in os.environ if name.startswith("SWEEP_")]:
        monkeypatch.delenv(name)
    by_itself = Settings()
    names = {
        "api": {"SWEEP_RATE_LIMIT"},
        "dispatcher": {"SWEEP_LEASE_TTL", "SWEEP_START_GRACE", "SWEEP_MAX_RUNNING_SWEEPS", "SWEEP_LIMITS"},
    }
    for service, told in names.items():
        for name in told:
            monkeypatch.setenv(name, compose["services"][service]["environment"][name])
    assert Settings() == by_itself


def test_images_of_ours_are_nobody_elses_to_give(compose):
    images = {service["image"] for service in compose["services"].values() if "gradnorm-sweeps" in service["image"]}
    assert len(images) == 3
    assert {image.partition("/")[0] for image in images} == {"localhost"}


def test_an_image_of_others_that_would_do_with_an_empty_secret_starts_by_our_entrypoint(compose):
    grafana = compose["services"]["grafana"]
    assert grafana["entrypoint"] == ["sh", "/entrypoint.sh", "/run.sh"]
    assert "/entrypoint.sh" in {volume["target"] for volume in grafana["volumes"]}


def test_what_runs_others_code_reaches_ray_and_knows_its_token_alone(compose):
    for worker in ("ray-worker", "ray-worker-gpu"):
        assert networks(compose, worker) == {"ray"}
        assert secrets(compose, worker) == {"ray_token"}
        assert not [name for name in compose["services"][worker]["environment"] if "URL" in name or "MLFLOW" in name]


def test_ray_is_reached_by_its_nodes_alone(compose):
    nodes = {"ray-head", "ray-worker", "ray-worker-gpu", "dispatcher"}
    assert {name for name in compose["services"] if "ray" in networks(compose, name)} == nodes
    assert {name for name in compose["services"] if "ray_token" in secrets(compose, name)} == nodes


def test_nobody_has_a_secret_that_it_does_not_need(compose):
    having = {name: secrets(compose, name) for name in compose["services"] if secrets(compose, name)}
    assert having == {
        "postgres": {"postgres_password"},
        "databases": {"postgres_password", "sweep_database_password", "mlflow_database_password"},
        "setup": {"sweep_database_url", "admin_key", "metrics_key"},
        "api": {"sweep_database_url"},
        "mlflow": {"mlflow_database_url"},
        "ray-head": {"ray_token"},
        "ray-worker": {"ray_token"},
        "ray-worker-gpu": {"ray_token"},
        "dispatcher": {"sweep_database_url", "ray_token"},
        "prometheus": {"metrics_key"},
        "grafana": {"grafana_password"},
    }


def test_every_service_is_bounded_and_has_no_powers(compose):
    for name, service in compose["services"].items():
        assert int(service["mem_limit"]) > 0, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name
        assert service.get("privileged") is not True, name
        if name != "postgres":
            assert service["read_only"] is True, name


def test_every_service_that_stays_is_looked_after_and_started_again(compose):
    in_image = {"api", "ray-worker", "ray-worker-gpu"}  # their health check is the image's
    for name, service in compose["services"].items():
        if name not in ONE_SHOT:
            assert service["restart"] == "unless-stopped", name
            assert "test" in service.get("healthcheck", {}) or name in in_image, name


def test_services_wait_for_those_that_they_need_to_be_well(compose):
    wanted = {
        name: {other: need["condition"] for other, need in service.get("depends_on", {}).items()}
        for name, service in compose["services"].items()
    }
    assert set().union(*(need.values() for need in wanted.values())) == {
        "service_healthy",
        "service_completed_successfully",
    }
    assert wanted["api"] == {"setup": "service_completed_successfully"}
    assert wanted["databases"] == {"postgres": "service_healthy"}
    assert wanted["setup"] == wanted["mlflow"] == {"databases": "service_completed_successfully"}
    assert set(wanted["dispatcher"]) == {"setup", "ray-head", "mlflow"}
    for worker in ("ray-worker", "ray-worker-gpu"):  # it does not join by the terms of the version before
        assert wanted[worker] == {"dispatcher": "service_healthy"}


def test_workers_and_conductors_share_the_checkpoints(compose):
    where = {
        name: volume["target"]
        for name, service in compose["services"].items()
        for volume in service.get("volumes", ())
        if volume.get("source") == "checkpoints"
    }
    assert set(where) == {"ray-worker", "ray-worker-gpu", "dispatcher"}
    assert len(set(where.values())) == 1


def test_gpus_are_asked_for_in_their_profile_alone(compose, tmp_path):
    (device,) = compose["services"]["ray-worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert "SWEEP_NODE_GPUS" not in compose["services"]["ray-worker-gpu"]["environment"]  # Ray finds them
    assert compose["services"]["ray-worker-gpu"]["profiles"] == ["gpu"]


def test_what_is_built_for_gpus_is_told_so(compose):
    variants = {n: s["build"]["args"].get("VARIANT") for n, s in compose["services"].items() if "build" in s}
    assert variants == {"setup": None, "ray-head": None, "ray-worker-gpu": "gpu"}


def test_each_image_is_built_by_one_service(compose):
    built = [service["image"] for service in compose["services"].values() if "build" in service]
    assert len(set(built)) == len(built) == 3
    ours = {s["image"] for s in compose["services"].values() if "gradnorm-sweeps/" in s["image"]}
    assert ours == set(built)


def test_with_a_bucket_those_that_use_it_have_a_secret_and_a_way_out_and_nobody_else(compose, with_bucket):
    ways = {
        "mlflow": ({"artifacts"}, {"outward-mlflow"}),
        "dispatcher": ({"bucket"}, {"outward-control"}),
        "ray-worker": ({"bucket"}, {"outward-trials"}),
        "ray-worker-gpu": ({"bucket"}, {"outward-trials"}),
    }
    for name, service in with_bucket["services"].items():
        secret, network = ways.get(name, (set(), set()))
        assert secrets(with_bucket, name) == secrets(compose, name) | secret, name
        assert networks(with_bucket, name) == networks(compose, name) | network, name
        where = service.get("environment", {}).get("SWEEP_CHECKPOINTS")
        assert where == ("s3://sweeps/team/checkpoints" if "bucket" in secret else None), name
    assert with_bucket["services"]["mlflow"]["environment"]["MLFLOW_ARTIFACTS"] == "s3://sweeps/team/artifacts"
    assert [name for name, service in with_bucket["services"].items() if "ports" in service] == ["gateway"]


def test_with_a_bucket_too_trials_meet_nobody_but_rays_nodes(with_bucket):
    there = networks(with_bucket, "ray-worker")
    met = {name for name in with_bucket["services"] if networks(with_bucket, name) & there}
    assert met == {"ray-head", "ray-worker", "ray-worker-gpu", "dispatcher"}


def test_a_worker_that_joins_a_cluster_with_a_bucket_needs_no_folder(tmp_path):
    (tmp_path / "worker.env").write_text("SWEEP_CHECKPOINTS=unused\nSWEEP_BUCKET=s3://sweeps/team\n")
    files = [f"--file={ROOT / 'deploy' / name}" for name in ("worker.yml", "worker-bucket.yml")]
    argv = [
        COMPOSE,
        *files,
        "--profile=cpu",
        "--profile=gpu",
        f"--env-file={tmp_path / 'worker.env'}",
        "config",
        "--format=json",
    ]
    read = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert read.returncode == 0, read.stderr
    workers = json.loads(read.stdout)
    for name in ("ray-worker", "ray-worker-gpu"):
        assert networks(workers, name) == {"ray", "outward"}
        assert secrets(workers, name) == {"ray_token", "bucket"}
        environment = workers["services"][name]["environment"]
        assert environment["SWEEP_CHECKPOINTS"] == "s3://sweeps/team/checkpoints"
        assert environment["SWEEP_RAY_ADDRESS"] == "ray-head:6379"
        assert environment["SWEEP_DATA_ROOTS"] == "/data"


@pytest.mark.parametrize(("profile", "gpus"), [("cpu", 0), ("gpu", None)])
def test_a_machine_that_joins_offers_all_that_it_has_unless_it_is_told(monkeypatch, profile, gpus):
    variables = {"SWEEP_CHECKPOINTS": "/mnt/sweeps", "SWEEP_WORKER_CPUS": "", "COMPOSE_PROFILES": profile}
    argv = [COMPOSE, f"--file={ROOT / 'deploy' / 'worker.yml'}", "config", "--format=json"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("SWEEP_")} | variables
    read = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)
    assert read.returncode == 0, read.stderr
    (worker,) = json.loads(read.stdout)["services"].values()
    for name, value in worker["environment"].items():
        monkeypatch.setenv(name, value)
    node = NodeSettings()
    assert (node.cpus, node.gpus) == (None, gpus)
