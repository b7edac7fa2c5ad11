"""The laws of the store that concern API keys and the records of changes: for every store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from store_values import SPEC, START, Backend, claimed, events_of, new_attempt, new_end, new_sweep, new_trial

from sweep_service.domain.audit import AuditAction, AuditRecord
from sweep_service.domain.errors import (
    IllegalMoveError,
    KeyNameTakenError,
    KeyNotFoundError,
    LastAdminKeyError,
    SpecChangedError,
)
from sweep_service.domain.events import EventKind
from sweep_service.domain.keys import SETUP, Actor, ApiKey, KeyRole
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepState, TrialEnding, Verb
from sweep_service.ports import SubmissionKey, SweepStore

ANN = Actor(name="ann", key_id="key_" + "0" * 25 + "7")
DIGEST = "d" * 64


def new_key(index: int = 0, **changes: Any) -> ApiKey:
    """Those with a higher index are newer."""
    values: dict[str, Any] = {
        "id": f"key_{index:026d}",
        "name": f"key-{index}",
        "role": KeyRole.SUBMITTER,
        "created_at": START,
        "created_by": "somebody",
    }
    return ApiKey(**values | changes)


def add(store: SweepStore, index: int = 0, **changes: Any) -> ApiKey:
    return store.add_key(new_key(index, **changes), digest=DIGEST, by=ANN)


def revoke(store: SweepStore, index: int = 0) -> ApiKey:
    return store.revoke_key(new_key(index).id, by=ANN)


def records_of(store: SweepStore) -> list[AuditRecord]:
    """All of them; they have no gaps."""
    records = list(store.list_audit(limit=10_000))
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    return records


def test_a_key_is_found_by_its_id_with_its_digest(store: SweepStore) -> None:
    assert store.find_key(new_key().id) is None
    assert add(store) == new_key()
    found = store.find_key(new_key().id)
    assert found is not None
    assert (found.key, found.digest) == (new_key(), DIGEST)
    assert DIGEST not in repr(found)


def test_keys_that_are_not_revoked_are_listed_first_and_the_newest_of_each(store: SweepStore) -> None:
    for index in range(4):
        add(store, index)
    store.revoke_key(new_key(3).id, by=ANN)
    assert [key.name for key in store.list_keys()] == ["key-2", "key-1", "key-0", "key-3"]
    assert [key.name for key in store.list_keys(limit=2)] == ["key-2", "key-1"]


def test_two_keys_that_are_not_revoked_never_have_one_name(store: SweepStore) -> None:
    add(store, 0, name="ann")
    with pytest.raises(KeyNameTakenError, match="'ann'"):
        add(store, 1, name="ann")
    assert store.find_key(new_key(1).id) is None
    store.revoke_key(new_key(0).id, by=ANN)
    add(store, 1, name="ann")
    assert [record.action for record in records_of(store)] == ["key.create", "key.revoke", "key.create"]


def test_an_id_is_not_given_again_even_when_its_key_is_revoked(store: SweepStore) -> None:
    add(store)
    store.revoke_key(new_key().id, by=ANN)
    with pytest.raises(ValueError, match="already"):
        add(store, name="another")
    assert [key.name for key in store.list_keys()] == ["key-0"]


@pytest.mark.parametrize(
    "changes", [{"revoked_at": START}, {"last_used_at": START}, {"name": "Ann"}, {"name": "setup"}]
)
def test_a_new_key_has_no_history_and_a_name_that_keys_may_have(store: SweepStore, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=new_key().id):
        add(store, **changes)
    assert store.list_keys() == []


def test_a_revoked_key_stays_as_it_was_revoked_first(store: SweepStore) -> None:
    add(store)
    revoked = store.revoke_key(new_key().id, by=ANN)
    assert revoked.revoked_at is not None
    assert store.revoke_key(new_key().id, by=SETUP) == revoked
    found = store.find_key(new_key().id)
    assert found is not None
    assert found.key == revoked
    assert [record.by for record in records_of(store)] == ["ann", "ann"]


def test_a_key_that_there_is_not_cannot_be_revoked(store: SweepStore) -> None:
    with pytest.raises(KeyNotFoundError, match=new_key().id):
        store.revoke_key(new_key().id, by=ANN)


def test_the_last_admin_key_cannot_be_revoked(store: SweepStore) -> None:
    add(store, 0, role=KeyRole.ADMIN)
    add(store, 1, role=KeyRole.SUBMITTER)
    with pytest.raises(LastAdminKeyError, match="Make another one first"):
        store.revoke_key(new_key(0).id, by=ANN)
    add(store, 2, role=KeyRole.ADMIN)
    assert store.revoke_key(new_key(0).id, by=ANN).revoked_at is not None
    with pytest.raises(LastAdminKeyError):
        store.revoke_key(new_key(2).id, by=ANN)
    assert store.revoke_key(new_key(1).id, by=ANN).revoked_at is not None


def test_the_use_of_a_key_is_written_once_a_minute(store: SweepStore) -> None:
    def noted(at: datetime) -> datetime | None:
        store.note_use(new_key().id, at)
        found = store.find_key(new_key().id)
        assert found is not None
        return found.key.last_used_at

    add(store)
    assert noted(START) == START
    assert noted(START + timedelta(seconds=59)) == START
    assert noted(START + timedelta(seconds=60)) == START + timedelta(seconds=60)
    assert noted(START) == START + timedelta(seconds=60), "a slower clock takes nothing back"
    store.note_use(new_key(9).id, START)
    assert store.find_key(new_key(9).id) is None
    assert [record.action for record in records_of(store)] == ["key.create"], "uses are no changes"


def test_a_key_leaves_a_record_of_its_making_and_of_its_end(store: SweepStore) -> None:
    add(store, name="bob", role=KeyRole.VIEWER)
    store.revoke_key(new_key().id, by=SETUP)
    made, revoked = records_of(store)
    detail = {"name": "bob", "role": "viewer"}
    assert (made.at, made.key_id, made.by) == (START, ANN.key_id, "ann")
    assert (made.action, made.subject, made.detail) == (AuditAction.KEY_CREATE, new_key().id, detail)
    assert (revoked.seq, revoked.key_id, revoked.by, revoked.action) == (2, None, "setup", AuditAction.KEY_REVOKE)
    assert (revoked.subject, revoked.detail) == (new_key().id, detail)


# --- changes of sweeps ------------------------------------------------------------------------------------------------


def test_a_submission_leaves_one_record_however_often_it_is_repeated(store: SweepStore) -> None:
    key = SubmissionKey(key="mine", digest=DIGEST)
    for index in range(2):
        store.add_sweep(new_sweep(index), key=key, by=ANN)
    (record,) = records_of(store)
    assert (record.by, record.key_id, record.action) == ("ann", ANN.key_id, AuditAction.SWEEP_SUBMIT)
    assert (record.subject, record.at) == (new_sweep(0).id, START)
    assert record.detail == {"name": SPEC.name, "project": "default"}
    assert events_of(store, new_sweep(0).id)[0].data == {"by": "ann"}


def test_what_nobody_has_signed_is_recorded_as_anonymous_and_its_events_name_nobody(store: SweepStore) -> None:
    store.add_sweep(new_sweep())
    store.control_sweep(new_sweep().id, Verb.CANCEL)
    assert [(record.by, record.key_id) for record in records_of(store)] == [("anonymous", None)] * 2
    assert all("by" not in event.data for event in events_of(store, new_sweep().id))


def test_a_verb_leaves_a_record_only_where_it_moves_something(store: SweepStore) -> None:
    store.add_sweep(new_sweep())
    for verb in (Verb.PAUSE, Verb.PAUSE, Verb.RESUME, Verb.RESUME, Verb.STOP, Verb.STOP):
        store.control_sweep(new_sweep().id, verb, by=ANN)
    with pytest.raises(IllegalMoveError):
        store.control_sweep(new_sweep().id, Verb.PAUSE, by=ANN)
    told = [(record.action, record.detail["from"], record.detail["to"]) for record in records_of(store)[1:]]
    assert told == [
        ("sweep.pause", "queued", "paused"),
        ("sweep.resume", "paused", "queued"),
        ("sweep.stop", "queued", "stopped"),
    ]
    moves = [event for event in events_of(store, new_sweep().id) if event.kind is EventKind.SWEEP_MOVED]
    assert [event.data["by"] for event in moves] == ["ann"] * 3


def test_what_a_conductor_moves_is_signed_by_nobody_and_recorded_nowhere(store: SweepStore) -> None:
    lease = claimed(store)
    store.move_sweep(lease, SweepState.RUNNING)
    assert [record.action for record in records_of(store)] == ["sweep.submit"]
    assert all("by" not in event.data for event in events_of(store, lease.sweep_id))


def test_a_retry_is_recorded_with_its_trials_and_only_where_there_is_one(store: SweepStore) -> None:
    lease = claimed(store)
    store.move_sweep(lease, SweepState.RUNNING)
    store.control_sweep(lease.sweep_id, Verb.RETRY, by=ANN)
    trial = new_trial(lease.sweep_id)
    store.add_trials(lease, [trial])
    store.start_attempt(lease, new_attempt(trial))
    store.record(lease, ends=[new_end(trial.id, TrialEnding.ERROR)])
    store.control_sweep(lease.sweep_id, Verb.RETRY, by=ANN)
    _, retried = records_of(store)
    assert (retried.action, retried.detail) == ("sweep.retry", {"revision": 1, "changes": {}, "retried": [0]})


def test_an_amendment_is_recorded_with_what_it_changed(store: SweepStore) -> None:
    store.add_sweep(new_sweep())
    amended = SweepSpec.model_validate({**SPEC.canonical(), "budget": {**SPEC.canonical()["budget"], "trials": 9}})
    store.amend_sweep(new_sweep().id, amended, revision=0, by=ANN)
    store.amend_sweep(new_sweep().id, amended, revision=1, by=ANN)
    with pytest.raises(SpecChangedError):
        store.amend_sweep(new_sweep().id, SPEC, revision=0, by=ANN)
    _, record = records_of(store)
    assert (record.action, record.by) == ("sweep.amend", "ann")
    assert record.detail["changes"] == {"/budget/trials": [4, 9]}
    assert events_of(store, new_sweep().id)[-1].data["by"] == "ann"


def test_the_record_of_a_deletion_outlives_the_sweep(store: SweepStore) -> None:
    store.add_sweep(new_sweep(), by=ANN)
    with pytest.raises(IllegalMoveError):
        store.delete_sweep(new_sweep().id, by=ANN)
    store.control_sweep(new_sweep().id, Verb.CANCEL, by=ANN)
    store.delete_sweep(new_sweep().id, by=ANN)
    submitted, cancelled, deleted = records_of(store)
    assert {record.subject for record in (submitted, cancelled, deleted)} == {new_sweep().id}
    assert deleted.action is AuditAction.SWEEP_DELETE
    assert deleted.detail == {
        "name": SPEC.name,
        "project": "default",
        "created_by": "somebody",
        "state": "cancelled",
    }


def test_records_are_read_on_after_the_last_one_that_is_known(store: SweepStore) -> None:
    for index in range(5):
        store.add_sweep(new_sweep(index), by=ANN)
    assert [record.seq for record in store.list_audit(limit=2)] == [1, 2]
    assert [record.seq for record in store.list_audit(after=2, limit=2)] == [3, 4]
    assert [record.seq for record in store.list_audit(after=4)] == [5]
    assert list(store.list_audit(after=5)) == []


def test_no_record_is_left_of_what_did_not_happen(store: SweepStore) -> None:
    store.add_sweep(new_sweep())
    with pytest.raises(ValueError, match="already"):
        store.add_sweep(new_sweep(), by=ANN)
    assert len(records_of(store)) == 1


# --- at the same time -------------------------------------------------------------------------------------------------


def at_once(backend: Backend, *calls: Callable[[SweepStore], object]) -> list[object]:
    """Each call with a store of its own, all at once; what each returned or raised."""
    start = Barrier(len(calls))
    stores = [backend.open() for _ in calls]

    def run(store: SweepStore, call: Callable[[SweepStore], object]) -> object:
        start.wait()
        try:
            return call(store)
        except (KeyNameTakenError, LastAdminKeyError) as error:
            return type(error)

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(run, stores, calls))


def test_of_two_admins_who_revoke_each_other_at_once_one_is_left(backend: Backend) -> None:
    store = backend.open()
    for round_ in range(5):
        first, second = 2 * round_, 2 * round_ + 1
        for index in (first, second):
            add(store, index, role=KeyRole.ADMIN)
        for key in [key for key in store.list_keys() if key.revoked_at is None][2:]:
            store.revoke_key(key.id, by=ANN)  # the one that an earlier round has left
        results = at_once(
            backend,
            *(partial(revoke, index=index) for index in (first, second)),
        )
        assert [result for result in results if result is LastAdminKeyError] == [LastAdminKeyError]
        assert len([key for key in store.list_keys() if key.revoked_at is None]) == 1


def test_of_two_keys_of_one_name_at_once_one_is_made(backend: Backend) -> None:
    for round_ in range(5):
        results = at_once(
            backend,
            lambda store, index=2 * round_: add(store, index, name="ann"),
            lambda store, index=2 * round_ + 1: add(store, index, name="ann"),
        )
        assert [result for result in results if result is KeyNameTakenError] == [KeyNameTakenError]
        (made,) = [result for result in results if isinstance(result, ApiKey)]
        backend.open().revoke_key(made.id, by=ANN)


def test_records_of_changes_at_once_have_no_gaps_and_none_is_lost(backend: Backend) -> None:
    def many(worker: int) -> Callable[[SweepStore], object]:
        def run(store: SweepStore) -> None:
            for index in range(worker * 10, worker * 10 + 10):
                store.add_sweep(new_sweep(index), by=ANN)
                store.control_sweep(new_sweep(index).id, Verb.CANCEL, by=ANN)
                add(store, index)

        return run

    at_once(backend, *(many(worker) for worker in range(4)))
    assert len(records_of(backend.open())) == 4 * 10 * 3
