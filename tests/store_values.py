"""Sweeps, trials, attempts and reports to put into a store, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sweep_service.domain.events import Event
from sweep_service.domain.logs import KeptLine, LogLine, LogLines, LogStream
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import AttemptState, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Attempt, Lease, Report, Role, Sweep, Trial
from sweep_service.ports import SweepStore, TrialEnd

START = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
TTL = timedelta(seconds=60)

SPEC = SweepSpec.model_validate(
    {
        "name": "digits-gradnorm",
        "trainable": "digits",
        "params": {"hidden": [64, 32], "steps": 300, "lr": 0.001},
        "space": {
            "alpha": {"type": "float", "low": 0, "high": 3.0},
            "batch_size": {"type": "int", "low": 16, "high": 256, "log": True},
            "dtype": {"type": "categorical", "choices": ["float32", "float64"]},
        },
        "budget": {"trials": 4},
        "baselines": ["equal"],
        "confirm": {"seeds": 3},
        "labels": {"team": "ads"},
    }
)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A kind of store with empty tables."""

    name: str
    url: str  # empty: lives in this process only
    open: Callable[[], SweepStore]  # each call as another process would; the same data


class FakeClock:
    """Stands still unless the test moves it."""

    def __init__(self) -> None:
        self._now = START

    def now(self) -> datetime:
        return self._now

    def advance(self, by: timedelta) -> None:
        self._now += by


def new_sweep(index: int = 0, **changes: Any) -> Sweep:
    """A queued sweep; those with a higher index are newer."""
    values: dict[str, Any] = {
        "id": f"swp_{index:026d}",
        "project": "default",
        "created_by": "somebody",
        "spec": SPEC,
        "state": SweepState.QUEUED,
        "created_at": START,
        "updated_at": START,
        "queued_at": START,
    }
    return Sweep(**values | changes)


def new_trial(sweep_id: str, number: int = 0, **changes: Any) -> Trial:
    """A pending search trial."""
    values: dict[str, Any] = {
        "id": f"trl_{sweep_id[-10:]}{number:016d}",
        "sweep_id": sweep_id,
        "number": number,
        "role": Role.SEARCH,
        "balancer": "gradnorm",
        "params": {"alpha": 1.5, "hidden": [64, 32], "dtype": "float32"},
        "searched": {"alpha": 1.5},
        "seed": 7 + number,
        "state": TrialState.PENDING,
        "search_state": {"tpe": {"grouped": [1, 2]}},
        "provenance": {"code": "0.1.0"},
        "created_at": START,
    }
    return Trial(**values | changes)


def new_attempt(trial: Trial, number: int = 0, **changes: Any) -> Attempt:
    """A running attempt."""
    values: dict[str, Any] = {
        "id": f"att_{trial.id[8:14]}{trial.id[-12:]}{number:08d}",
        "trial_id": trial.id,
        "sweep_id": trial.sweep_id,
        "number": number,
        "state": AttemptState.RUNNING,
        "generation": 1,
        "node": "node-a",
        "started_at": START,
    }
    return Attempt(**values | changes)


def new_report(attempt: Attempt, step: int, **changes: Any) -> Report:
    """A report without a checkpoint; its objective falls with the step."""
    values: dict[str, Any] = {
        "sweep_id": attempt.sweep_id,
        "trial_id": attempt.trial_id,
        "attempt_id": attempt.id,
        "step": step,
        "metrics": {"val/normalized_loss": 1.0 / (1 + step), "weight/digit": 0.5},
        "objective": 1.0 / (1 + step),
        "reported_at": START + timedelta(seconds=step),
    }
    return Report(**values | changes)


def new_end(trial_id: str, ending: TrialEnding, **values: Any) -> TrialEnd:
    """The end of a trial; a completed one needs an objective."""
    return TrialEnd(trial_id=trial_id, ending=ending, **values)


def said(attempt: Attempt, first: int, lines: Iterable[str | LogLine]) -> LogLines:
    """Lines of an attempt that had said ``first`` lines before; a text is one that was printed."""
    told = (
        line if isinstance(line, LogLine) else LogLine(at=START, stream=LogStream.STDOUT, text=line) for line in lines
    )
    return LogLines(trial_id=attempt.trial_id, attempt_id=attempt.id, first=first, lines=tuple(told))


def claimed(store: SweepStore, sweep: Sweep | None = None) -> Lease:
    """The lease on a new sweep."""
    store.add_sweep(sweep or new_sweep())
    lease = store.claim_sweep(owner="dispatcher", ttl=TTL)
    assert lease is not None
    return lease


def events_of(store: SweepStore, sweep_id: str) -> list[Event]:
    """All of them; they have no gaps."""
    events = list(store.list_events(sweep_id, limit=10_000))
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return events


def lines_of(store: SweepStore, trial_id: str) -> list[KeptLine]:
    """All that is kept of them."""
    return list(store.list_trial_logs(trial_id, limit=100_000))
