"""The dispatcher process: ``python -m sweep_service.worker``."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import timedelta

from sweep_service.clock import SystemClock
from sweep_service.domain.errors import ClusterLostError
from sweep_service.execution.cluster import RayConductors
from sweep_service.logs import configure_logging
from sweep_service.services.dispatcher import Dispatcher
from sweep_service.settings import Settings
from sweep_service.storage.sql import open_sql_store
from sweep_service.supervisor import EndSignals
from trainables.catalog import load_catalog

logger = logging.getLogger(__name__)

EXIT_CLUSTER_LOST = 75  # EX_TEMPFAIL: start me again
FAREWELL_S = 8.0  # beyond the time for draining: to end what it was doing, and to disconnect
LOOK_INTERVAL_S = 0.1  # between looks at whether a signal has come


def main() -> int:
    """Dispatch until SIGTERM, then have the conductors let go of their sweeps.

    Exits with EXIT_CLUSTER_LOST when Ray is gone, for a supervisor to start it again.
    """
    settings = Settings()
    configure_logging(settings, "dispatcher")
    store = open_sql_store(settings.store_url)
    store.check_ready()
    try:
        conductors = RayConductors(address=settings.ray_address, clock=SystemClock())
    except ClusterLostError as error:
        return _cluster_lost(error)
    dispatcher = Dispatcher(
        store=store,
        conductors=conductors,
        trainables=list(load_catalog().values()),
        owner=f"{socket.gethostname()}:{os.getpid()}",
        start_grace=settings.start_grace,
        poll_interval=settings.poll_interval,
        max_running_sweeps=settings.max_running_sweeps,
        unschedulable_after=settings.unschedulable_after,
        limits=settings.limits,
    )
    # Calls into a Ray that has died last a minute, and no signal is heard in them: the main thread makes none.
    ended = threading.Event()
    with EndSignals() as signals, ThreadPoolExecutor(max_workers=1, thread_name_prefix="dispatcher") as threads:
        work = threads.submit(_dispatch, dispatcher, conductors, ended, settings.drain_grace)
        while signals.number is None and not work.done():
            wait([work], timeout=LOOK_INTERVAL_S)
        ended.set()
        wait([work], timeout=settings.drain_grace.total_seconds() + FAREWELL_S)
        if not work.done():
            logger.error("Not ended in time; if Ray has died, its answer may take another minute. Conductors go on.")
            logging.shutdown()
            os._exit(EXIT_CLUSTER_LOST)  # nothing else ends a thread that is in such a call
        return work.result()


def _dispatch(dispatcher: Dispatcher, conductors: RayConductors, ended: threading.Event, drain_grace: timedelta) -> int:
    """Until ``ended`` is set; then drain. Returns the exit status."""
    try:
        logger.info("Dispatching.")
        dispatcher.run(ended)
        # Its sweeps go on where their trials leave off, with the next dispatcher: after an upgrade, in its code.
        left = conductors.drain(drain_grace)
        if left:
            logger.warning("Not drained in time: %s.", ", ".join(left))
        conductors.close()
        logger.info("Ended.")
    except ClusterLostError as error:
        return _cluster_lost(error)
    return 0


def _cluster_lost(error: ClusterLostError) -> int:
    logger.error("Ray is gone: %s", error)
    return EXIT_CLUSTER_LOST


if __name__ == "__main__":
    sys.exit(main())
