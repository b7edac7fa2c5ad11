"""A generation over the in-memory store, driven as a conductor would, and fakes of the ports around it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from store_values import FakeClock, new_sweep

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.domain.amendment import amended_spec
from sweep_service.domain.errors import (
    CheckpointsUnavailableError,
    ModelUnusableError,
    StoreUnavailableError,
    TrackingRefusedError,
    TrackingUnavailableError,
)
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepState, TrialEnding
from sweep_service.domain.trial import AdoptedTrial, Lease, Report, Sweep, Trial
from sweep_service.execution.actor import open_optuna_search
from sweep_service.ports import Clock
from sweep_service.services.checkpoints import CheckpointFolders, Removals
from sweep_service.services.generation import Generation, Pause
from sweep_service.services.packs import LaneMessage, PackOrder
from sweep_service.services.plan import Plan
from sweep_service.storage.memory import MemorySweepStore
from trainables.catalog import load_catalog

TTL = timedelta(minutes=5)
CATALOG = load_catalog()


def small_spec(**changes: Any) -> SweepSpec:
    document: dict[str, Any] = {
        "name": "small",
        "trainable": "digits",
        "params": {"steps": 20},
        "space": {
            "alpha": {"type": "float", "low": 0.0, "high": 3.0},
            "lr": {"type": "float", "low": 1e-4, "high": 1e-2},
        },
        "search": {"sampler": "tpe", "seed": 5},
        "budget": {"trials": 6},
        "resources": {"parallel": 2},
    }
    return SweepSpec.model_validate({**document, **changes})


class ShakyStore(MemorySweepStore):
    """A store that goes away when told so: before its next write, or after it, when the answer is lost."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.fails: deque[Literal["before", "after"] | None] = deque()  # one for each of the next writes
        self.listed_after: list[int] = []  # what lists of trials were asked for
        self.hangs_until: threading.Event | None = None

    def list_trials(self, sweep_id: str, *, after: int = -1, limit: int | None = None) -> Sequence[Trial]:
        self.listed_after.append(after)
        return super().list_trials(sweep_id, after=after, limit=limit)

    @contextmanager
    def _writing(self) -> Iterator[Any]:
        if self.hangs_until is not None:
            self.hangs_until.wait(60)
        fails = self.fails.popleft() if self.fails else None
        if fails == "before":
            raise StoreUnavailableError("away")
        with super()._writing() as opened:
            yield opened
        if fails == "after":
            raise StoreUnavailableError("the connection broke")


def open_plan(sweep: Sweep, trials: Sequence[Trial]) -> Plan:
    return Plan(
        sweep=sweep,
        trainable=CATALOG[sweep.spec.trainable],
        trials=trials,
        open_search=open_optuna_search(sweep),
    )


class Rig:
    """A sweep in a store, and generations of it. ``objective`` gives a trial's result from its parameters."""

    def __init__(
        self,
        spec: SweepSpec,
        objective: Callable[[Trial], float] | None = None,
        checkpoint_root: Path = Path("/nonexistent"),
        adopted: Sequence[AdoptedTrial] = (),
    ) -> None:
        self.clock = FakeClock()
        self.checkpoint_root = checkpoint_root
        self.store = ShakyStore(self.clock)
        self.store.publish_catalog(list(CATALOG.values()))
        self.store.add_sweep(new_sweep(spec=spec, adopted=tuple(adopted)))
        self.objective = objective or (lambda trial: float(trial.params["lr"]) + trial.seed % 7)
        self.lease, self.generation = self.next_generation()
        self._num_packs = 0

    @property
    def sweep(self) -> Sweep:
        return self.store.get_sweep(self.lease.sweep_id)

    @property
    def trials(self) -> Sequence[Trial]:
        return self.store.list_trials(self.lease.sweep_id)

    def next_generation(self) -> tuple[Lease, Generation]:
        """The sweep's next conductor, after the lease of the one before has run out."""
        self.clock.advance(TTL + timedelta(seconds=1))
        lease = self.store.claim_sweep(owner="test", ttl=TTL)
        assert lease is not None
        sweep = self.store.get_sweep(lease.sweep_id)
        if sweep.state is SweepState.STARTING:
            self.store.move_sweep(lease, SweepState.RUNNING)
            sweep = self.store.get_sweep(lease.sweep_id)
        generation = Generation(
            store=self.store,
            lease=lease,
            sweep=sweep,
            trials=self.store.list_trials(sweep.id),
            open_plan=open_plan,
            clock=self.clock,
            checkpoints=CheckpointFolders(FolderFiles(), str(self.checkpoint_root), sweep.id, AtOnce()),
        )
        generation.take_up()
        self.lease, self.generation = lease, generation
        return lease, generation

    def amend(self, **patch: Any) -> None:
        """Change the sweep as a user does, and have the generation go on under it."""
        sweep = self.sweep
        spec = amended_spec(sweep.spec, patch, CATALOG)
        self.store.amend_sweep(sweep.id, spec, revision=sweep.revision)
        self.generation.amend(self.sweep)

    def start_pack(self) -> tuple[str, PackOrder] | Pause:
        self._num_packs += 1
        key = f"pack-{self._num_packs}"
        pause = self.generation.next_pack(key)
        return pause if pause is not None else (key, self.generation.begin(key, node="here"))

    def train(self, key: str, order: PackOrder, **changes: Any) -> None:
        """Report the lanes of a pack to their end, and the pack's end."""
        self.generation.report(key, [self.last_message(lane.trial_id, **changes) for lane in order.lanes])
        self.generation.pack_over(key, loss=None)

    def last_message(self, trial_id: str, **changes: Any) -> LaneMessage:
        trial = self.store.get_trial(trial_id)
        value = self.objective(trial)
        values: dict[str, Any] = {
            "trial_id": trial_id,
            "step": 20,
            "metrics": {"val/normalized_loss": value, "test/normalized_loss": value},
            "checkpoint": f"/checkpoints/{trial_id}/20.pt",
            "ending": TrialEnding.COMPLETED,
        }
        return LaneMessage(**{**values, **changes})

    def run_to_end(self, **changes: Any) -> None:
        """One pack at a time until nothing is left; fails rather than go on for ever."""
        for _ in range(1000):
            started = self.start_pack()
            if isinstance(started, Pause):
                assert started is Pause.DONE, "nothing runs, so that there is nothing to wait for"
                return
            self.train(*started, **changes)
        raise AssertionError("no end")


class AtOnce(Removals):
    """Removes in the thread that asks for it, so that a test sees what is left."""

    def __call__(self, removal: Callable[[], None]) -> None:
        removal()


class RecordingTracker:
    """A Tracker that keeps what it is told, or is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.cannot_open: set[str] = set()  # runs
        self.cannot_close: set[str] = set()  # runs
        self.fault: Exception | None = None  # of our own, in writing results
        self.on_close_sweep: Callable[[], None] = lambda: None
        self.are_checkpoints_away = False
        self.lost_checkpoints: set[str] = set()  # no model comes out of these
        self.models: list[str] = []  # trials whose model is stored
        self.registered: list[tuple[str, str]] = []  # name, trial
        self.opened: list[str] = []
        self.points: list[tuple[str, int, str]] = []  # (run, step, metric), in the order of delivery
        self.closed: dict[str, str] = {}
        self.curves: Mapping[str, Sequence[Report]] = {}  # that the sweep was closed with

    def open_sweep(self, sweep: Sweep) -> str:
        return self._open(f"run of {sweep.id}")

    def open_trial(self, sweep: Sweep, sweep_ref: str, trial: Trial) -> str:
        return self._open(f"run of {trial.id}")

    def log_reports(self, refs: Mapping[str, str], reports: Sequence[Report]) -> None:
        self._answer()
        for report in reports:
            self.points += [(refs[report.trial_id], report.step, key) for key in report.metrics]

    def close_trial(self, ref: str, trial: Trial) -> None:
        self._answer()
        self._take(ref, self.cannot_close)
        self.closed[ref] = trial.state

    def close_sweep(
        self, ref: str, sweep: Sweep, trials: Sequence[Trial], curves: Mapping[str, Sequence[Report]]
    ) -> None:
        self._answer()
        self.curves = curves
        self.on_close_sweep()
        self.on_close_sweep = lambda: None
        if self.fault is not None:
            raise self.fault
        self._take(ref, self.cannot_close)
        self.closed[ref] = sweep.state

    def log_model(self, ref: str, sweep: Sweep, trial: Trial, checkpoint: str) -> None:
        self._answer()
        if self.are_checkpoints_away:
            raise CheckpointsUnavailableError(f"the object store of {checkpoint} does not answer")
        if checkpoint in self.lost_checkpoints:
            raise ModelUnusableError(f"no file {checkpoint}")
        self.models.append(trial.id)

    def register_model(self, ref: str, sweep: Sweep, trial: Trial, name: str) -> str:
        self._answer()
        self._take(name, self.cannot_close)
        assert trial.id in self.models
        self.registered.append((name, trial.id))
        return "7"

    def _open(self, ref: str) -> str:
        self._answer()
        self._take(ref, self.cannot_open)
        self.opened.append(ref)
        return ref

    def _take(self, ref: str, refused: set[str]) -> None:
        if ref in refused:
            raise TrackingRefusedError(f"{ref} is deleted")

    def _answer(self) -> None:
        if self.is_away:
            raise TrackingUnavailableError("away")
