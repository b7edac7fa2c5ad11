"""The laws of SweepStore that concern the time that packs have taken: for every store."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from store_values import START, FakeClock, claimed, new_attempt, new_end, new_sweep, new_trial

from sweep_service.domain.errors import SweepNotFoundError
from sweep_service.domain.states import AttemptState, TrialEnding
from sweep_service.domain.trial import Attempt, BusyTime, Lease
from sweep_service.ports import SweepStore

SECOND = timedelta(seconds=1)


def started(store: SweepStore, lease: Lease, number: int, **changes: Any) -> Attempt:
    """The first attempt of a new trial."""
    trial = new_trial(lease.sweep_id, number)
    store.add_trials(lease, [trial])
    attempt = new_attempt(trial, **changes)
    store.start_attempt(lease, attempt)
    return attempt


def complete(store: SweepStore, lease: Lease, attempts: Iterable[Attempt]) -> None:
    """Their trials have ended."""
    ends = [new_end(attempt.trial_id, TrialEnding.COMPLETED, objective=0.5) for attempt in attempts]
    store.record(lease, ends=ends)


def stored(store: SweepStore, attempt: Attempt) -> Attempt:
    return store.list_attempts(attempt.trial_id)[attempt.number]


def test_the_time_of_attempts_without_a_pack_is_added_up_whatever_became_of_them(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    lease = claimed(clocked_store)
    assert clocked_store.busy_time(lease.sweep_id) == BusyTime()
    first = started(clocked_store, lease, 0)
    fake_clock.advance(10 * SECOND)
    clocked_store.end_attempt(lease, first.id, AttemptState.LOST)
    trial = clocked_store.get_trial(first.trial_id)
    clocked_store.start_attempt(lease, new_attempt(trial, 1, started_at=fake_clock.now()))
    started(clocked_store, lease, 1, started_at=START + 4 * SECOND)
    fake_clock.advance(5.25 * SECOND)
    complete(clocked_store, lease, [first])
    busy = clocked_store.busy_time(lease.sweep_id)
    assert busy == BusyTime(ended=15.25 * SECOND, running_since=(START + 4 * SECOND,))
    assert busy.until(fake_clock.now()) == (15.25 + 11.25) * SECOND
    assert busy.until(START) == 15.25 * SECOND, "a clock that is behind takes nothing off"


def test_a_pack_takes_the_time_from_its_first_start_to_its_last_end(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    lease = claimed(clocked_store)

    def busy() -> BusyTime:
        return clocked_store.busy_time(lease.sweep_id)

    def start(number: int) -> Attempt:
        return started(clocked_store, lease, number, pack="ab12c_00000", started_at=fake_clock.now())

    def end_after(seconds: float, *attempts: Attempt) -> None:
        fake_clock.advance(seconds * SECOND)
        complete(clocked_store, lease, attempts)

    first, second = start(0), start(1)
    assert busy() == BusyTime(running_since=(START,))
    end_after(10, first)
    refilled = start(2)
    assert busy() == BusyTime(running_since=(START,)), "one lane has ended, and two run"
    end_after(10, second)
    assert busy() == BusyTime(running_since=(START,)), "the one that still runs has started later"
    end_after(10.5, refilled)
    assert busy() == BusyTime(ended=30.5 * SECOND)
    fake_clock.advance(SECOND)
    last = start(3)
    assert busy() == BusyTime(running_since=(START,)), "a pack is one also when none of its lanes ran for a moment"
    end_after(2, last)
    assert busy() == BusyTime(ended=33.5 * SECOND)


def test_packs_are_told_apart_by_generation_and_name_and_without_a_name_each_attempt_is_one(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    lease = claimed(clocked_store)
    packs = [(1, "a"), (1, "b"), (1, "A"), (2, "a"), (1, ""), (1, ""), (2, "")]
    attempts = [
        started(clocked_store, lease, number, generation=generation, pack=pack)
        for number, (generation, pack) in enumerate(packs * 2)
    ]
    assert clocked_store.busy_time(lease.sweep_id) == BusyTime(running_since=(START,) * (4 + 2 * 3))
    fake_clock.advance(5 * SECOND)
    complete(clocked_store, lease, attempts[:-1])
    clocked_store.end_attempt(lease, attempts[-1].id, AttemptState.LOST)
    assert clocked_store.busy_time(lease.sweep_id) == BusyTime(ended=(4 + 2 * 3) * 5 * SECOND)


def test_an_attempt_that_ended_before_it_started_by_another_clock_took_no_time(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    lease = claimed(clocked_store)
    attempt = started(clocked_store, lease, 0, started_at=START + SECOND)
    clocked_store.end_attempt(lease, attempt.id, AttemptState.LOST)
    assert clocked_store.busy_time(lease.sweep_id) == BusyTime()


def test_lanes_of_a_pack_are_one_in_every_store(store: SweepStore) -> None:
    lease = claimed(store)
    packs = ["a", "A", "a", "", "A", "", "b", ""]
    attempts = [
        started(store, lease, number, pack=pack, started_at=START - number * SECOND)
        for number, pack in enumerate(packs)
    ]
    for number in (1, 4, 2, 6, 3):
        complete(store, lease, [attempts[number]])
    attempts = [stored(store, attempt) for attempt in attempts]
    assert [attempt.pack for attempt in attempts] == packs
    spans = [(attempts[4].started_at, attempts[4].ended_at)]  # the other of its pack started later and ended earlier
    spans += [(attempts[number].started_at, attempts[number].ended_at) for number in (6, 3)]
    ended = sum((end - start for start, end in spans if end is not None), timedelta(0))
    running = (START - 7 * SECOND, START - 5 * SECOND, START - 2 * SECOND)
    assert store.busy_time(lease.sweep_id) == BusyTime(ended=ended, running_since=running)


def test_the_time_is_of_one_sweep_whatever_its_packs_are_called(store: SweepStore) -> None:
    leases = [claimed(store, new_sweep(index)) for index in range(2)]
    attempts = [started(store, lease, 0, pack="ab12c_00000") for lease in leases]
    store.end_attempt(leases[0], attempts[0].id, AttemptState.LOST)
    ended_at = stored(store, attempts[0]).ended_at
    assert ended_at is not None
    assert store.busy_time(leases[0].sweep_id) == BusyTime(ended=ended_at - START)
    assert store.busy_time(leases[1].sweep_id) == BusyTime(running_since=(START,))
    with pytest.raises(SweepNotFoundError):
        store.busy_time("swp_nowhere")
