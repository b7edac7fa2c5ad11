"""The dispatcher: publishes what can be trained and on what, claims sweeps that wait and starts their conductors."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, suppress
from datetime import timedelta

from sweep_service.cluster_port import Conductors, EndedConductor
from sweep_service.domain.errors import IllegalMoveError, LeaseLostError, StoreUnavailableError, SweepNotFoundError
from sweep_service.domain.limits import PackLimit
from sweep_service.domain.states import SweepReason, SweepState
from sweep_service.domain.trial import Lease
from sweep_service.logs import log_context
from sweep_service.ports import SweepStore
from sweep_service.services.outcome import cancel_unfinished
from sweep_service.services.queue_watch import QueueWatch
from trainables.catalog import Trainable

logger = logging.getLogger(__name__)

CLUSTER_INTERVAL_S = 5.0  # between looks at the cluster's nodes
LATE_RETRY = timedelta(minutes=10)  # after a conductor that was to deliver what is late could not start, or died
MAX_FAILED_STARTS = 3  # of one sweep, after which it is the sweep that is given up


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
        unschedulable_after: timedelta,
        limits: Collection[PackLimit] = (),
    ) -> None:
        self._store = store
        self._conductors = conductors
        self._trainables = trainables
        self._owner = owner
        self._start_grace = start_grace
        self._poll_interval = poll_interval
        self._max_running = max_running_sweeps
        self._queue = QueueWatch(store=store, unschedulable_after=unschedulable_after, limits=limits)
        self._looked_at: float | None = None
        self._is_published = False  # the catalogue, as it is known now
        self._ended: list[EndedConductor] = []  # conductors that are gone and not settled yet
        self._failed_starts: Counter[str] = Counter()  # in a row, by sweep
        self._late: Lease | None = None  # of the ended sweep whose results are being brought to the tracking server

    def run(self, ended: threading.Event) -> None:
        """Dispatch until the event is set.

        Raises:
            ClusterLostError: the cluster is gone; a new dispatcher must connect anew.
        """
        while not ended.is_set():
            try:
                if not self._is_published:
                    self._store.publish_catalog(self._trainables)
                    self._is_published = True
                has_looked = self._look_now_and_then()
                self.settle_ended()
                while not ended.is_set() and self.dispatch_one():
                    pass
                if has_looked and not ended.is_set():  # as rarely, and after whoever waits in the queue
                    self.deliver_late()
                self._take_examined()
            except StoreUnavailableError as error:
                logger.warning("The store does not answer; trying again. %s", error)
            ended.wait(self._poll_interval.total_seconds())

    def _take_examined(self) -> None:
        """Have the catalogue published again when more is known of what can be trained together."""
        found = self._conductors.examined(self._trainables)
        if found:
            self._trainables = [
                t.model_copy(update={"not_fused_because": found[t.name]}) if t.name in found else t
                for t in self._trainables
            ]
            self._is_published = False

    def dispatch_one(self) -> bool:
        """Claim one sweep and start its conductor; False if none waits. Where no more may run, only one that is to end
        or to rest, which takes no worker for long.
        """
        is_full = self._conductors.num_running() >= self._max_running
        queued = () if is_full else self._queue.startable()
        lease = self._store.claim_sweep(
            owner=self._owner, ttl=self._start_grace, winding_up_only=is_full, queued=queued
        )
        if lease is None:
            return False
        with _log_context(lease):
            logger.info("Claimed %s, generation %d.", lease.sweep_id, lease.generation)
            self._start(lease)
        return True

    def settle_ended(self) -> None:
        """Let a sweep whose conductor could not start be claimed again at once; give it up after a few times.

        A conductor that ran and died is none of that: its lease runs out, and the next generation goes on.
        """
        self._ended += self._conductors.take_ended()
        while self._ended:
            with _log_context(self._ended[0].lease):
                self._settle(self._ended[0])
            del self._ended[0]  # only now: the store may fail in between

    def deliver_late(self) -> bool:
        """Have somebody bring to the tracking server what it had not taken of a sweep when that ended; False: there is
        no such sweep, or no room. One sweep at a time: after the server was away for a day there may be many.
        """
        if self._late is not None or self._conductors.num_running() >= self._max_running:
            return False
        lease = self._store.claim_late(owner=self._owner, ttl=self._start_grace)
        if lease is None:
            return False
        with _log_context(lease):
            logger.info("Claimed %s, which has ended, for the tracking server.", lease.sweep_id)
            self._start(lease)
        self._late = lease
        return True

    def _start(self, lease: Lease) -> None:
        try:
            self._conductors.start(lease)
        except BaseException:
            self._store.release_lease(lease)  # or everybody waits for it to run out
            raise

    def _settle(self, ended: EndedConductor) -> None:
        if ended.lease == self._late:
            self._settle_late(ended)
            return
        try:
            sweep = self._store.get_sweep(ended.lease.sweep_id)
        except SweepNotFoundError:  # it ended, and somebody has deleted it since
            self._failed_starts.pop(ended.lease.sweep_id, None)
            return
        # A sweep that rests may be resumed, and have a conductor again, before anybody asks for this one.
        is_another = sweep.generation != ended.lease.generation or sweep.state is SweepState.QUEUED
        needs_nobody = sweep.state.is_ended or sweep.state is SweepState.PAUSED or is_another
        never_ran = ended.error is not None or sweep.state is SweepState.STARTING
        if needs_nobody or not never_ran:
            self._failed_starts.pop(sweep.id, None)
            if not needs_nobody:
                logger.warning("The conductor of %s is gone; its lease runs out. %s", sweep.id, ended.message)
            return
        self._failed_starts[sweep.id] += 1
        logger.error("The conductor of %s could not start: %s", sweep.id, ended.message)
        with suppress(LeaseLostError):  # it is somebody else's by now
            if self._failed_starts[sweep.id] >= MAX_FAILED_STARTS:
                self._give_up(ended)
            self._store.release_lease(ended.lease)

    def _settle_late(self, ended: EndedConductor) -> None:
        """One that has done its work has released its lease; what another one could not do is tried again later."""
        with suppress(LeaseLostError):
            self._store.set_tracking_due(ended.lease, LATE_RETRY)
            self._store.release_lease(ended.lease)
            sweep_id = ended.lease.sweep_id
            logger.warning("The late delivery of %s has failed; it is tried again. %s", sweep_id, ended.message)
        self._late = None

    def _give_up(self, ended: EndedConductor) -> None:
        lease = ended.lease
        cancel_unfinished(self._store, lease, message="The sweep failed.")
        if self._store.get_sweep(lease.sweep_id).tracking_ref is not None:  # of a generation before
            self._store.set_tracking_due(lease, timedelta(0))
        message = f"Its conductor could not start {self._failed_starts[lease.sweep_id]} times: {ended.message}"
        try:
            self._store.move_sweep(lease, SweepState.FAILED, reason=SweepReason.ERROR, message=message)
        except IllegalMoveError:  # only one that is being cancelled cannot fail
            self._store.move_sweep(lease, SweepState.CANCELLED)

    def _look_now_and_then(self) -> bool:
        """Whether it was time to."""
        now = time.monotonic()
        if self._looked_at is not None and now - self._looked_at < CLUSTER_INTERVAL_S:
            return False
        self.look()
        self._looked_at = now
        return True

    def look(self) -> None:
        """See what the cluster has, and tell the sweeps that wait for more."""
        cluster = self._conductors.cluster()
        self._store.publish_cluster(cluster)
        self._queue.look(cluster)
        self._conductors.prepare()


def _log_context(lease: Lease) -> AbstractContextManager[None]:
    return log_context(sweep_id=lease.sweep_id, generation=lease.generation)
