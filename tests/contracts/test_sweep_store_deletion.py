"""The laws of SweepStore that concern the deletion of sweeps: for every store."""

from __future__ import annotations

from datetime import timedelta

import pytest
from store_values import TTL, claimed, events_of, new_attempt, new_end, new_report, new_sweep, new_trial, said

from sweep_service.domain.errors import IllegalMoveError, LeaseLostError, SweepNotFoundError, TrialNotFoundError
from sweep_service.domain.states import SweepState, TrialEnding, Verb
from sweep_service.domain.trial import Lease, Trial
from sweep_service.ports import SubmissionKey, SweepStore

KEY = SubmissionKey(key="mine", digest="d" * 64)


def ended(store: SweepStore, index: int = 0) -> tuple[Lease, Trial]:
    """A sweep that has ended with something in every table, and its trial."""
    lease = claimed(store, new_sweep(index))
    trial = new_trial(lease.sweep_id)
    store.add_trials(lease, [trial])
    store.start_attempt(lease, attempt := new_attempt(trial))
    end = new_end(trial.id, TrialEnding.COMPLETED, objective=0.5)
    store.record(lease, reports=[new_report(attempt, 1)], ends=[end], best=trial.id)
    store.append_logs(lease, [said(attempt, 0, ["a line"])])
    store.move_sweep(lease, SweepState.RUNNING)
    store.move_sweep(lease, SweepState.COMPLETED)
    return lease, trial


def test_a_deleted_sweep_is_gone_with_everything_that_was_its_own(store: SweepStore) -> None:
    lease, trial = ended(store)
    store.delete_sweep(lease.sweep_id)
    for look in (store.get_sweep, store.list_trials, store.list_events, store.count_trials, store.delete_sweep):
        with pytest.raises(SweepNotFoundError):
            look(lease.sweep_id)
    for look in (store.get_trial, store.list_attempts, store.list_reports, store.list_reports_after):
        with pytest.raises(TrialNotFoundError):
            look(trial.id)
    assert store.list_sweeps() == []
    assert store.undelivered(lease.sweep_id, limit=10) == []


def test_the_others_stay_as_they_are(store: SweepStore) -> None:
    kept, trial = ended(store, 1)
    before = store.get_sweep(kept.sweep_id), events_of(store, kept.sweep_id), store.list_reports(trial.id)
    store.release_lease(kept)
    gone, _ = ended(store, 0)
    store.delete_sweep(gone.sweep_id)
    assert (store.get_sweep(kept.sweep_id), events_of(store, kept.sweep_id), store.list_reports(trial.id)) == before
    assert store.get_trial(trial.id).sweep_id == kept.sweep_id


def test_a_conductor_that_still_holds_the_lease_of_a_deleted_sweep_has_lost_it(store: SweepStore) -> None:
    lease, _ = ended(store)
    store.delete_sweep(lease.sweep_id)
    with pytest.raises(LeaseLostError):
        store.add_notice(lease, "anybody there?")
    with pytest.raises(LeaseLostError):
        store.renew_lease(lease, ttl=timedelta(seconds=60))
    store.release_lease(lease)


@pytest.mark.parametrize(
    "path",
    [
        (),
        (SweepState.RUNNING,),
        (SweepState.PAUSING,),
        (SweepState.PAUSING, SweepState.PAUSED),
        (SweepState.PAUSING, SweepState.PAUSED, SweepState.QUEUED),
        (SweepState.STOPPING,),
        (SweepState.CANCELLING,),
    ],
    ids=str,
)
def test_a_sweep_that_has_not_ended_is_not_deleted(store: SweepStore, path: tuple[SweepState, ...]) -> None:
    lease = claimed(store)
    for step in path:
        store.move_sweep(lease, step)
    before = store.get_sweep(lease.sweep_id)
    with pytest.raises(IllegalMoveError) as raised:
        store.delete_sweep(lease.sweep_id)
    assert (raised.value.current, raised.value.target) == (before.state, "delete")
    assert Verb.CANCEL in raised.value.allowed
    assert store.get_sweep(lease.sweep_id) == before


def test_the_key_of_a_deleted_sweep_is_free_again(store: SweepStore) -> None:
    store.add_sweep(new_sweep(0), key=KEY)
    store.control_sweep(new_sweep(0).id, Verb.CANCEL)
    store.delete_sweep(new_sweep(0).id)
    assert store.find_submitted(project="default", created_by="somebody", key=KEY) is None
    assert store.add_sweep(new_sweep(1), key=KEY) == new_sweep(1)


def test_the_id_of_a_deleted_sweep_begins_anew(store: SweepStore) -> None:
    lease, _ = ended(store)
    store.delete_sweep(lease.sweep_id)
    store.add_sweep(new_sweep(0))
    assert len(events_of(store, lease.sweep_id)) == 1
    assert store.claim_sweep(owner="dispatcher", ttl=TTL) is not None
