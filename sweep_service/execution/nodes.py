"""What the Ray cluster is made of."""

from __future__ import annotations

import ray

from sweep_service.domain.trial import Cluster, NodeResources
from sweep_service.ports import Clock


def look_at_cluster(clock: Clock) -> Cluster:
    """The live nodes with all that they have, busy or not."""
    nodes = [
        NodeResources(
            node=str(node.get("NodeManagerHostname", "")),
            cpus=float(node["Resources"].get("CPU", 0.0)),
            gpus=float(node["Resources"].get("GPU", 0.0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return Cluster(nodes=tuple(nodes), seen_at=clock.now())
