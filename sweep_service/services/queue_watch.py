"""Which queued sweeps may start now, and what those are told that may not: they are passed over, and hold up nobody."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import islice

from sweep_service.domain.errors import SweepNotFoundError
from sweep_service.domain.limits import Demand, PackLimit
from sweep_service.domain.states import CONDUCTED, PASSED_OVER, SweepReason, SweepState
from sweep_service.domain.trial import Cluster
from sweep_service.ports import SweepStore
from sweep_service.services.limits import allowance_of
from sweep_service.services.outcome import unschedulable

_MOST_NAMED = 100  # sweeps that a claim may choose from: several dispatchers may want one each


class QueueWatch:
    """What a dispatcher knows of the queue. What it has not seen yet it does not let start."""

    def __init__(self, *, store: SweepStore, unschedulable_after: timedelta, limits: Collection[PackLimit]) -> None:
        self._store = store
        self._patience = unschedulable_after
        self._limits = limits
        self._cluster: Cluster | None = None
        self._unfit_since: dict[str, datetime] = {}  # sweeps that no node could hold, and when that was seen first

    def startable(self) -> Sequence[str]:
        """Sweeps of the queue that some node could hold, and that no limit leaves without a pack; in order."""
        queue = self._store.list_demands([SweepState.QUEUED])
        active = self._active(queue)
        may_start = (d.id for d in queue if self._fits(d) and not self._held_back(d, active))
        return list(islice(may_start, _MOST_NAMED))

    def look(self, cluster: Cluster) -> None:
        """Judge the queue by what the cluster has now, and tell each sweep that is passed over why."""
        self._cluster = cluster
        queue = self._store.list_demands([SweepState.QUEUED])
        active = self._active(queue)
        unfit = [demand.id for demand in queue if not self._fits(demand)]
        self._unfit_since = {i: self._unfit_since.get(i, cluster.seen_at) for i in unfit}
        for demand in queue:
            since = self._unfit_since.get(demand.id)
            if since is None:
                held_back = self._held_back(demand, active)
                self._explain(demand, SweepReason.LIMITED if held_back else None, held_back)
            elif demand.reason is SweepReason.UNSCHEDULABLE or cluster.seen_at - since >= self._patience:
                told = unschedulable(demand.resources, cluster).message
                self._explain(demand, SweepReason.UNSCHEDULABLE, f"{told} It waits for one.")

    def _active(self, queue: Sequence[Demand]) -> Sequence[Demand]:
        """Those among which packs are shared; not asked for where nobody wants to know."""
        return self._store.list_demands(CONDUCTED) if queue and self._limits else ()

    def _fits(self, demand: Demand) -> bool:
        wanted = demand.resources
        return self._cluster is None or self._cluster.can_ever_hold(cpus=wanted.cpus, gpus=wanted.gpus)

    def _held_back(self, demand: Demand, active: Sequence[Demand]) -> str:
        """What leaves it without a pack, were it to start; empty: nothing."""
        allowance = allowance_of(demand.id, [*active, demand], self._limits)
        return "" if allowance.most else allowance.told

    def _explain(self, demand: Demand, reason: SweepReason | None, message: str) -> None:
        is_so = demand.reason not in PASSED_OVER if reason is None else demand.reason is reason
        if not is_so or (reason is not None and demand.message != message):
            with suppress(SweepNotFoundError):  # ended and deleted meanwhile
                self._store.explain_wait(demand.id, reason, message)
