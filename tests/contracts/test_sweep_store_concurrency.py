"""SweepStore under several writers at once: threads with stores of their own, and processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import chain
from typing import Any

import pytest
from processes import processes_at_once
from sqlalchemy import Engine, text
from store_values import TTL, Backend, claimed, events_of, new_attempt, new_end, new_report, new_sweep, new_trial

from sweep_service.domain.errors import IllegalMoveError, KeyReusedError, LeaseLostError
from sweep_service.domain.events import EventKind
from sweep_service.domain.states import SweepState, TrialEnding, Verb
from sweep_service.domain.trial import Lease, Sweep
from sweep_service.ports import SubmissionKey, SweepStore

S = SweepState


def at_once(backend: Backend, *actions: Callable[[SweepStore], Any]) -> list[Any]:
    """What each action returns or raises; each has a thread and a store of its own, and all begin together."""
    gate = threading.Barrier(len(actions))

    def run(action: Callable[[SweepStore], Any]) -> Any:
        store = backend.open()
        gate.wait(120)
        try:
            return action(store)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def check_history(store: SweepStore, sweep_id: str) -> None:
    """Each move begins where the one before it ended, and the last one where the sweep is."""
    moves = [e.data for e in events_of(store, sweep_id) if e.kind is EventKind.SWEEP_MOVED]
    places = [S.QUEUED, *(move["to"] for move in moves)]
    assert [move["from"] for move in moves] == places[:-1]
    assert store.get_sweep(sweep_id).state == places[-1]


def test_claimers_at_once_never_get_the_same_sweep(backend: Backend) -> None:
    store = backend.open()
    sweeps = [new_sweep(index) for index in range(12)]
    for sweep in sweeps:
        store.add_sweep(sweep)

    def claim_all(mine: SweepStore) -> list[Lease]:
        return list(iter(lambda: mine.claim_sweep(owner="dispatcher", ttl=TTL), None))

    leases: list[Lease] = list(chain.from_iterable(at_once(backend, *[claim_all] * 4)))
    leases += claim_all(store)  # a row that was locked for a moment is passed over, not lost
    assert sorted(lease.sweep_id for lease in leases) == [sweep.id for sweep in sweeps]
    assert {store.get_sweep(sweep.id).generation for sweep in sweeps} == {1}


def test_the_successor_of_a_dead_conductor_is_one(backend: Backend) -> None:
    store = backend.open()
    store.release_lease(claimed(store))
    claims = at_once(backend, *[lambda mine: mine.claim_sweep(owner="successor", ttl=TTL)] * 4)
    (lease,) = [claim for claim in claims if claim is not None]
    assert lease.generation == store.get_sweep(lease.sweep_id).generation == 2


def test_submissions_at_once_under_one_key_make_one_sweep(backend: Backend) -> None:
    store = backend.open()
    for round_ in range(5):
        key = SubmissionKey(key=f"round {round_}", digest="d" * 64)
        mine = [new_sweep(10 * round_ + index) for index in range(4)]
        stored = at_once(backend, *[lambda own, s=sweep, k=key: own.add_sweep(s, key=k) for sweep in mine])
        assert len({sweep.id for sweep in stored}) == 1
    assert len(store.list_sweeps()) == 5


def test_of_different_submissions_at_once_under_one_key_one_is_stored_and_one_refused(backend: Backend) -> None:
    digests = ["a" * 64, "b" * 64]
    keys = [SubmissionKey(key="mine", digest=digest) for digest in digests]
    results = at_once(backend, *[lambda own, i=i: own.add_sweep(new_sweep(i), key=keys[i]) for i in range(2)])
    assert sorted((type(result) for result in results), key=str) == [KeyReusedError, Sweep]
    assert len(backend.open().list_sweeps()) == 1


def test_events_have_no_gaps_whoever_writes_them(backend: Backend) -> None:
    store = backend.open()
    lease = claimed(store)
    store.move_sweep(lease, S.RUNNING)

    def notices(mine: SweepStore) -> None:
        for number in range(15):
            mine.add_notice(lease, f"{number}")

    def verbs(mine: SweepStore) -> None:
        mine.control_sweep(lease.sweep_id, Verb.STOP)
        mine.control_sweep(lease.sweep_id, Verb.CANCEL)

    assert at_once(backend, notices, notices, verbs) == [None] * 3
    assert len(events_of(store, lease.sweep_id)) == 4 + 2 * 15 + 2
    check_history(store, lease.sweep_id)


@pytest.mark.parametrize("target", [S.COMPLETED, S.PAUSING, S.FAILED])
def test_a_verb_and_a_conductor_that_move_a_sweep_at_once_take_turns(backend: Backend, target: SweepState) -> None:
    store = backend.open()
    for index in range(5):
        lease = claimed(store, new_sweep(100 - index))
        store.move_sweep(lease, S.RUNNING)
        moved, controlled = at_once(
            backend,
            lambda mine, lease=lease: mine.move_sweep(lease, target),
            lambda mine, lease=lease: mine.control_sweep(lease.sweep_id, Verb.STOP),
        )
        assert not all(isinstance(result, Exception) for result in (moved, controlled))
        for result in (moved, controlled):
            assert not isinstance(result, Exception) or isinstance(result, IllegalMoveError)
        check_history(store, lease.sweep_id)


def test_a_step_that_two_threads_report_at_once_is_recorded_once(backend: Backend) -> None:
    store = backend.open()
    lease = claimed(store)
    trial = new_trial(lease.sweep_id)
    store.add_trials(lease, [trial])
    attempt = new_attempt(trial)
    store.start_attempt(lease, attempt)

    def report(mine: SweepStore) -> None:
        for step in range(1, 11):
            mine.record(lease, reports=[new_report(attempt, step)])

    assert at_once(backend, report, report) == [None, None]
    assert [r.step for r in store.list_reports(trial.id)] == list(range(1, 11))
    assert [r.seq for r in store.undelivered(lease.sweep_id, limit=100)] == list(range(1, 11))


def test_a_trial_that_two_threads_end_at_once_ends_once(backend: Backend) -> None:
    store = backend.open()
    lease = claimed(store)
    trial = new_trial(lease.sweep_id)
    store.add_trials(lease, [trial])
    store.start_attempt(lease, new_attempt(trial))
    ends = [new_end(trial.id, ending) for ending in (TrialEnding.PRUNED, TrialEnding.ERROR)]
    results = at_once(backend, *[lambda mine, end=end: mine.record(lease, ends=[end]) for end in ends])
    assert [type(result) for result in results if result is not None] == [IllegalMoveError]
    assert store.get_trial(trial.id).ending is ends[results.index(None)].ending


def test_a_write_that_races_the_loss_of_its_lease_comes_before_the_successor_or_not_at_all(backend: Backend) -> None:
    store = backend.open()
    for index in range(5):
        lease = claimed(store, new_sweep(100 - index))

        def take_over(mine: SweepStore, lease: Lease = lease) -> Lease | None:
            mine.release_lease(lease)
            return mine.claim_sweep(owner="successor", ttl=TTL)

        written, successor = at_once(
            backend, lambda mine, lease=lease: mine.add_notice(lease, "from the old generation"), take_over
        )
        assert written is None or isinstance(written, LeaseLostError)
        told = [e.kind for e in events_of(store, lease.sweep_id)]
        assert told.count(EventKind.SWEEP_NOTICE) == (written is None)
        if successor is None:  # the row was locked by the notice: the next look finds it
            successor = store.claim_sweep(owner="successor", ttl=TTL)
            told = [e.kind for e in events_of(store, lease.sweep_id)]
        assert successor is not None
        assert told[-1] is EventKind.SWEEP_CLAIMED


def written_while_held(
    engine: Engine, sweep_id: str, write: Callable[[], Any], *, past: datetime
) -> tuple[Any, datetime]:
    """What a write returns or raises that had to wait for its sweep's row, and a time, later than ``past``, at which it
    still waited.
    """
    waiting = (
        "SELECT count(*), clock_timestamp() FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with ThreadPoolExecutor(1) as pool:
        with engine.connect() as holder, engine.connect().execution_options(isolation_level="AUTOCOMMIT") as observer:
            holder.execute(text("SELECT 1 FROM sweeps WHERE id = :id FOR UPDATE"), {"id": sweep_id})
            writing = pool.submit(write)
            number, now = 0, past
            while not (number and now > past) and not writing.done():
                number, now = observer.execute(text(waiting)).one()
        return writing.exception(timeout=60) or writing.result(), now


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_write_that_waited_for_its_row_has_the_time_at_which_it_got_it(
    backend: Backend, emptied_postgres: Engine
) -> None:
    store = backend.open()
    lease = claimed(store)
    renewed, waited_at = written_while_held(
        emptied_postgres, lease.sweep_id, lambda: store.renew_lease(lease, ttl=TTL), past=lease.expires_at - TTL
    )
    assert renewed.expires_at >= waited_at + TTL


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_lease_that_runs_out_while_a_write_waits_for_its_row_is_lost(
    backend: Backend, emptied_postgres: Engine
) -> None:
    store = backend.open()
    lease = store.renew_lease(claimed(store), ttl=timedelta(seconds=1))
    refused, _ = written_while_held(
        emptied_postgres, lease.sweep_id, lambda: store.add_notice(lease, "too late"), past=lease.expires_at
    )
    assert isinstance(refused, LeaseLostError)
    assert EventKind.SWEEP_NOTICE not in [event.kind for event in events_of(store, lease.sweep_id)]


_CLAIM_ALL = """
import json, sys
from datetime import timedelta
from sweep_service.storage.sql import open_sql_store
store = open_sql_store(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
claim = lambda: store.claim_sweep(owner="process", ttl=timedelta(minutes=5))
leases = list(iter(claim, None))
for lease in leases:
    for number in range(3):
        store.add_notice(lease, str(number))
print(json.dumps([lease.sweep_id for lease in leases]))
"""


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_processes_that_claim_at_once_never_get_the_same_sweep(backend: Backend) -> None:
    store = backend.open()
    for index in range(30):
        store.add_sweep(new_sweep(index))
    outputs = processes_at_once(_CLAIM_ALL, backend.url, num=2)
    got = [sweep_id for output in outputs for sweep_id in json.loads(output)]
    assert all(len(events_of(store, sweep_id)) == 6 for sweep_id in got)
    got += [lease.sweep_id for lease in iter(lambda: store.claim_sweep(owner="test", ttl=TTL), None)]
    assert sorted(got) == [new_sweep(index).id for index in range(30)]
