"""The dispatcher's side of Ray: connects to a cluster, looks at it, starts conductors in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from sweep_service.cluster_port import EndedConductor
from sweep_service.domain.errors import ClusterLostError
from sweep_service.domain.trial import Cluster, Lease
from sweep_service.execution.actor import MAX_CONCURRENT_CALLS, ConductorActor
from sweep_service.execution.nodes import look_at_cluster
from sweep_service.execution.packs import NAMESPACE
from sweep_service.ports import Clock

logger = logging.getLogger(__name__)

_NAME_PREFIX = "conductor-"


class RayConductors:
    """Conductors as detached actors of a Ray cluster. Implements :class:`sweep_service.cluster_port.Conductors`."""

    def __init__(self, *, address: str, clock: Clock) -> None:
        """Connect to a running cluster; never starts one.

        Raises:
            ClusterLostError: nothing answers there, or it refuses the token.
        """
        self._clock = clock
        self._runs: dict[Any, Lease] = {}  # reference to the answer of a conductor's run -> its lease
        try:
            # Not to_driver: each conductor's lines would be printed by whichever dispatcher started it, and by none
            # after that one's end. They are in the logs of the node, as all of Ray's.
            ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterLostError(f"No Ray cluster at {address!r}: {error}") from error

    def start(self, lease: Lease) -> None:
        """Start a conductor for the sweep of that lease. It goes on without this process."""
        name = f"{_NAME_PREFIX}{lease.sweep_id}-{lease.generation}"
        actor: Any = ray.remote(ConductorActor).options(
            name=name, lifetime="detached", num_cpus=0, max_concurrency=MAX_CONCURRENT_CALLS, max_restarts=0
        )
        handle: Any = None
        try:
            handle = actor.remote(name, lease)
            self._runs[handle.run.remote()] = lease
        except BaseException as error:
            if handle is not None:  # it would be counted among the running ones for ever
                ray.kill(handle)
            if isinstance(error, RayError):
                raise ClusterLostError(str(error)) from error
            raise
        logger.info("%s started.", name)

    def take_ended(self) -> Sequence[EndedConductor]:
        try:
            ended, _ = ray.wait(list(self._runs), num_returns=len(self._runs), timeout=0) if self._runs else ([], [])
        except (RayError, ConnectionError, RuntimeError) as error:
            raise ClusterLostError(str(error)) from error
        return [_ended(self._runs.pop(run), run) for run in ended]

    def num_running(self) -> int:
        """Conductors alive in the cluster, whoever started them."""
        try:
            names = ray.util.list_named_actors()
        except (RayError, ConnectionError, RuntimeError) as error:
            raise ClusterLostError(str(error)) from error
        return sum(1 for name in names if str(name).startswith(_NAME_PREFIX))

    def cluster(self) -> Cluster:
        """The live nodes."""
        try:
            return look_at_cluster(self._clock)
        except (RayError, ConnectionError, RuntimeError) as error:
            raise ClusterLostError(str(error)) from error

    def close(self) -> None:
        """Disconnect. Conductors go on."""
        ray.shutdown()


def _ended(lease: Lease, run: Any) -> EndedConductor:
    error, message = None, ""
    try:
        ray.get(run)
    except RayTaskError as raised:
        cause = raised.cause if isinstance(raised.cause, Exception) else raised
        error = message = f"{type(cause).__name__}: {cause}"
    except RayError as raised:  # its process has ended, of its own will or not
        message = " ".join(str(raised).split())
    return EndedConductor(lease=lease, error=error, message=message)
