"""A sweep as it comes out where nothing is ever disturbed: the real conductor, search and training in this process,
without Ray, and a store in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.clock import SystemClock
from sweep_service.domain.resources import Resources
from sweep_service.domain.trial import Cluster, NodeResources, Trial
from sweep_service.execution.actor import open_optuna_search
from sweep_service.execution.packs import train_pack
from sweep_service.services.conductor import Conductor
from sweep_service.services.generation import Pause
from sweep_service.services.losses import Loss
from sweep_service.services.packs import Departure, LaneLines, LaneMessage, PackOrder
from sweep_service.services.supply import PackSupply
from sweep_service.services.sweeps import SweepService
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.tracking.null import NullTracker
from trainables.catalog import load_catalog


class InlinePacks:
    """Trains one pack after another where it is called."""

    def __init__(self) -> None:
        self.conductor: Conductor | None = None

    def run(self, supply: PackSupply, resources: Resources) -> None:
        assert self.conductor is not None
        number = 0
        while supply.next_pack(pack := f"pack-{number}") is not Pause.DONE:
            link = _DirectLink(self.conductor, pack)
            train_pack(link.begin(), link)
            supply.pack_over(pack, lost=False)
            number += 1

    def why_lost(self, pack: str, worker: Any) -> Loss:
        raise AssertionError("nothing is lost here")

    def end(self, workers: Mapping[str, Any]) -> None:
        raise AssertionError("nobody ends anything here")

    def leaving(self, workers: Mapping[str, Any]) -> Collection[str]:
        return ()

    def cluster(self) -> Cluster:
        return Cluster(nodes=(NodeResources(node="here", cpus=1.0, gpus=0.0),), seen_at=SystemClock().now())


class _DirectLink:
    def __init__(self, conductor: Conductor, pack: str) -> None:
        self._conductor = conductor
        self._pack = pack

    def begin(self) -> PackOrder:
        return self._conductor.packs.begin(self._pack, "here", None)

    def report(self, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        return self._conductor.packs.report(self._pack, messages)

    def note(self, trial_id: str, message: str) -> None:
        self._conductor.packs.note(trial_id, message)

    def log(self, said: Sequence[LaneLines]) -> bool:
        return self._conductor.packs.log(self._pack, said)


def calm_trials(spec: Mapping[str, Any], home: Path) -> Sequence[Trial]:
    """The trials of that sweep, by number, all of them ended."""
    clock = SystemClock()
    store = MemorySweepStore(clock)
    store.publish_catalog(list(load_catalog().values()))
    sweep = SweepService(store=store, clock=clock, project="calm").submit(dict(spec)).overview.sweep
    lease = store.claim_sweep(owner="test", ttl=timedelta(minutes=10))
    assert lease is not None
    runner = InlinePacks()
    runner.conductor = Conductor(
        name="calm",
        lease=lease,
        settings=Settings(home=home, lease_ttl=timedelta(minutes=10)),
        store=store,
        tracker=NullTracker(),
        open_search=open_optuna_search,
        weigh_parameters=lambda *_: None,
        runner=runner,
        files=FolderFiles(),
        clock=clock,
    )
    runner.conductor.run()
    assert store.get_sweep(sweep.id).state == "completed", store.get_sweep(sweep.id).message
    return store.list_trials(sweep.id)
