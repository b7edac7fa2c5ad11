"""What is asked of a filled store: by users through the services, or over HTTP, and by conductors."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import httpx

from benchmarks.overhead_filling import STEPS, Filled
from benchmarks.overhead_rows import Call, Load, Stopwatch, Took
from benchmarks.sweep_throughput_processes import private_environment, said, started
from sweep_service.clock import SystemClock
from sweep_service.domain.ids import IdPrefix, new_id
from sweep_service.domain.states import AttemptState, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Attempt, Lease, Report, Role, Trial
from sweep_service.ports import SweepFilter, SweepStore, TrialEnd
from sweep_service.services.sweeps import SweepService
from sweep_service.services.trials import TrialService
from sweep_service.storage.sql import open_sql_store

PAGE = 50  # what the API gives unless it is asked otherwise
LANES = 4  # of a pack: what lanes: auto makes of the demo's sweep
REPORTS = 10  # of each trial, all lanes together
TTL = timedelta(hours=1)  # of leases: none runs out while others are measured
_UP_WITHIN_S = 60.0


def service_calls(store: SweepStore, filled: Filled, document: Mapping[str, Any]) -> dict[str, Call]:
    """Each operation of the API by name, through the service that the API calls for it."""
    service = SweepService(store=store, clock=SystemClock(), project="default")
    trials = TrialService(store=store)
    ids, middle = filled.sweep_ids, PAGE // 2
    running = SweepFilter(states=frozenset({SweepState.RUNNING}))
    failed = SweepFilter(states=frozenset({SweepState.FAILED}))
    labelled = SweepFilter(labels=frozenset({("team", "nobody")}))
    return {
        "submit": lambda rng: service.submit(document),
        "get": lambda rng: service.get(rng.choice(ids)),
        "list": lambda rng: service.list_sweeps(limit=PAGE),
        "list, a later page": lambda rng: service.list_sweeps(beyond=rng.choice(ids), limit=PAGE),
        "list, state running": lambda rng: service.list_sweeps(only=running, limit=PAGE),
        "list, state failed": lambda rng: service.list_sweeps(only=failed, limit=PAGE),
        "list, a label of none": lambda rng: service.list_sweeps(only=labelled, limit=PAGE),
        "trials page": lambda rng: service.list_trials(rng.choice(ids), limit=PAGE),
        "trials page, from the middle": lambda rng: service.list_trials(rng.choice(ids), after=middle, limit=PAGE),
        "best": lambda rng: service.best(rng.choice(ids)),
        "events page": lambda rng: service.list_events(rng.choice(ids), after=rng.randrange(200), limit=PAGE),
        "one trial": lambda rng: trials.get(rng.choice(filled.trial_ids)),
        "a trial's curves": lambda rng: trials.curves(rng.choice(filled.trial_ids), limit=PAGE),
    }


def http_calls(url: str, filled: Filled, document: Mapping[str, Any]) -> dict[str, Call]:
    """The same over HTTP, of a server at that URL; each thread that calls has a connection of its own."""
    client = httpx.Client(base_url=f"{url}/api/v1", timeout=60, trust_env=False)  # its pool is as large as needed
    ids = filled.sweep_ids

    def get(path: Callable[[random.Random], str], **query: Any) -> Call:
        return lambda rng: client.get(path(rng), params=query).raise_for_status()

    return {
        "submit": lambda rng: client.post("/sweeps", json=document).raise_for_status(),
        "get": get(lambda rng: f"/sweeps/{rng.choice(ids)}"),
        "list": get(lambda rng: "/sweeps"),
        "list, state running": get(lambda rng: "/sweeps", state="running"),
        "trials page": get(lambda rng: f"/sweeps/{rng.choice(ids)}/trials"),
        "best": get(lambda rng: f"/sweeps/{rng.choice(ids)}/best"),
        "a trial's curves": get(lambda rng: f"/trials/{rng.choice(filled.trial_ids)}/metrics"),
    }


@contextlib.contextmanager
def served(database_url: str, folder: Path) -> Iterator[str]:
    """The API in a process of its own, over that database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {"SWEEP_DATABASE_URL": database_url, "SWEEP_PORT": str(port), "SWEEP_HOME": str(folder / "home")}
    with started([sys.executable, "-m", "api"], folder, private_environment(folder) | settings) as process:
        url = f"http://127.0.0.1:{port}"
        _await_ready(url, process, folder)
        yield url
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)


def _await_ready(url: str, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + _UP_WITHIN_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", trust_env=False).is_success:
                return
        time.sleep(0.05)
    raise RuntimeError(f"The API does not come up:\n{said(folder, last=3000)}")


def submit(database_url: str, document: Mapping[str, Any], num: int) -> None:
    """Put so many sweeps into the queue."""
    with contextlib.closing(open_sql_store(database_url)) as store:
        service = SweepService(store=store, clock=SystemClock(), project="default")
        for _ in range(num):
            service.submit(document)


@dataclass(frozen=True, kw_only=True)
class Conducting:
    """What one conductor does; picklable, for a process of its own."""

    database_url: str
    params: Mapping[str, Any]  # of a trial
    metrics: Mapping[str, float]  # of a report
    rounds: int  # packs, one after the other
    claims: int  # sweeps that it takes; it runs the last one
    load: Load


_others: list[Barrier] = []  # in a process that conducts: where it waits for the others


def begin_together(barrier: Barrier) -> None:
    """To be called first in each process that is to conduct."""
    _others.append(barrier)


def conduct(work: Conducting) -> dict[str, list[Took]]:
    """Take sweeps and run packs of the last one, without training anything; each write, by name."""
    store = open_sql_store(work.database_url)
    watch = Stopwatch()
    lease = None
    rng = random.Random(os.getpid())
    try:
        store.check_ready()  # connected, and all imported
        _others[0].wait()
        for _ in range(work.claims):
            work.load.rest(rng)
            with watch.of("claim"):
                lease = store.claim_sweep(owner=f"benchmark {os.getpid()}", ttl=TTL)
        if lease is None:
            raise RuntimeError("there are too few sweeps to be claimed")
        first = len(store.list_trials(lease.sweep_id))  # of one that was resumed
        writes = _Writes(store=store, watch=watch, load=work.load, rng=rng)
        for number in range(work.rounds):
            _run_pack(writes, lease, work, first + LANES * number)
    finally:
        store.close()
    return watch.calls


@dataclass(frozen=True, kw_only=True)
class _Writes:
    """A store whose writes are timed, with a rest before each."""

    store: SweepStore
    watch: Stopwatch
    load: Load
    rng: random.Random

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[SweepStore]:
        self.load.rest(self.rng)
        with self.watch.of(name):
            yield self.store


def _run_pack(writes: _Writes, lease: Lease, work: Conducting, number: int) -> None:
    trials = [_new_trial(lease, number + lane, work.params) for lane in range(LANES)]
    with writes.of(f"add_trials, {LANES}") as store:
        store.add_trials(lease, trials)
    attempts = [_new_attempt(lease, trial, pack=f"pack-{number}") for trial in trials]
    for attempt in attempts:
        with writes.of("start_attempt") as store:
            store.start_attempt(lease, attempt)
    for step in range(1, REPORTS):
        reports = [_report(attempt, STEPS * step // REPORTS, work.metrics) for attempt in attempts]
        with writes.of(f"record, {LANES} reports") as store:
            store.record(lease, reports=reports)
        if step % 2 == 0:
            with writes.of("renew_lease") as store:
                store.renew_lease(lease, ttl=TTL)
    for attempt in attempts:  # one after the other: those of a real pack may end at different steps
        ends = [TrialEnd(trial_id=attempt.trial_id, ending=TrialEnding.COMPLETED, objective=0.5)]
        reports = [_report(attempt, STEPS, work.metrics)]
        with writes.of("record, report and end") as store:
            store.record(lease, reports=reports, ends=ends, best=attempt.trial_id)


def _new_trial(lease: Lease, number: int, params: Mapping[str, Any]) -> Trial:
    now = datetime.now(UTC)
    searched = {"alpha": 1.0, "weight_lr": 0.1}
    return Trial(
        id=new_id(IdPrefix.TRIAL, now=now),
        sweep_id=lease.sweep_id,
        number=number,
        role=Role.SEARCH,
        balancer="gradnorm",
        params={**params, **searched},
        searched=searched,
        seed=7,
        state=TrialState.PENDING,
        created_at=now,
    )


def _new_attempt(lease: Lease, trial: Trial, *, pack: str) -> Attempt:
    now = datetime.now(UTC)
    return Attempt(
        id=new_id(IdPrefix.ATTEMPT, now=now),
        trial_id=trial.id,
        sweep_id=trial.sweep_id,
        number=0,
        state=AttemptState.RUNNING,
        generation=lease.generation,
        pack=pack,
        node="node-1",
        started_at=now,
    )


def _report(attempt: Attempt, step: int, metrics: Mapping[str, float]) -> Report:
    return Report(
        sweep_id=attempt.sweep_id,
        trial_id=attempt.trial_id,
        attempt_id=attempt.id,
        step=step,
        metrics=metrics,
        objective=0.5,
        checkpoint=None,
        reported_at=datetime.now(UTC),
    )
