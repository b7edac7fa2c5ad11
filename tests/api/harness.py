"""What the tests of the API, the client and the command share: a real server, a small catalogue, and a hand that plays
the conductor."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from api.server import Server
from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.ids import IdPrefix, new_id
from sweep_service.domain.logs import LogLine, LogLines, LogStream
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Attempt, AttemptState, Lease, Report, Role, Trial
from sweep_service.ports import SweepStore, TrialEnd
from trainables.catalog import TRAINING_PARAMETERS, Parameter, TaskInfo, TaskKind, Trainable

START_SECONDS = 60.0
TTL = timedelta(minutes=10)

TOY = Trainable(
    name="toy",
    summary="Two tasks, for tests.",
    factory="nowhere:nothing",
    tasks=(
        TaskInfo(name="left", kind=TaskKind.REGRESSION, metrics=("rmse",)),
        TaskInfo(name="right", kind=TaskKind.BINARY, metrics=("auc",)),
    ),
    parameters=(
        Parameter(name="width", type="int", default=8, low=1, description="Width of the trunk."),
        *TRAINING_PARAMETERS,
    ),
    problem_parameters=("width",),
)

SPEC: Mapping[str, Any] = {
    "name": "small",
    "trainable": "toy",
    "space": {
        "alpha": {"type": "float", "low": 0.0, "high": 3.0},
        "weight_lr": {"type": "float", "low": 1e-4, "high": 0.1, "log": True},
    },
    "budget": {"trials": 4},
    "baselines": ["equal"],
    "confirm": {"seeds": 3},
}


@dataclass(frozen=True, kw_only=True)
class Service:
    """A served store."""

    url: str
    store: SweepStore
    http: httpx.Client

    def submit(self, **changes: Any) -> dict[str, Any]:
        """Submit SPEC with changes; the answer."""
        response = self.http.post("/api/v1/sweeps", json={**SPEC, **changes})
        assert response.status_code == 201, response.text
        return response.json()

    def num_sweeps(self) -> int:
        return len(self.store.list_sweeps(limit=100_000))


@contextmanager
def serve(app: FastAPI, store: SweepStore) -> Iterator[Service]:
    """The app behind a real server on a free port of loopback."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, loop="uvloop", http="httptools", ws="none", log_config=None, lifespan="off")
        server = Server(config, on_shutdown=app.state.feed.close)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        deadline = time.monotonic() + START_SECONDS
        while not server.started:
            assert time.monotonic() < deadline, "the server does not start"
            time.sleep(0.005)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
                yield Service(url=url, store=store, http=http)
        finally:
            server.should_exit = True
            thread.join(timeout=START_SECONDS)


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """The problem document of a response, which must be one of that status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert set(document) >= {"type", "title", "status", "detail", "instance", "errors"}
    assert document["status"] == status
    assert document["instance"] == response.request.url.raw_path.decode().partition("?")[0]
    assert isinstance(document["detail"], str)
    assert document["detail"]
    assert "Traceback" not in response.text
    for item in document["errors"]:
        assert set(item) - {"parameter"} == {"pointer", "code", "detail"}
    return document


def pointers(document: Mapping[str, Any]) -> set[str]:
    return {item["pointer"] for item in document["errors"]}


class DownStore:
    """A store whose database does not answer, whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        def raise_unavailable(*_args: object, **_options: object) -> None:
            raise StoreUnavailableError("no connection to db.internal:5432 as user sweeps")

        return raise_unavailable


class BrokenStore:
    """A store with a fault that nobody foresaw."""

    def __getattr__(self, name: str) -> Any:
        def raise_unforeseen(*_args: object, **_options: object) -> None:
            raise ZeroDivisionError("secret of the inside")

        return raise_unforeseen


class Conductor:
    """Plays the conductor of one sweep, step by step, through the store."""

    def __init__(self, store: SweepStore, sweep_id: str) -> None:
        self._store = store
        self.sweep_id = sweep_id
        self._lease = self._claim(sweep_id)
        self._num_trials = 0
        self._num_lines: Counter[str] = Counter()  # by attempt

    def _claim(self, sweep_id: str) -> Lease:
        """Claims go to the oldest sweep first, so those of other tests are claimed, and left alone, on the way."""
        while lease := self._store.claim_sweep(owner="test", ttl=TTL):
            if lease.sweep_id == sweep_id:
                return lease
        raise AssertionError(f"{sweep_id} is not to be claimed")

    def move(self, *targets: SweepState, reason: SweepReason | None = None, message: str = "") -> None:
        for target in targets:
            self._store.move_sweep(self._lease, target, reason=reason, message=message)

    def add_trial(self, role: Role = Role.SEARCH, balancer: str = "gradnorm", **searched: float) -> Trial:
        return self.add_trials(1, role, balancer, **searched)[0]

    def add_trials(
        self, count: int, role: Role = Role.SEARCH, balancer: str = "gradnorm", **searched: float
    ) -> list[Trial]:
        now = datetime.now(UTC)
        trials = [
            Trial(
                id=new_id(IdPrefix.TRIAL, now=now),
                sweep_id=self.sweep_id,
                number=number,
                role=role,
                balancer=balancer,
                params={**TOY.defaults(), **searched},
                searched=searched,
                seed=7,
                state=TrialState.PENDING,
                created_at=now,
            )
            for number in range(self._num_trials, self._num_trials + count)
        ]
        self._num_trials += count
        self._store.add_trials(self._lease, trials)
        return trials

    def start(self, trial: Trial, number: int = 0, *, pack: str = "", ago: timedelta = timedelta(0)) -> Attempt:
        now = datetime.now(UTC) - ago
        attempt = Attempt(
            id=new_id(IdPrefix.ATTEMPT, now=now),
            trial_id=trial.id,
            sweep_id=self.sweep_id,
            number=number,
            state=AttemptState.RUNNING,
            generation=self._lease.generation,
            pack=pack,
            started_at=now,
        )
        self._store.start_attempt(self._lease, attempt)
        return attempt

    def report(self, attempt: Attempt, step: int, **metrics: float) -> Report:
        """Record one report; ``_`` in the names stands for the slash that a keyword cannot hold."""
        report = Report(
            sweep_id=self.sweep_id,
            trial_id=attempt.trial_id,
            attempt_id=attempt.id,
            step=step,
            metrics={name.replace("_", "/"): value for name, value in metrics.items()},
            objective=None,
            reported_at=datetime.now(UTC),
        )
        self._store.record(self._lease, reports=[report])
        return report

    def say(self, attempt: Attempt, *texts: str, stream: LogStream = LogStream.STDOUT, level: str = "") -> None:
        """The attempt's code says that, after all that it has said before."""
        first = self._num_lines[attempt.id]
        self._num_lines[attempt.id] += len(texts)
        lines = tuple(LogLine(at=datetime.now(UTC), stream=stream, level=level, text=text) for text in texts)
        said = LogLines(trial_id=attempt.trial_id, attempt_id=attempt.id, first=first, lines=lines)
        self._store.append_logs(self._lease, [said])

    def end(self, attempt: Attempt, ending: TrialEnding = TrialEnding.ERROR, *, message: str = "") -> None:
        """The attempt's trial ends without a result."""
        self._store.record(self._lease, ends=[TrialEnd(trial_id=attempt.trial_id, ending=ending, message=message)])

    def lose(self, attempt: Attempt) -> None:
        """The attempt's worker has died."""
        self._store.end_attempt(self._lease, attempt.id, AttemptState.LOST, message="its worker died")

    def notice(self, message: str) -> None:
        self._store.add_notice(self._lease, message)

    def run(
        self,
        trial: Trial,
        ending: TrialEnding = TrialEnding.COMPLETED,
        *,
        objective: float = 0.5,
        message: str = "",
        is_best: bool = False,
        metrics: Mapping[str, float] | None = None,
    ) -> Trial:
        """Start, report once, end. ``metrics`` are reported beside the usual ones."""
        attempt = self.start(trial)
        completed = ending is TrialEnding.COMPLETED
        report = Report(
            sweep_id=self.sweep_id,
            trial_id=trial.id,
            attempt_id=attempt.id,
            step=100,
            metrics={"val/normalized_loss": objective, "val/loss/left": 2 * objective, **(metrics or {})},
            objective=objective,
            reported_at=datetime.now(UTC),
        )
        end = TrialEnd(trial_id=trial.id, ending=ending, objective=objective if completed else None, message=message)
        self._store.record(self._lease, reports=[report], ends=[end], best=trial.id if is_best else None)
        return replace(trial, state=ending.state)

    def set_results(self, results: Mapping[str, Any]) -> None:
        self._store.set_results(self._lease, results)


def finish_sweep(store: SweepStore, sweep_id: str, *, state: SweepState = SweepState.COMPLETED) -> Conductor:
    """A sweep from queued to its end: two search trials (0.6, then 0.4), the baseline at 0.5, a verdict."""
    conductor = Conductor(store, sweep_id)
    conductor.move(SweepState.RUNNING)
    first, best = conductor.add_trial(alpha=1.0, weight_lr=0.01), conductor.add_trial(alpha=2.0, weight_lr=0.02)
    baseline = conductor.add_trial(Role.BASELINE, "equal")
    conductor.run(first, objective=0.6)
    conductor.run(best, objective=0.4, is_best=True)
    conductor.run(baseline, objective=0.5)
    conductor.set_results(results_of(best, baseline))
    if state is SweepState.STOPPED:
        conductor.move(SweepState.STOPPING)
    conductor.move(state, reason=SweepReason.BUDGET_TRIALS if state is SweepState.COMPLETED else SweepReason.ERROR)
    return conductor


BOTH = [{"metric": "val/loss/left"}, {"metric": "val/auc/right", "direction": "maximize"}]


def run_front(store: SweepStore, sweep_id: str) -> Conductor:
    """Trials 0 to 3 of a sweep for BOTH: 0 is beaten by 1, 3 has the best score, 1 is the best by the objective."""
    conductor = Conductor(store, sweep_id)
    for objective, score, alpha in ((0.4, 0.5, 0.0), (0.3, 0.6, 1.0), (0.5, 0.4, 2.0), (0.9, 0.9, 3.0)):
        trial, metrics = conductor.add_trial(alpha=alpha), {"val/auc/right": score}
        conductor.run(trial, objective=objective, is_best=alpha == 1.0, metrics=metrics)
    conductor.run(conductor.add_trial(Role.BASELINE, "equal"), objective=0.1, metrics={"val/auc/right": 1.0})
    return conductor


def results_of(best: Trial, baseline: Trial) -> dict[str, Any]:
    """Results in the shape in which a conductor stores them."""
    rows = [
        {"rank": rank, "label": trial.balancer, "role": str(trial.role), "trial_id": trial.id, "number": trial.number}
        | {"objective": objective, "params": dict(trial.searched), "delta_m": None}
        | {"tasks": {"left": {"loss": 2 * objective, "normalized_loss": objective}}}
        for rank, (trial, objective) in enumerate(((best, 0.4), (baseline, 0.5)), start=1)
    ]
    comparison = {"baseline": "equal", "outcome": "helped", "mean_difference": -0.0987, "interval": [-0.11, -0.09]}
    comparison |= {"p_value": 0.001, "p_value_holm": 0.001, "num_pairs": 3, "margin": 0.01, "reason": None}
    verdict = {"summary": "GradNorm helped against equal.", "metric": "test/normalized_loss", "confidence": 0.95}
    verdict |= {"margin": 0.01, "seeds": 3, "covers": "Seeds only.", "against": [{**comparison, "tasks": {}}]}
    return {"leaderboard": rows, "best": rows[0], "baselines": rows[1:], "verdict": verdict}
