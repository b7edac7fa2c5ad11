"""The laws of SweepStore that concern the numbers over all sweeps: for every store."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event
from store_values import (
    SPEC,
    START,
    TTL,
    FakeClock,
    claimed,
    new_attempt,
    new_end,
    new_report,
    new_sweep,
    new_trial,
)

from sweep_service.domain.resources import Resources
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, Verb
from sweep_service.domain.stock import NOTHING, TIME_BOUNDS_S, Stock, Times, Work
from sweep_service.domain.trial import Attempt, Cluster, Lease, NodeResources, Role
from sweep_service.ports import SweepStore
from sweep_service.storage.database import open_engine
from sweep_service.storage.sql import SqlSweepStore

S = SweepState
SECOND = timedelta(seconds=1)
ON_GPUS = SPEC.model_copy(update={"resources": Resources(gpus=2)})


def started(store: SweepStore, lease: Lease, number: int, *, role: Role = Role.SEARCH, **changes: Any) -> Attempt:
    """The first attempt of a new trial."""
    trial = new_trial(lease.sweep_id, number, role=role)
    store.add_trials(lease, [trial])
    attempt = new_attempt(trial, **changes)
    store.start_attempt(lease, attempt)
    return attempt


def end(store: SweepStore, lease: Lease, attempt: Attempt, ending: TrialEnding = TrialEnding.COMPLETED) -> None:
    objective = 0.5 if ending is TrialEnding.COMPLETED else None
    store.record(lease, ends=[new_end(attempt.trial_id, ending, objective=objective)])


def close(store: SweepStore, lease: Lease, state: SweepState = S.COMPLETED) -> None:
    store.move_sweep(lease, state)
    store.release_lease(lease)


def times(**counts: int) -> tuple[int, ...]:
    """How many took at most so long: ``upto_60=2``."""
    return tuple(counts.get(f"upto_{bound}", 0) for bound in (*TIME_BOUNDS_S, "any"))


def test_an_empty_store_has_nothing(store: SweepStore) -> None:
    assert store.take_stock() == Stock(sweeps={})


def test_sweeps_are_counted_by_state_and_those_that_wait_by_how_long(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    for index in range(4):
        clocked_store.add_sweep(new_sweep(index, queued_at=START + index * 10 * SECOND))
    fake_clock.advance(100 * SECOND)
    stock = clocked_store.take_stock()
    assert (stock.sweeps, stock.longest_wait, stock.num_unschedulable) == ({S.QUEUED: 4}, 100 * SECOND, 0)
    clocked_store.explain_wait(new_sweep(1).id, SweepReason.UNSCHEDULABLE, "too large")
    clocked_store.explain_wait(new_sweep(2).id, SweepReason.LIMITED, "too many")
    clocked_store.claim_sweep(owner="test", ttl=TTL)
    stock = clocked_store.take_stock()
    assert (stock.sweeps, stock.longest_wait) == ({S.QUEUED: 3, S.STARTING: 1}, 90 * SECOND)
    assert stock.num_unschedulable == 1
    for index in (1, 2, 3):
        clocked_store.control_sweep(new_sweep(index).id, Verb.CANCEL)
    stock = clocked_store.take_stock()
    assert (stock.sweeps, stock.longest_wait) == ({S.CANCELLED: 3, S.STARTING: 1}, NOTHING)
    assert stock.num_unschedulable == 0


def test_a_lease_is_told_by_the_time_that_it_has_left_and_a_sweep_without_one_as_unattended(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    first = claimed(clocked_store, new_sweep(0))
    second = claimed(clocked_store, new_sweep(1))
    fake_clock.advance(20 * SECOND)
    clocked_store.renew_lease(second, ttl=TTL)
    stock = clocked_store.take_stock()
    assert (stock.lease_left, stock.num_unattended) == (TTL - 20 * SECOND, 0)
    fake_clock.advance(TTL - 20 * SECOND)
    stock = clocked_store.take_stock()
    assert (stock.lease_left, stock.num_unattended) == (20 * SECOND, 1), "that of the first has run out"
    clocked_store.release_lease(second)
    stock = clocked_store.take_stock()
    assert (stock.lease_left, stock.num_unattended) == (None, 2)
    lease = clocked_store.claim_sweep(owner="next", ttl=TTL)
    assert lease is not None
    assert (lease.sweep_id, clocked_store.take_stock().num_unattended) == (first.sweep_id, 1)


def test_sweeps_that_need_no_conductor_are_not_unattended(clocked_store: SweepStore) -> None:
    lease = claimed(clocked_store)
    for state in (S.PAUSING, S.PAUSED):
        clocked_store.move_sweep(lease, state)
    clocked_store.release_lease(lease)
    clocked_store.add_sweep(new_sweep(1))
    clocked_store.control_sweep(new_sweep(1).id, Verb.CANCEL)
    clocked_store.add_sweep(new_sweep(2))
    stock = clocked_store.take_stock()
    assert stock.sweeps == {S.PAUSED: 1, S.CANCELLED: 1, S.QUEUED: 1}
    assert (stock.lease_left, stock.num_unattended) == (None, 0)


def test_how_long_sweeps_waited_for_their_start_is_kept_when_they_have_ended(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    for index, seconds in enumerate((3, 60, 61)):
        lease = claimed(clocked_store, new_sweep(index, created_at=fake_clock.now()))
        fake_clock.advance(seconds * SECOND)
        lease = clocked_store.claim_sweep(owner="again", ttl=TTL) or lease  # where it has run out
        clocked_store.move_sweep(lease, S.RUNNING)
        fake_clock.advance(5 * SECOND)
        close(clocked_store, lease)
    waits = clocked_store.take_stock().work.start_waits
    assert waits == Times(counts=times(upto_5=1, upto_60=1, upto_300=1), total=124 * SECOND)


def test_trials_and_attempts_are_counted_by_how_they_ended(clocked_store: SweepStore, fake_clock: FakeClock) -> None:
    lease = claimed(clocked_store)
    clocked_store.move_sweep(lease, S.RUNNING)
    tried = [started(clocked_store, lease, number) for number in range(5)]
    baseline = started(clocked_store, lease, 5, role=Role.BASELINE)
    clocked_store.add_trials(lease, [new_trial(lease.sweep_id, 6)])
    fake_clock.advance(4 * SECOND)
    end(clocked_store, lease, tried[0])
    end(clocked_store, lease, baseline)
    end(clocked_store, lease, tried[1], TrialEnding.OUT_OF_MEMORY)
    clocked_store.end_attempt(lease, tried[2].id, AttemptState.LOST)
    clocked_store.record(lease, rests=[tried[3].trial_id])
    fake_clock.advance(16 * SECOND)
    again = clocked_store.get_trial(tried[2].trial_id)
    clocked_store.start_attempt(lease, new_attempt(again, 1, started_at=fake_clock.now()))
    end(clocked_store, lease, tried[2], TrialEnding.WORKER_LOST)
    work = clocked_store.take_stock().work
    assert work.trials_ended == {
        (TrialEnding.COMPLETED, Role.SEARCH): 1,
        (TrialEnding.COMPLETED, Role.BASELINE): 1,
        (TrialEnding.OUT_OF_MEMORY, Role.SEARCH): 1,
        (TrialEnding.WORKER_LOST, Role.SEARCH): 1,
    }
    assert work.num_trials_running == 1, "the others have ended, rest or have not begun"
    assert work.trial_times == Times(counts=times(upto_5=3, upto_60=1), total=(3 * 4 + 20) * SECOND)
    assert work.attempts == {
        AttemptState.FINISHED: 2,
        AttemptState.INFEASIBLE: 1,
        AttemptState.LOST: 2,
        AttemptState.PREEMPTED: 1,
        AttemptState.RUNNING: 1,
    }


def test_a_trial_that_took_as_long_as_a_bound_is_below_it_and_one_that_never_ran_took_no_time(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    lease = claimed(clocked_store)
    lease = clocked_store.renew_lease(lease, ttl=timedelta(days=9))
    tried = [started(clocked_store, lease, number) for number in range(4)]
    clocked_store.add_trials(lease, [new_trial(lease.sweep_id, 4)])
    clocked_store.record(lease, ends=[new_end(new_trial(lease.sweep_id, 4).id, TrialEnding.CANCELLED)])
    for attempt, until in zip(tried, (15, 15.002, 86_400, 86_401), strict=True):
        fake_clock.advance(START + until * SECOND - fake_clock.now())
        end(clocked_store, lease, attempt)
    found = clocked_store.take_stock().work.trial_times
    assert found.counts == times(upto_15=1, upto_60=1, upto_86400=1, upto_any=1)
    assert found.total / SECOND == pytest.approx(15 + 15.002 + 86_400 + 86_401, abs=0.01)


def test_the_time_of_gpus_is_that_of_packs_times_the_gpus_of_each(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    lease = claimed(clocked_store, new_sweep(0, spec=ON_GPUS))
    on_cpus = claimed(clocked_store, new_sweep(1))
    together = [started(clocked_store, lease, number, pack="a") for number in range(2)]
    alone = started(clocked_store, lease, 2, pack="b")
    started(clocked_store, on_cpus, 0, pack="a")
    fake_clock.advance(10 * SECOND)
    end(clocked_store, lease, together[0])
    work = clocked_store.take_stock().work
    assert (work.num_packs_running, work.gpus_busy) == (3, 4.0)
    assert work.gpu_time == 2 * 2 * 10 * SECOND, "lanes share their pack's"
    fake_clock.advance(10 * SECOND)
    end(clocked_store, lease, together[1])
    fake_clock.advance(10 * SECOND)
    work = clocked_store.take_stock().work
    assert (work.num_packs_running, work.gpus_busy) == (2, 2.0)
    assert work.gpu_time == 2 * (20 + 30) * SECOND
    end(clocked_store, lease, alone)
    close(clocked_store, lease, S.FAILED)
    fake_clock.advance(9 * SECOND)
    work = clocked_store.take_stock().work
    assert (work.num_packs_running, work.gpus_busy, work.gpu_time) == (1, 0.0, 2 * (20 + 30) * SECOND)


def test_an_attempt_that_ended_before_it_started_by_another_clock_takes_nothing_off(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    lease = claimed(clocked_store, new_sweep(0, spec=ON_GPUS))
    ahead = started(clocked_store, lease, 0, started_at=START + 60 * SECOND)
    started(clocked_store, lease, 1, started_at=START + 60 * SECOND)
    fake_clock.advance(10 * SECOND)
    end(clocked_store, lease, ahead)
    work = clocked_store.take_stock().work
    assert (work.gpu_time, work.num_packs_running) == (NOTHING, 1)


def test_reports_wait_until_they_are_delivered_also_those_of_sweeps_that_ended_before(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    leases = [claimed(clocked_store, new_sweep(index)) for index in range(3)]
    for index, lease in enumerate(leases):
        attempt = started(clocked_store, lease, 0)
        reports = [new_report(attempt, step, reported_at=START + (10 * index + step) * SECOND) for step in range(1, 4)]
        clocked_store.record(lease, reports=reports)
    fake_clock.advance(50 * SECOND)
    stock = clocked_store.take_stock()
    assert (stock.num_undelivered, stock.longest_undelivered, stock.num_overdue) == (9, 49 * SECOND, 0)
    clocked_store.mark_delivered(leases[0], up_to=2)
    stock = clocked_store.take_stock()
    assert (stock.num_undelivered, stock.longest_undelivered) == (7, 47 * SECOND)
    clocked_store.mark_delivered(leases[0], up_to=3)
    clocked_store.mark_delivered(leases[2], up_to=3)
    clocked_store.set_tracking_due(leases[1], 60 * SECOND)
    assert clocked_store.take_stock().num_overdue == 0, "it has not ended"
    close(clocked_store, leases[1], S.FAILED)
    stock = clocked_store.take_stock()
    assert (stock.num_undelivered, stock.longest_undelivered, stock.num_overdue) == (3, 39 * SECOND, 1)


def test_what_nobody_will_deliver_any_more_does_not_wait(clocked_store: SweepStore) -> None:
    lease = claimed(clocked_store)
    clocked_store.record(lease, reports=[new_report(started(clocked_store, lease, 0), 1)])
    close(clocked_store, lease, S.FAILED)
    stock = clocked_store.take_stock()
    assert (stock.num_undelivered, stock.longest_undelivered, stock.num_overdue) == (0, NOTHING, 0)


def test_the_cluster_is_as_old_as_its_publication_by_the_stores_clock(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    cluster = Cluster(nodes=(NodeResources(node="n", cpus=4, gpus=1),), seen_at=START - 999 * SECOND)
    clocked_store.publish_cluster(cluster)
    fake_clock.advance(7 * SECOND)
    stock = clocked_store.take_stock()
    assert (stock.cluster, stock.cluster_age) == (cluster, 7 * SECOND)
    clocked_store.publish_cluster(cluster)
    assert clocked_store.take_stock().cluster_age == NOTHING


def lived(store: SweepStore, index: int, ending: TrialEnding = TrialEnding.COMPLETED) -> Lease:
    """The lease on a sweep that has ended with one trial, and still has it."""
    lease = claimed(store, new_sweep(index))
    store.move_sweep(lease, S.RUNNING)
    end(store, lease, started(store, lease, 0), ending)
    store.move_sweep(lease, S.COMPLETED)
    return lease


def ended(store: SweepStore) -> dict[TrialEnding, int]:
    found: Counter[TrialEnding] = Counter()
    for (ending, _), number in store.take_stock().work.trials_ended.items():
        found[ending] += number
    return dict(found)


def test_a_sweep_that_ends_is_deleted_or_is_opened_again_is_counted_as_it_is_then(store: SweepStore) -> None:
    """Whatever has been remembered of it."""
    for index in range(3):
        store.release_lease(lived(store, index, TrialEnding.ERROR))
    assert ended(store) == {TrialEnding.ERROR: 3}
    store.delete_sweep(new_sweep(1).id)
    assert ended(store) == {TrialEnding.ERROR: 2}
    store.control_sweep(new_sweep(0).id, Verb.RETRY)
    assert ended(store) == {TrialEnding.ERROR: 1}, "the failed trial waits again"
    lease = store.claim_sweep(owner="test", ttl=TTL)
    assert lease is not None
    store.move_sweep(lease, S.RUNNING)
    trial = store.get_trial(new_trial(lease.sweep_id, 0).id)
    store.start_attempt(lease, new_attempt(trial, 1))
    store.record(lease, ends=[new_end(trial.id, TrialEnding.COMPLETED, objective=0.5)])
    assert ended(store) == {TrialEnding.ERROR: 1, TrialEnding.COMPLETED: 1}
    close(store, lease)
    assert ended(store) == {TrialEnding.ERROR: 1, TrialEnding.COMPLETED: 1}
    store.release_lease(lived(store, 5))
    assert ended(store) == {TrialEnding.ERROR: 1, TrialEnding.COMPLETED: 2}


def test_what_the_holder_of_a_lease_writes_after_the_end_is_counted_as_well(store: SweepStore) -> None:
    lease = lived(store, 0)
    assert ended(store) == {TrialEnding.COMPLETED: 1}
    end(store, lease, started(store, lease, 1), TrialEnding.CANCELLED)
    assert ended(store) == {TrialEnding.COMPLETED: 1, TrialEnding.CANCELLED: 1}
    store.release_lease(lease)
    assert ended(store) == {TrialEnding.COMPLETED: 1, TrialEnding.CANCELLED: 1}


def test_every_store_tells_the_same_of_a_life(store: SweepStore) -> None:
    """On real clocks, so that PostgreSQL's own functions of time are asked too."""
    lease = claimed(store, new_sweep(0, spec=ON_GPUS, created_at=START))
    store.move_sweep(lease, S.RUNNING)
    running = started(store, lease, 0, pack="a")
    over = started(store, lease, 1, pack="b")
    store.record(lease, reports=[new_report(running, 1)])
    end(store, lease, over)
    store.add_sweep(new_sweep(1))
    store.publish_cluster(Cluster(nodes=(), seen_at=START))
    stock = store.take_stock()
    assert stock.sweeps == {S.RUNNING: 1, S.QUEUED: 1}
    since = stock.longest_wait
    assert since > timedelta(days=1)
    near = pytest.approx(since / SECOND, abs=60)
    assert stock.longest_undelivered / SECOND == near
    assert stock.lease_left is not None
    assert TTL - 60 * SECOND < stock.lease_left <= TTL
    assert (stock.num_unattended, stock.num_undelivered, stock.num_overdue) == (0, 1, 0)
    assert NOTHING <= stock.cluster_age < 60 * SECOND
    work = stock.work
    assert work.trials_ended == {(TrialEnding.COMPLETED, Role.SEARCH): 1}
    assert (work.num_trials_running, work.num_packs_running, work.gpus_busy) == (1, 2 - 1, 2.0)
    assert work.gpu_time / SECOND == pytest.approx(2 * 2 * since / SECOND, abs=240)
    assert (work.start_waits.counts, work.start_waits.total / SECOND) == (times(upto_any=1), near)
    assert sum(work.trial_times.counts) == 1
    assert NOTHING <= work.trial_times.total < 60 * SECOND
    assert work.attempts == {AttemptState.RUNNING: 1, AttemptState.FINISHED: 1}


def test_the_trials_of_sweeps_that_have_ended_are_read_once(sqlite_url: str) -> None:
    engine = open_engine(sqlite_url)
    store = SqlSweepStore(engine)
    for index in range(3):
        store.release_lease(lived(store, index))
    asked: list[Any] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(_c: Any, _u: Any, statement: str, parameters: Any, *_: Any) -> None:
        asked.extend(value for value in parameters if isinstance(value, str) and value.startswith("swp_"))

    first = store.take_stock()
    assert {new_sweep(index).id for index in range(3)} == set(asked)
    asked.clear()
    assert store.take_stock() == first
    assert asked == []
    store.release_lease(lived(store, 3))
    asked.clear()
    store.take_stock()
    assert set(asked) == {new_sweep(3).id}
    engine.dispose()


def test_many_sweeps_that_have_ended_are_counted_in_several_rounds(
    emptied_postgres: Engine, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweep_service.storage.sql_stock._AT_ONCE", 2)
    sqlite = open_engine(sqlite_url)
    for engine in (emptied_postgres, sqlite):
        store = SqlSweepStore(engine)
        for index in range(5):
            store.release_lease(lived(store, index))
        assert ended(store) == {TrialEnding.COMPLETED: 5}
    sqlite.dispose()


def test_work_put_together_is_that_of_all() -> None:
    one = Work(
        start_waits=Times.of([SECOND]),
        trials_ended={(TrialEnding.ERROR, Role.SEARCH): 1},
        trial_times=Times.of([2 * SECOND, timedelta(days=2)]),
        num_trials_running=1,
        attempts={AttemptState.LOST: 1},
        num_packs_running=2,
        gpus_busy=0.5,
        gpu_time=SECOND,
    )
    both = Work.together([one, Work(), one])
    assert both.trials_ended == {(TrialEnding.ERROR, Role.SEARCH): 2}
    assert both.trial_times == Times(counts=times(upto_5=2, upto_any=2), total=timedelta(days=4, seconds=4))
    assert (both.num_trials_running, both.num_packs_running, both.gpus_busy) == (2, 4, 1.0)
    assert (both.attempts, both.gpu_time) == ({AttemptState.LOST: 2}, 2 * SECOND)
    assert both.start_waits.counts == times(upto_1=2)
    assert Work.together([]) == Work()
