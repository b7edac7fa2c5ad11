"""The laws of SweepStore that concern sweeps that ended while the tracking server was away; for every store."""

from __future__ import annotations

from datetime import timedelta

import pytest
from store_values import TTL, FakeClock, claimed, events_of, new_sweep

from sweep_service.domain.errors import LeaseLostError
from sweep_service.domain.events import EventKind
from sweep_service.domain.states import SweepState, Verb
from sweep_service.domain.trial import Lease
from sweep_service.ports import SweepStore

S = SweepState
MINUTE = timedelta(minutes=1)


def ended_late(store: SweepStore, index: int = 0, *, wait: timedelta = MINUTE) -> str:
    """A cancelled sweep that the tracking server is to be tried again for, and nobody's."""
    store.add_sweep(new_sweep(index))
    lease = store.claim_sweep(owner="test", ttl=TTL)
    assert lease is not None
    store.move_sweep(lease, S.RUNNING)
    store.control_sweep(lease.sweep_id, Verb.CANCEL)
    store.set_tracking_due(lease, wait)
    store.move_sweep(lease, S.CANCELLED)
    store.release_lease(lease)
    return lease.sweep_id


def claim_late(store: SweepStore) -> Lease | None:
    return store.claim_late(owner="late", ttl=TTL)


def test_it_is_claimed_when_its_time_has_come_and_only_as_late(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    sweep_id = ended_late(clocked_store)
    assert clocked_store.get_sweep(sweep_id).tracking_due_at == fake_clock.now() + MINUTE
    assert claim_late(clocked_store) is None
    fake_clock.advance(MINUTE)
    assert clocked_store.claim_sweep(owner="test", ttl=TTL) is None
    lease = claim_late(clocked_store)
    assert lease is not None
    assert (lease.sweep_id, lease.owner, lease.generation) == (sweep_id, "late", 2)
    assert clocked_store.get_sweep(sweep_id).state is S.CANCELLED
    last = events_of(clocked_store, sweep_id)[-1]
    assert (last.kind, last.data) == (EventKind.SWEEP_CLAIMED, {"owner": "late", "generation": 2})
    assert claim_late(clocked_store) is None, "somebody is at it"


def test_it_is_claimed_again_after_the_death_of_whoever_was_at_it(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    ended_late(clocked_store, wait=timedelta(0))
    dead = claim_late(clocked_store)
    assert dead is not None
    fake_clock.advance(TTL)
    again = claim_late(clocked_store)
    assert again is not None
    assert again.generation == dead.generation + 1
    with pytest.raises(LeaseLostError):
        clocked_store.set_tracking_due(dead, None)


def test_it_is_due_again_after_another_failure_and_never_once_all_is_taken(
    clocked_store: SweepStore, fake_clock: FakeClock
) -> None:
    sweep_id = ended_late(clocked_store, wait=timedelta(0))
    for wait in (2 * MINUTE, None):
        lease = claim_late(clocked_store)
        assert lease is not None
        clocked_store.set_tracking_ref(lease, "its run")
        clocked_store.set_tracking_due(lease, wait)
        clocked_store.release_lease(lease)
        assert claim_late(clocked_store) is None
        fake_clock.advance(2 * MINUTE)
    fake_clock.advance(timedelta(days=9))
    assert claim_late(clocked_store) is None
    sweep = clocked_store.get_sweep(sweep_id)
    assert (sweep.tracking_due_at, sweep.tracking_ref) == (None, "its run")


def test_who_is_due_for_longest_is_first(clocked_store: SweepStore, fake_clock: FakeClock) -> None:
    ids = [ended_late(clocked_store, index, wait=wait * MINUTE) for index, wait in enumerate((3, 1, 2, 9))]
    fake_clock.advance(3 * MINUTE)
    order = [lease.sweep_id for lease in iter(lambda: claim_late(clocked_store), None)]
    assert order == [ids[1], ids[2], ids[0]]


def test_it_is_late_by_the_stores_own_clock(store: SweepStore) -> None:
    ended_late(store, 0, wait=timedelta(hours=1))
    due = ended_late(store, 1, wait=timedelta(0))
    lease = claim_late(store)
    assert lease is not None
    assert lease.sweep_id == due
    assert claim_late(store) is None


def test_a_sweep_that_has_yet_to_end_is_not_late(store: SweepStore) -> None:
    lease = claimed(store)
    store.move_sweep(lease, S.RUNNING)
    store.set_tracking_due(lease, timedelta(0))
    store.release_lease(lease)
    assert claim_late(store) is None


def test_one_that_is_opened_again_is_its_next_conductors_even_while_somebody_is_at_it(store: SweepStore) -> None:
    lease = claimed(store)
    sweep_id = lease.sweep_id
    store.set_tracking_due(lease, timedelta(0))
    store.move_sweep(lease, S.FAILED)
    store.release_lease(lease)
    late = claim_late(store)
    assert late is not None
    store.control_sweep(sweep_id, Verb.RETRY)
    assert store.get_sweep(sweep_id).tracking_due_at is None
    assert store.claim_sweep(owner="test", ttl=TTL) is not None
    with pytest.raises(LeaseLostError):
        store.set_tracking_due(late, timedelta(0))
    assert claim_late(store) is None
