"""Whether a cluster has a node that could hold a pack: nodes may still be joining when a sweep is started."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from sweep_service.domain.errors import ClusterLostError
from sweep_service.domain.resources import Resources
from sweep_service.domain.trial import Cluster
from sweep_service.services.outcome import Outcome, unschedulable

logger = logging.getLogger(__name__)

LOOK_INTERVAL_S = 1.0  # between looks at a cluster that has no node for the sweep


def await_room(
    wanted: Resources,
    *,
    name: str,
    look: Callable[[], Cluster],
    within: timedelta,
    is_over: Callable[[], bool],
    rest: Callable[[float], object],
) -> Outcome | None:
    """Wait for a node that could hold a pack if it were idle. None: there is one, or the sweep is over; else how it
    ends. ``name`` is the conductor's; ``rest`` sleeps for so many seconds.
    """
    deadline = time.monotonic() + within.total_seconds()
    while True:
        try:
            cluster = look()
        except ClusterLostError as error:  # for a moment, or this process would be gone as well
            logger.warning("%s: the cluster's nodes cannot be listed. %s", name, error)
            cluster = Cluster(nodes=(), seen_at=datetime.now(UTC))
        if cluster.can_ever_hold(cpus=wanted.cpus, gpus=wanted.gpus) or is_over():
            return None
        if time.monotonic() >= deadline:
            return unschedulable(wanted, cluster)
        rest(LOOK_INTERVAL_S)
