"""How a node of a cluster is started, and what it refuses. Whole nodes are in the end-to-end tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from sweep_service.node import EXIT_CONFIG, NodeError, NodeKind, NodeSettings, ray_command
from sweep_service.ray_node import CONTROL_RESOURCE
from sweep_service.settings import Settings

HEAD = Settings(ray_address="127.0.0.1:6379")


def options(kind: NodeKind, **node) -> dict[str, str]:
    argv = ray_command(kind, HEAD, NodeSettings(**node))
    return dict(option.partition("=")[::2] for option in argv if option.startswith("--"))


def test_nothing_trains_on_the_head_and_on_control_nodes():
    for kind in (NodeKind.HEAD, NodeKind.CONTROL):
        assert (options(kind, cpus=8, gpus=1)["--num-cpus"], options(kind)["--num-gpus"]) == ("0", "0")


def test_conductors_may_run_on_control_nodes_alone():
    offering = {kind: json.loads(options(kind).get("--resources", "{}")) for kind in NodeKind}
    assert offering == {NodeKind.HEAD: {}, NodeKind.WORKER: {}, NodeKind.CONTROL: {CONTROL_RESOURCE: 1}}


def test_a_worker_offers_what_it_is_told_or_what_ray_finds():
    told = options(NodeKind.WORKER, cpus=3, gpus=2)
    assert (told["--num-cpus"], told["--num-gpus"]) == ("3", "2")
    assert not {"--num-cpus", "--num-gpus"} & set(options(NodeKind.WORKER))


def test_what_is_set_to_nothing_is_for_ray_to_find_out(monkeypatch):
    for name in ("SWEEP_NODE_CPUS", "SWEEP_NODE_GPUS"):  # as compose passes on what nobody has set
        monkeypatch.setenv(name, "")
    assert not {"--num-cpus", "--num-gpus"} & set(options(NodeKind.WORKER))


def test_every_port_of_a_node_is_a_known_one():
    for kind in NodeKind:
        found = options(kind)
        ports = [value for name, value in found.items() if name.endswith("-port")]
        assert len(ports) == len(set(ports))
        assert {"--node-manager-port", "--object-manager-port", "--min-worker-port", "--max-worker-port"} <= set(found)


def test_a_node_is_reached_by_the_address_that_it_has_towards_the_head():
    assert options(NodeKind.CONTROL)["--node-ip-address"] == "127.0.0.1"
    assert options(NodeKind.WORKER, address="10.0.0.7")["--node-ip-address"] == "10.0.0.7"


@pytest.mark.parametrize("address", ["auto", "ray-head", "ray-head:", ":6379x"])
def test_the_heads_address_must_be_one(address):
    with pytest.raises(NodeError, match="SWEEP_RAY_ADDRESS"):
        ray_command(NodeKind.WORKER, Settings(ray_address=address), NodeSettings())


def test_a_head_that_no_name_leads_to_is_named():
    with pytest.raises(NodeError, match=r"no-such-host\.invalid"):
        ray_command(NodeKind.WORKER, Settings(ray_address="no-such-host.invalid:6379"), NodeSettings())


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("SWEEP_", "RAY_"))}
    return subprocess.run(
        [sys.executable, "-m", "sweep_service.node", *arguments],
        env={**env, "SWEEP_RAY_ADDRESS": "127.0.0.1:1", **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("text", [None, "", " \n"])
@pytest.mark.parametrize("kind", NodeKind)
def test_no_node_starts_without_rays_token(tmp_path, kind, text):
    variables = {}
    if text is not None:
        (tmp_path / "token").write_text(text)
        variables = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    refused = run(kind, **variables)
    assert refused.returncode == EXIT_CONFIG
    assert "deploy/init" in refused.stderr


def test_a_control_node_never_makes_do_with_a_store_of_its_own():
    refused = run("control", RAY_AUTH_TOKEN="t" * 64)
    assert refused.returncode == EXIT_CONFIG
    assert "SWEEP_DATABASE_URL" in refused.stderr


@pytest.mark.parametrize("arguments", [[], ["boss"], ["head", "worker"]])
def test_the_kind_of_a_node_must_be_one(arguments):
    refused = run(*arguments)
    assert refused.returncode == EXIT_CONFIG
    assert "head|worker|control" in refused.stderr
