"""What deploy/open-cluster hands over and deploy/join-worker.sh makes of it, with a docker that only keeps what it is
told. Where an engine is there, test_joining_machines.py has the whole way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = (
    "[default]\nendpoint_url = http://store:9000\naws_access_key_id = a=b\\nc\n\naws_secret_access_key = \\\\d/+ e\n"
)
DOCKER = """#!/bin/sh
echo "$PWD: $*" >>"$DOCKER_LOG"
case "$*" in
*Swarm.LocalNodeState*) cat "$DOCKER_LOG.state" 2>/dev/null || echo inactive ;;
"swarm init"* | "swarm join --"*) echo active >"$DOCKER_LOG.state" ;;
"swarm join-token"*) echo SWMTKN-1-x ;;
"network inspect"*) cat "$DOCKER_LOG.network" 2>/dev/null || exit 1 ;;
"volume inspect"*) [ -e "$DOCKER_LOG.stranded" ] ;;
"compose run"*) echo stranded ;;
esac
"""


class Machine:
    """A checkout, and the docker of its machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "docker").write_text(DOCKER)
        (folder / "bin" / "docker").chmod(0o755)
        (folder / "deploy").mkdir()
        for name in ("init", "open-cluster", "join-worker.sh"):
            shutil.copy(ROOT / "deploy" / name, folder / "deploy" / name)

    def run(self, *argv: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "DOCKER_LOG": str(self.folder / "told")}
        return subprocess.run(
            argv, cwd=folder or self.folder, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    def told(self) -> str:
        return (self.folder / "told").read_text()

    def variables(self, path: str) -> dict[str, str]:
        lines = (self.folder / path).read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture
def first(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "first")


@pytest.fixture
def second(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "second")


@pytest.fixture
def with_bucket(first: Machine) -> Machine:
    (first.folder / "config").write_text(CONFIG)
    made = first.run("deploy/init", "--bucket", "s3://sweeps/team", "--bucket-config", "config")
    assert made.returncode == 0, made.stderr
    with (first.folder / ".env").open("a") as env:
        env.write("SWEEP_BUCKET_CHECKSUMS=when_supported\n")
    return first


def handed_over(first: Machine, second: Machine) -> None:
    """The file of terms, to where the second machine's user has it."""
    shutil.copy(first.folder / "deploy" / "secrets" / "join", second.folder / "terms")


def test_a_machine_joins_a_cluster_with_a_bucket_and_gets_its_address_and_secret_as_they_are(with_bucket, second):
    opened = with_bucket.run("deploy/open-cluster", "10.0.0.5")
    assert opened.returncode == 0, opened.stderr
    assert "deploy/join-worker.sh 10.0.0.5 --join FILE [--gpus all]" in opened.stdout
    assert with_bucket.variables(".env")["COMPOSE_FILE"] == "docker-compose.yml:deploy/bucket.yml:deploy/cluster.yml"
    handed_over(with_bucket, second)
    joined = second.run("deploy/join-worker.sh", "10.0.0.5", "--join", "terms", "--gpus", "none")  # a relative path
    assert joined.returncode == 0, joined.stderr
    secrets = second.folder / "deploy" / "secrets"
    assert (secrets / "bucket").read_text() == CONFIG
    token = (with_bucket.folder / "deploy" / "secrets" / "ray_token").read_text()
    assert (secrets / "ray_token").read_text() == token
    assert {path.name for path in secrets.iterdir()} == {"bucket", "ray_token"}
    made = second.variables("deploy/.env")
    assert made["COMPOSE_FILE"] == "worker.yml:worker-bucket.yml"
    assert (made["SWEEP_BUCKET"], made["SWEEP_BUCKET_CHECKSUMS"]) == ("s3://sweeps/team", "when_supported")
    assert "swarm join --token SWMTKN-1-x 10.0.0.5:2377" in second.told()
    assert f"{second.folder / 'deploy'}: compose up --detach --wait" in second.told()


def test_a_machine_may_join_again_and_keeps_what_else_is_set(with_bucket, second):
    with_bucket.run("deploy/open-cluster", "10.0.0.5")
    handed_over(with_bucket, second)
    (second.folder / "deploy" / ".env").write_text("SWEEP_DATA=/mnt/data\nSWEEP_WORKER_CPUS=3\n")
    for cpus in ("1", "2"):
        options = ["--join", "terms", "--gpus", "none", "--cpus", cpus]
        joined = second.run("deploy/join-worker.sh", "10.0.0.5", *options)
        assert joined.returncode == 0, joined.stderr
    made = second.variables("deploy/.env")
    assert (made["SWEEP_DATA"], made["SWEEP_WORKER_CPUS"]) == ("/mnt/data", "2")
    assert second.told().count("swarm join --token") == 1


def test_a_cluster_with_folders_hands_over_no_bucket(first, second, tmp_path):
    first.run("deploy/init")
    shared = tmp_path / "shared"
    shared.mkdir()
    assert first.run("deploy/open-cluster", "10.0.0.5", "--checkpoints", str(shared)).returncode == 0
    assert "BUCKET" not in (first.folder / "deploy" / "secrets" / "join").read_text()
    handed_over(first, second)
    options = ["--join", "terms", "--gpus", "none", "--checkpoints", str(shared)]
    refused = second.run("deploy/join-worker.sh", "10.0.0.5", *options)
    assert refused.returncode == 2
    assert ".cluster.json is not in it" in refused.stderr
    assert not (second.folder / "deploy" / ".env").exists()
    (shared / ".cluster.json").write_text("{}")
    assert second.run("deploy/join-worker.sh", "10.0.0.5", *options).returncode == 0
    assert second.variables("deploy/.env")["SWEEP_CHECKPOINTS"] == str(shared)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--checkpoints", "/tmp"], "leave --checkpoints out"),
        ([], ""),
    ],
)
def test_with_a_bucket_a_folder_is_refused(with_bucket, options, word):
    opened = with_bucket.run("deploy/open-cluster", "10.0.0.5", *options)
    assert (opened.returncode, word in opened.stderr) == (2 if word else 0, True)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ([], "--checkpoints FOLDER is needed"),
        (["--checkpoints", "x"], "absolute"),
        (["--checkpoints", "/no/x"], "/no/x"),
    ],
)
def test_without_a_bucket_the_folder_has_to_be_one(first, options, word):
    first.run("deploy/init")
    refused = first.run("deploy/open-cluster", "10.0.0.5", *options)
    assert refused.returncode == 2
    assert word in refused.stderr
    assert not (first.folder / "told").exists(), "nothing has been asked of docker"


@pytest.mark.parametrize("where", ["volume", "folder"])
def test_checkpoints_of_today_are_not_left_behind(first, tmp_path, where):
    first.run("deploy/init")
    if where == "volume":
        (first.folder / "told.stranded").touch()
    else:
        with (first.folder / ".env").open("a") as env:
            env.write("SWEEP_CHECKPOINTS=/mnt/old\n")
    shared = tmp_path / "shared"
    shared.mkdir()
    refused = first.run("deploy/open-cluster", "10.0.0.5", "--checkpoints", str(shared))
    assert refused.returncode == 2
    assert f"{shared} has none; nothing was changed" in refused.stderr
    assert "COMPOSE_FILE" not in first.variables(".env")
    assert "network create" not in first.told()


@pytest.mark.parametrize(
    ("network", "options", "is_taken"),
    [
        ("overlay true true encrypted vxlanid_list", [], True),
        ("overlay true true vxlanid_list", [], False),
        ("overlay true true vxlanid_list", ["--unencrypted"], True),
        ("overlay true true vxlanid_list encrypted", ["--unencrypted"], False),
        ("overlay false true encrypted", [], False),
        ("bridge true false", ["--unencrypted"], False),
    ],
)
def test_a_network_that_is_there_already_is_taken_only_if_it_is_as_asked(first, tmp_path, network, options, is_taken):
    first.run("deploy/init")
    (first.folder / "told.network").write_text(network)
    opened = first.run("deploy/open-cluster", "10.0.0.5", "--checkpoints", str(tmp_path), *options)
    assert opened.returncode == (0 if is_taken else 2), opened.stderr
    assert is_taken or "docker network rm gradnorm-sweeps-ray" in opened.stderr
    assert "network create" not in first.told()
