"""A node of a cluster, as its container runs it: ``python -m sweep_service.node head|worker|control``.

- *head*: where Ray keeps what it knows of the cluster; nothing else runs there.
- *worker*: where trials train. It knows no credentials but Ray's token.
- *control*: where the dispatcher and the conductors run. The credentials of the store and of MLflow are in its
  environment alone (or in its folder of secrets), and no trial is placed there. An author's code that means to gets
  there all the same: it has Ray's token, and asks Ray.

On one machine ``sweep up`` is all of them.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from sweep_service.checkpoint_files import checkpoint_files
from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.clock import SystemClock
from sweep_service.domain.errors import CheckpointsUnavailableError, StoreUnavailableError
from sweep_service.launcher import dispatcher_child, listens
from sweep_service.logs import configure_logging
from sweep_service.membership import NoTermsError, UnfitNodeError, check_terms, package_versions, write_terms
from sweep_service.ports import SweepStore
from sweep_service.ray_node import CONTROL_RESOURCE, RAY_ENVIRONMENT, start_command
from sweep_service.settings import Settings
from sweep_service.storage.sql import open_sql_store
from sweep_service.supervisor import Child, ChildFailedError, EndRequestedError, EndSignals, Supervisor
from trainables.catalog import ENTRY_POINT_GROUP

logger = logging.getLogger(__name__)

EXIT_CONFIG = 78  # EX_CONFIG: what it is told is wrong; to start it again does not help
EXIT_FAILED = 1
# Each of Ray's ports is a fixed one: a firewall between machines has to know them.
NODE_MANAGER_PORT = 6380
OBJECT_MANAGER_PORT = 6381
AGENT_PORTS = (
    "--dashboard-agent-listen-port=6382",
    "--dashboard-agent-grpc-port=6383",
    "--runtime-env-agent-port=6384",
    "--metrics-export-port=6385",
)
WORKER_PORTS = (10002, 10999)
OBJECT_STORE_BYTES = 200_000_000  # of shared memory; what passes between processes here is small
TERMS_WITHIN_S = 300.0  # for the control node to come up for the first time
TELL_AFTER_S = 10.0  # that a worker waits for it
TEND_INTERVAL_S = 0.5
LOOK_INTERVAL_S = 5.0  # between looks at whether the dispatcher does its work
SEEN_WITHIN_S = 30.0  # it looks at the cluster more often than that


class NodeKind(StrEnum):
    HEAD = "head"
    WORKER = "worker"
    CONTROL = "control"


class NodeSettings(BaseSettings):
    """What is set for a node alone, from ``SWEEP_NODE_*``."""

    model_config = SettingsConfigDict(env_prefix="SWEEP_NODE_", env_ignore_empty=True, frozen=True, extra="ignore")

    cpus: int | None = Field(default=None, ge=1, description="For trials; those of the machine if not given.")
    gpus: int | None = Field(default=None, ge=0, description="For trials; those that are there if not given.")
    address: str = Field(default="", description="By which the others reach this node; found out if empty.")
    alive_file: Path = Field(
        default=Path("/tmp/alive"),  # noqa: S108 - in a container, where nobody else is
        description="Touched every few seconds while the dispatcher of a control node does its work.",
    )


class NodeError(Exception):
    """The node cannot run as it is told; the message says what to do."""


def main(arguments: Sequence[str]) -> int:
    """Run a node until it is told to end. Exits with EXIT_CONFIG where what it is told cannot be done."""
    try:
        (kind,) = map(NodeKind, arguments)
    except ValueError:
        sys.stderr.write(f"Usage: python -m sweep_service.node {'|'.join(NodeKind)}\n")
        return EXIT_CONFIG
    settings, node = Settings(), NodeSettings()
    configure_logging(settings, "node")
    os.environ.update({name: value for name, value in RAY_ENVIRONMENT.items() if name not in os.environ})
    try:
        token = _read_token()
        if kind is NodeKind.WORKER:
            _await_terms(checkpoint_files(), settings.checkpoint_root, token)
        argv = ray_command(kind, settings, node)
        if kind is not NodeKind.CONTROL:
            os.execv(argv[0], argv)  # noqa: S606 - it takes this one's place, and hears the signals itself
        return _run_control_node(argv, settings, node, token)
    except (NodeError, UnfitNodeError) as error:
        logger.error("%s", error)
        return EXIT_CONFIG
    except (ChildFailedError, CheckpointsUnavailableError) as error:
        logger.error("%s", error)
        return EXIT_FAILED


def ray_command(kind: NodeKind, settings: Settings, node: NodeSettings) -> tuple[str, ...]:
    """The command that starts this node of Ray, in the foreground.

    Raises:
        NodeError: the head's address is none.
    """
    ports = (
        f"--node-manager-port={NODE_MANAGER_PORT}",
        f"--object-manager-port={OBJECT_MANAGER_PORT}",
        f"--min-worker-port={WORKER_PORTS[0]}",
        f"--max-worker-port={WORKER_PORTS[1]}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        *AGENT_PORTS,
    )
    host, port = _host_and_port(settings.ray_address)
    if kind is NodeKind.HEAD:
        address = node.address or socket.gethostbyname(socket.gethostname())
        head = ("--head", f"--port={port}", "--include-dashboard=false", f"--node-ip-address={address}")
        return start_command(*head, *ports, num_cpus=0, num_gpus=0)
    joining = (f"--address={host}:{port}", f"--node-ip-address={node.address or _address_towards(host, port)}")
    if kind is NodeKind.CONTROL:
        return start_command(*joining, *ports, num_cpus=0, num_gpus=0, resources={CONTROL_RESOURCE: 1})
    return start_command(*joining, *ports, num_cpus=node.cpus, num_gpus=node.gpus)


def _read_token() -> str:
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    token = Path(path).read_text() if path and Path(path).is_file() else os.environ.get("RAY_AUTH_TOKEN", "")
    if not token.strip():
        raise NodeError("Ray's token is missing: whoever reaches Ray could run code here. Run deploy/init.")
    return token.strip()


def _await_terms(files: CheckpointFiles, root: str, token: str) -> None:
    """Raises UnfitNodeError unless this node may join; NoTermsError where the control node does not say so in time."""
    versions = package_versions(ENTRY_POINT_GROUP)
    started, has_told = time.monotonic(), False
    while True:
        try:
            check_terms(files, root, token, versions)
            return
        except NoTermsError as error:
            waited = time.monotonic() - started
            if waited > TERMS_WITHIN_S:
                raise
            if waited > TELL_AFTER_S and not has_told:
                logger.warning("Waiting for the control node. %s", error)
                has_told = True
        time.sleep(TEND_INTERVAL_S)


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise NodeError(f"SWEEP_RAY_ADDRESS is {address!r}; it has to be the head's host:port, such as ray-head:6379.")
    return host, int(port)


def _address_towards(host: str, port: int) -> str:
    """This node's address in the network that the head is in: a control node is in others as well.

    Raises:
        NodeError: there is no way to the head.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))  # of this kind of socket: sends nothing, but chooses the way
            return probe.getsockname()[0]
    except OSError as error:
        raise NodeError(f"There is no way to the head of the cluster, {host}: {error.strerror or error}.") from error


def _run_control_node(ray_argv: Sequence[str], settings: Settings, node: NodeSettings, token: str) -> int:
    if not settings.database_url or not settings.mlflow_tracking_uri:
        raise NodeError("A control node needs SWEEP_DATABASE_URL and SWEEP_MLFLOW_TRACKING_URI; run deploy/init.")
    store = open_sql_store(settings.store_url)
    root = settings.checkpoint_root
    try:
        write_terms(checkpoint_files(), root, token, package_versions(ENTRY_POINT_GROUP))
    except OSError as error:
        raise NodeError(f"{root} cannot be written to: {error}.") from error
    ray = Child(name="ray", argv=ray_argv, env={}, is_ready=lambda: listens(NODE_MANAGER_PORT), ready_within_s=120.0)
    with EndSignals() as signals, Supervisor(log_dir=None, signals=signals) as supervisor:
        try:
            supervisor.start(ray)
            supervisor.start(dispatcher_child(store, SystemClock(), {}, settings))
            logger.info("The control node is up.")
            _tend(supervisor, signals, store, node.alive_file)
        except EndRequestedError:
            logger.info("Ending.")
    return 0


def _tend(supervisor: Supervisor, signals: EndSignals, store: SweepStore, alive_file: Path) -> None:
    """Until a signal comes, which raises EndRequestedError: restart what dies, and note that the dispatcher works."""
    looked_at = -LOOK_INTERVAL_S
    while True:
        signals.check()
        supervisor.tend()
        if time.monotonic() - looked_at >= LOOK_INTERVAL_S:
            looked_at = time.monotonic()
            if _dispatcher_works(store):
                alive_file.touch()
        time.sleep(TEND_INTERVAL_S)


def _dispatcher_works(store: SweepStore) -> bool:
    try:
        cluster = store.read_cluster()
    except StoreUnavailableError as error:
        logger.warning("The store does not answer: %s", error)
        return False
    return cluster is not None and (SystemClock().now() - cluster.seen_at).total_seconds() < SEEN_WITHIN_S


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
