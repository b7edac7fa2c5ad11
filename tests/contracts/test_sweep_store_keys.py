"""The laws of SweepStore that concern keys of submissions: for every store."""

from __future__ import annotations

import pytest
from store_values import TTL, events_of, new_sweep

from sweep_service.domain.errors import KeyReusedError
from sweep_service.domain.states import SweepState
from sweep_service.ports import SubmissionKey, SweepStore


def test_what_is_submitted_again_under_its_key_is_stored_once(store: SweepStore) -> None:
    key = SubmissionKey(key="mine", digest="d" * 64)
    owner = {"project": "default", "created_by": "somebody"}
    assert store.find_submitted(**owner, key=key) is None
    assert store.add_sweep(new_sweep(0), key=key) == new_sweep(0)
    assert store.add_sweep(new_sweep(1), key=key) == new_sweep(0)
    assert store.find_submitted(**owner, key=key) == new_sweep(0)
    assert [sweep.id for sweep in store.list_sweeps()] == [new_sweep(0).id]
    assert len(events_of(store, new_sweep(0).id)) == 1


def test_a_key_leads_to_its_sweep_as_it_stands_without_results(store: SweepStore) -> None:
    key = SubmissionKey(key="mine", digest="d" * 64)
    store.add_sweep(new_sweep(0), key=key)
    lease = store.claim_sweep(owner="dispatcher", ttl=TTL)
    assert lease is not None
    store.set_results(lease, {"leaderboard": []})
    again = store.add_sweep(new_sweep(1), key=key)
    assert (again.state, again.results) == (SweepState.STARTING, None)
    assert again == store.find_submitted(project="default", created_by="somebody", key=key)


def test_a_key_under_which_something_else_was_submitted_is_refused(store: SweepStore) -> None:
    store.add_sweep(new_sweep(0), key=SubmissionKey(key="mine", digest="d" * 64))
    other = SubmissionKey(key="mine", digest="e" * 64)
    with pytest.raises(KeyReusedError, match="mine"):
        store.add_sweep(new_sweep(1), key=other)
    with pytest.raises(KeyReusedError, match="mine"):
        store.find_submitted(project="default", created_by="somebody", key=other)
    assert len(store.list_sweeps()) == 1


def test_a_key_is_its_projects_and_its_creators_own(store: SweepStore) -> None:
    key = SubmissionKey(key="Mine", digest="d" * 64)
    sweeps = [
        new_sweep(0),
        new_sweep(1, project="another"),
        new_sweep(2, created_by="somebody else"),
    ]
    for sweep in sweeps:
        assert store.add_sweep(sweep, key=key) == sweep
    other_word = SubmissionKey(key="mine", digest="d" * 64)
    assert store.find_submitted(project="default", created_by="somebody", key=other_word) is None
    assert store.add_sweep(new_sweep(3), key=other_word) == new_sweep(3)


def test_a_sweep_that_is_stored_already_takes_no_second_key(store: SweepStore) -> None:
    store.add_sweep(new_sweep(0))
    with pytest.raises(ValueError, match="already"):
        store.add_sweep(new_sweep(0), key=SubmissionKey(key="mine", digest="d" * 64))
