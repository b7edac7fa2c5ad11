"""Where a conductor process is put together.

The settings come from the environment of the node that it runs on, never through Ray: the store's and the tracking
server's credentials are in them.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from ray.actor import exit_actor

from sweep_service.clock import SystemClock
from sweep_service.domain.space import Space
from sweep_service.domain.trial import Lease, Sweep, Trial
from sweep_service.logs import conductor_log, configure_logging, log_context
from sweep_service.ports import Search
from sweep_service.services.packs import Departure, LaneLines, LaneMessage, LaneOrder, PackOrder
from sweep_service.services.plan import OpenSearch
from sweep_service.settings import Settings

logger = logging.getLogger(__name__)

# A pack makes one call at a time; where there are more packs, their calls wait for a free thread, which is harmless.
MAX_CONCURRENT_CALLS = 32
# Packs wait for calls that let go of Python's lock a dozen times, and the delivery would keep it for 5 ms each time.
SWITCH_INTERVAL_S = 0.0005
FAREWELL_S = 2.0  # for an answer to leave a process that ends
# Seconds of imports that a sweep would wait for, the last ones when it ends.
_LIBRARIES = (
    "sweep_service.execution.tune_packs",
    "sweep_service.search.importance",
    "sweep_service.search.optuna_search",
    "sweep_service.services.conductor",
    "sweep_service.storage.sql",
    "sweep_service.tracking.mlflow_tracker",
)


class ConductorActor:
    """A conductor in a process of its own. What packs call is that of
    :class:`~sweep_service.services.pack_desk.PackDesk`; they know of the actor only once it runs.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lease: Lease | None = None
        self._is_leaving = False
        self._leaves_within: timedelta | None = None  # once it has been asked to let go of its sweep
        self._taking = threading.Lock()
        self._loading = threading.Lock()  # two threads that load the same libraries may see them half loaded
        self._conductor: Any = None

    def prepare(self) -> None:
        """Load what a sweep needs from its start to its end, while there is none."""
        with self._loading:
            if self._lease is None:
                _load_libraries()

    def is_idle(self) -> bool:
        """Whether a sweep can be given to it."""
        return self._lease is None and not self._is_leaving

    def leave_if_idle(self) -> bool:
        """End this process, unless a sweep has been given to it: False. From here on it takes none."""
        with self._taking:
            if self._lease is not None:
                return False
            self._is_leaving = True
        exit_actor()
        return True

    def leave(self, within: timedelta) -> None:
        """Have it let go of its sweep in that time, and end."""
        with self._taking:
            self._leaves_within = within
            conductor = self._conductor
        if conductor is not None:  # else once it is there
            conductor.leave(within)

    def run(self, lease: Lease) -> bool:
        """Run the sweep to its end, then leave: a process per sweep, and none after it. False: it has another sweep, or
        leaves.

        Raises:
            Exception: the conductor cannot even be put together; what is wrong here will be wrong again.
        """
        with self._taking:
            if self._lease is not None or self._is_leaving:
                return False
            self._lease = lease
        with log_context(sweep_id=lease.sweep_id, generation=lease.generation):
            self._run(lease)
        return True

    def _run(self, lease: Lease) -> None:
        name = f"conductor-{lease.sweep_id}-{lease.generation}"
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        try:
            with self._loading:
                conductor = _new_conductor(name, self._name, lease)
        except BaseException:
            logger.exception("%s cannot be put together.", name)
            # Not exit_actor, whose own exception would take this one's place: whoever started it is to hear of it.
            farewell = threading.Timer(FAREWELL_S, os._exit, [1])
            farewell.daemon = True
            farewell.start()
            raise
        with self._taking:
            self._conductor = conductor
            leaves_within = self._leaves_within
        if leaves_within is not None:  # it was asked to while it loaded its libraries
            conductor.leave(leaves_within)
        conductor.run()
        exit_actor()

    def begin(self, pack: str, node: str, worker: Any) -> PackOrder:
        return self._conductor.packs.begin(pack, node, worker)

    def report(self, pack: str, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        return self._conductor.packs.report(pack, messages)

    def settle(self, pack: str, places: int, reason: str) -> None:
        self._conductor.packs.settle(pack, places, reason)

    def refill(self, pack: str, free: int) -> Sequence[LaneOrder]:
        return self._conductor.packs.refill(pack, free)

    def split(self, pack: str, places: int, message: str, *, is_of_all: bool) -> None:
        self._conductor.packs.split(pack, places, message, is_of_all=is_of_all)

    def log(self, pack: str, said: Sequence[LaneLines]) -> bool:
        return self._conductor.packs.log(pack, said)

    def note(self, trial_id: str, message: str) -> None:
        self._conductor.packs.note(trial_id, message)

    def warn(self, message: str) -> None:
        self._conductor.packs.warn(message)

    def explain(self, pack: str, message: str) -> None:
        self._conductor.packs.explain(pack, message)


def _load_libraries() -> None:
    _quieten_tune()
    for library in _LIBRARIES:
        importlib.import_module(library)
    from sweep_service.tracking.libraries import load_libraries

    load_libraries(Settings().tracking_uri)


def _new_conductor(name: str, actor: str, lease: Lease) -> Any:
    settings = Settings()
    configure_logging(settings, "conductor", handler=conductor_log(settings))  # before anything that can fail
    # Tune warns of every result file that it did not write, as it was told.
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    _quieten_tune()
    # Imported here and not by the dispatcher: optuna and mlflow are this process's business.
    from sweep_service.checkpoint_files import checkpoint_files
    from sweep_service.execution.tune_packs import TunePacks
    from sweep_service.search.importance import parameter_importance
    from sweep_service.services.conductor import Conductor
    from sweep_service.storage.sql import open_sql_store
    from sweep_service.tracking.mlflow_tracker import MlflowTracker

    clock = SystemClock()
    files = checkpoint_files()
    return Conductor(
        name=name,
        lease=lease,
        settings=settings,
        store=open_sql_store(settings.store_url),
        tracker=MlflowTracker(settings.tracking_uri, files=files, artifact_location=settings.artifact_location),
        open_search=open_optuna_search,
        weigh_parameters=parameter_importance,
        runner=TunePacks(conductor=actor, folder=settings.root / "tune", clock=clock),
        files=files,
        clock=clock,
    )


def open_optuna_search(sweep: Sweep) -> OpenSearch:
    """Samplers for the lines of that sweep."""
    from sweep_service.search.optuna_search import OptunaSearch

    def open_search(space: Space, seed: int, budget: int, history: Sequence[Trial]) -> Search:
        return OptunaSearch(
            space=space,
            objective=sweep.spec.objective,
            objectives=sweep.spec.objectives,
            sampler=sweep.spec.search.sampler,
            seed=seed,
            budget=budget,
            history=history,
        )

    return open_search


def _quieten_tune() -> None:
    """Tune's own loggers, snapshots and warnings serve nobody here: the store is the only truth."""
    os.environ.update(
        {
            "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
            "TUNE_DISABLE_SIGINT_HANDLER": "1",
            "TUNE_GLOBAL_CHECKPOINT_S": "86400",
            "TUNE_WARN_THRESHOLD_S": "30",
            "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
            "RAY_AIR_NEW_OUTPUT": "0",
        }
    )
