"""Keeps a conductor's lease alive, and gives it up in time where it cannot."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sweep_service.domain.errors import LeaseLostError, StoreUnavailableError
from sweep_service.domain.trial import Lease
from sweep_service.logs import carried
from sweep_service.ports import SweepStore
from sweep_service.settings import Settings

logger = logging.getLogger(__name__)

GUARD_INTERVAL_S = 0.1
LEASE_MARGIN = 0.8  # share of the lease's time after which an unrenewed one counts as lost, before the store says so


class LeaseKeeper:
    """Two threads, which wait for nothing but the store and for ``over``: whatever else a conductor is busy with, for
    as long as it takes, it neither loses its lease nor keeps one that it has lost. ``on_loss`` is called from one of
    them.
    """

    def __init__(
        self,
        *,
        store: SweepStore,
        lease: Lease,
        settings: Settings,
        over: threading.Event,
        on_loss: Callable[[Exception], None],
    ) -> None:
        self._store = store
        self._lease = lease
        self._ttl = settings.lease_ttl
        self._pause_s = settings.poll_interval.total_seconds()  # between looks at whether it is time to renew
        self._over = over
        self._on_loss = on_loss
        self._renewed_at = time.monotonic()

    def start(self) -> None:
        """Keep it from here on. Renews it once in this thread; what the store raises then is the caller's."""
        self._renew()
        for work in (self._guard, self._keep):
            threading.Thread(target=carried(work), name=f"lease{work.__name__}", daemon=True).start()

    def _guard(self) -> None:
        """Give up a lease that could not be renewed before the store gives it to somebody else.

        A thread of its own: a call to a database that has vanished may hang for longer than the lease lasts.
        """
        margin = self._ttl.total_seconds() * LEASE_MARGIN
        while not self._over.wait(GUARD_INTERVAL_S):
            if time.monotonic() - self._renewed_at > margin:
                self._on_loss(LeaseLostError("The lease could not be renewed in time."))
                return

    def _keep(self) -> None:
        third = self._ttl.total_seconds() / 3
        while not self._over.wait(self._pause_s):
            if time.monotonic() - self._renewed_at <= third:
                continue
            try:
                self._renew()
            except LeaseLostError as error:
                self._on_loss(error)
                return
            except StoreUnavailableError:
                pass  # the watch tells of it, and the guard acts
            except Exception:
                logger.exception("The lease of %s could not be renewed.", self._lease.sweep_id)

    def _renew(self) -> None:
        asked_at = time.monotonic()
        self._store.renew_lease(self._lease, ttl=self._ttl)
        self._renewed_at = asked_at
