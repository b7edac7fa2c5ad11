"""A conductor over a store in memory, and packs that end as a test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from conductor_fakes import CATALOG, RecordingTracker, ShakyStore
from store_values import START, new_sweep

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.clock import SystemClock
from sweep_service.domain.errors import LeaseLostError, PackOverError
from sweep_service.domain.events import EventKind
from sweep_service.domain.logs import LogLine, LogStream
from sweep_service.domain.resources import Resources
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import TrialEnding, TrialState, Verb
from sweep_service.domain.trial import Cluster, Lease, NodeResources, Sweep, Trial
from sweep_service.execution.actor import open_optuna_search
from sweep_service.services.conductor import Conductor
from sweep_service.services.generation import Pause
from sweep_service.services.importance import WeighParameters
from sweep_service.services.losses import Loss
from sweep_service.services.packs import LaneLines, LaneMessage, PackOrder
from sweep_service.services.supply import PackSupply
from sweep_service.settings import Settings

PATIENCE_S = 60.0  # whatever is waited for comes within a second, on a machine that is not busy


class FakePacks:
    """Runs packs in the conductor's own thread. ``during`` is called once each has begun, and may raise."""

    def __init__(self) -> None:
        self.conductor: Conductor | None = None
        self.during: Callable[[str, PackOrder], None] = lambda key, order: None
        self.has_place = threading.Event()  # for packs to start in
        self.has_place.set()
        self.on_waiting: Callable[[], None] = lambda: None
        self.on_kill: Callable[[], None] = lambda: None
        self.killed: list[Any] = []
        self.evidence: Callable[[str, Any], Loss] = lambda pack, worker: Loss.WORKER
        self.nodes = (NodeResources(node="n", cpus=2, gpus=0),)
        self.num_looks = 0
        self.leaving_workers: set[Any] = set()
        self.cluster_errors: list[Exception] = []
        self.ends_early = False
        self._num_packs = 0

    def run(self, supply: PackSupply, resources: Resources) -> None:
        while not supply.is_over:
            key = f"pack-{self._num_packs + 1}"
            pause = supply.next_pack(key)
            if pause is Pause.DONE:
                return
            if pause is Pause.WAIT:
                assert threading.Event().wait(0.01) is False
                continue
            self._num_packs += 1
            if self.ends_early:
                return
            if not self.has_place.is_set():
                self.on_waiting()
            while not self.has_place.wait(0.01):
                if supply.is_over:
                    return
            self._run_pack(supply, key)

    def _run_pack(self, supply: PackSupply, key: str) -> None:
        conductor = self.conductor
        assert conductor is not None
        try:
            order = conductor.packs.begin(key, "node", f"worker of {key}")
            self.during(key, order)
            messages = [last_message(lane.trial_id) for lane in order.lanes]
            if messages:
                conductor.packs.report(key, messages)
        except WorkerDiedError:
            supply.pack_over(key, lost=True)
        except (LeaseLostError, PackOverError):
            supply.pack_over(key, lost=True)
        else:
            supply.pack_over(key, lost=False)

    def leaving(self, workers: Mapping[str, Any]) -> Collection[str]:
        return {pack for pack, worker in workers.items() if worker in self.leaving_workers}

    def why_lost(self, pack: str, worker: Any) -> Loss:
        self.end({pack: worker})
        return self.evidence(pack, worker)

    def end(self, workers: Mapping[str, Any]) -> None:
        self.on_kill()
        self.killed += workers.values()

    def cluster(self) -> Cluster:
        self.num_looks += 1
        if self.cluster_errors:
            raise self.cluster_errors.pop()
        return Cluster(nodes=self.nodes, seen_at=START)


def await_that(condition: Callable[[], Any], *, what: str) -> None:
    """Until it holds; fails rather than wait for ever."""
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, f"it does not come about: {what}"
        time.sleep(0.01)


class WorkerDiedError(Exception):
    """What a test raises for the death of a pack's worker."""


def last_message(trial_id: str) -> LaneMessage:
    metrics = {"val/normalized_loss": 1.0, "test/normalized_loss": 1.0}
    return LaneMessage(trial_id=trial_id, step=20, metrics=metrics, ending=TrialEnding.COMPLETED)


def said(trial_id: str, first: int, *texts: str) -> LaneLines:
    lines = tuple(LogLine(at=START, stream=LogStream.STDOUT, text=text) for text in texts)
    return LaneLines(trial_id=trial_id, first=first, lines=lines)


class House:
    """A claimed sweep with all that its conductor needs."""

    def __init__(self, home: Path, spec: SweepSpec, **settings: Any) -> None:
        quick = {"lease_ttl": timedelta(seconds=30), "poll_interval": timedelta(milliseconds=5)}
        quick |= {"unschedulable_after": timedelta(0)}
        self.settings = Settings(home=home, **quick | settings)
        self.store = ShakyStore(SystemClock())
        self.store.publish_catalog(list(CATALOG.values()))
        self.store.add_sweep(new_sweep(spec=spec))
        self.tracker = RecordingTracker()
        self.files: CheckpointFiles = FolderFiles()
        self.packs = FakePacks()
        self.weigh: WeighParameters = lambda sweep, trials: None
        self.lease = self.claim()

    def claim(self) -> Lease:
        lease = self.store.claim_sweep(owner="test", ttl=timedelta(seconds=60))
        assert lease is not None
        return lease

    def conductor(self) -> Conductor:
        conductor = Conductor(
            name=f"conductor-{self.lease.generation}",
            lease=self.lease,
            settings=self.settings,
            store=self.store,
            tracker=self.tracker,
            open_search=open_optuna_search,
            weigh_parameters=self.weigh,
            runner=self.packs,
            files=self.files,
            clock=SystemClock(),
        )
        self.packs.conductor = conductor
        return conductor

    def run(self) -> Sweep:
        """The conductor's whole life; fails rather than wait for ever."""
        thread = threading.Thread(target=self.conductor().run, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the conductor does not end"
        return self.sweep

    @property
    def sweep(self) -> Sweep:
        return self.store.get_sweep(self.lease.sweep_id)

    @property
    def trials(self) -> list[Trial]:
        return list(self.store.list_trials(self.lease.sweep_id))

    def ask(self, verb: Verb) -> None:
        self.store.control_sweep(self.lease.sweep_id, verb)

    def await_notice(self, message: str) -> None:
        """Until the sweep has been told that."""

        def is_told() -> bool:
            events = self.store.list_events(self.lease.sweep_id, limit=1000)
            return any((event.kind, event.message) == (EventKind.SWEEP_NOTICE, message) for event in events)

        await_that(is_told, what=message)

    def await_state(self, *states: TrialState) -> None:
        """Until every trial is in one of these."""
        await_that(lambda: {trial.state for trial in self.trials} <= set(states), what=f"trials that are all {states}")
