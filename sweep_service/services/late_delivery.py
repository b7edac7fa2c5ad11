"""What the tracking server had not taken when a sweep ended is brought to it later."""

from __future__ import annotations

import logging
from datetime import timedelta

from sweep_service.domain.errors import LeaseLostError, StoreUnavailableError
from sweep_service.domain.trial import Lease, Sweep
from sweep_service.ports import Clock, SweepStore
from sweep_service.services.delivery import Delivery

logger = logging.getLogger(__name__)

SOONEST, LATEST = timedelta(seconds=15), timedelta(hours=1)  # until the server is tried again


def deliver_late(sweep: Sweep, *, store: SweepStore, lease: Lease, delivery: Delivery, clock: Clock) -> bool:
    """Bring the server what it lacks of the ended sweep, and tell the store; whether a fault of our own is out of the
    way. Where the server does not answer again, the next try comes when as much time has gone by again as since the
    end.

    Raises:
        LeaseLostError, StoreUnavailableError.
    """
    try:
        delivered = delivery.try_late(sweep, store.list_trials(sweep.id))
        since_end = clock.now() - (sweep.ended_at or sweep.updated_at)
        store.set_tracking_due(lease, None if delivered else min(max(since_end, SOONEST), LATEST))
    except (LeaseLostError, StoreUnavailableError):
        raise
    except Exception:  # the sweep has ended, and does not end in another way for this
        logger.exception("The late delivery of %s failed; it is tried again.", sweep.id)
        return False
    logger.info("%s: %s.", sweep.id, "all is delivered" if delivered else "the tracking server is tried later")
    return True
