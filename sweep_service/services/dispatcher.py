"""The dispatcher: publishes what can be trained and on what, claims sweeps that wait and starts their conductors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from datetime import timedelta

from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.ports import Conductors, SweepStore
from trainables.catalog import Trainable

logger = logging.getLogger(__name__)

CLUSTER_INTERVAL_S = 5.0  # between looks at the cluster's nodes


class Dispatcher:
    """Claims sweeps and starts a conductor for each. Several may run at once: the store gives a sweep to one of them.

    A conductor that dies leaves a lease that runs out; the sweep can then be claimed again, by any dispatcher. The
    first lease is long enough for a process to start, load its libraries and renew it.
    """

    def __init__(
        self,
        *,
        store: SweepStore,
        conductors: Conductors,
        trainables: Sequence[Trainable],
        owner: str,
        start_grace: timedelta,
        poll_interval: timedelta,
        max_running_sweeps: int,
    ) -> None:
        self._store = store
        self._conductors = conductors
        self._trainables = trainables
        self._owner = owner
        self._start_grace = start_grace
        self._poll_interval = poll_interval
        self._max_running = max_running_sweeps
        self._looked_at: float | None = None

    def run(self, ended: threading.Event) -> None:
        """Dispatch until the event is set.

        Raises:
            ClusterLostError: the cluster is gone; a new dispatcher must connect anew.
        """
        published = False
        while not ended.is_set():
            try:
                if not published:
                    self._store.publish_catalog(self._trainables)
                    published = True
                self._look()
                while not ended.is_set() and self.dispatch_one():
                    pass
            except StoreUnavailableError as error:
                logger.warning("The store does not answer; trying again. %s", error)
            ended.wait(self._poll_interval.total_seconds())

    def dispatch_one(self) -> bool:
        """Claim one sweep and start its conductor; False if none waits, or no more may run."""
        if self._conductors.num_running() >= self._max_running:
            return False
        lease = self._store.claim_sweep(owner=self._owner, ttl=self._start_grace)
        if lease is None:
            return False
        logger.info("Claimed %s, generation %d.", lease.sweep_id, lease.generation)
        try:
            self._conductors.start(lease)
        except BaseException:
            self._store.release_lease(lease)  # or everybody waits for it to run out
            raise
        return True

    def _look(self) -> None:
        now = time.monotonic()
        if self._looked_at is None or now - self._looked_at >= CLUSTER_INTERVAL_S:
            self._store.publish_cluster(self._conductors.cluster())
            self._looked_at = now
