"""What the Ray cluster is made of."""

from __future__ import annotations

import socket
from collections.abc import Collection, Mapping
from typing import Any

import ray
import ray._private.state

from sweep_service.domain.trial import Cluster, NodeResources
from sweep_service.ports import Clock

_PROBE_TIMEOUT_S = 1.0


def look_at_cluster(clock: Clock) -> Cluster:
    """The live nodes that trials can run on, with all that they have, busy or not."""
    nodes = [
        NodeResources(
            node=_name(node),
            cpus=float(node["Resources"].get("CPU", 0.0)),
            gpus=float(node["Resources"].get("GPU", 0.0)),
        )
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU")  # every trial needs some; a cluster's control nodes have none
    ]
    return Cluster(nodes=tuple(nodes), seen_at=clock.now())


def nodes_that_leave() -> Collection[str]:
    """The ids in Ray of nodes that have been told to end, and give what runs there some time to go elsewhere."""
    return ray._private.state.state.get_draining_nodes().keys()  # Ray has no public way to it


def name_of_node(node: str) -> str:
    """What people call the node of that id in Ray."""
    row = _row(node)
    return socket.gethostname() if row is None else _name(row)


def is_gone(node: str) -> bool:
    """Whether the node of that id in Ray is known to be gone.

    Ray itself takes a quarter of a minute to see that one has died without a word, and more if it has only fallen
    silent (tried). Where its machine lives, the port of its Ray process refuses connections at once.
    """
    row = _row(node)
    return row is None or not row["Alive"] or _refuses(str(row["NodeManagerAddress"]), int(row["NodeManagerPort"]))


def _row(node: str) -> Mapping[str, Any] | None:
    return next((row for row in ray.nodes() if row["NodeID"] == node), None)


def _name(row: Mapping[str, Any]) -> str:
    """The name that it was started with; by itself Ray calls a node by its address."""
    name = str(row.get("NodeName") or "")
    return name if name and name != row.get("NodeManagerAddress") else str(row.get("NodeManagerHostname", ""))


def _refuses(host: str, port: int) -> bool:
    """Not where nothing comes back: something on the way may keep it from us."""
    try:
        with socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S):
            return False
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
