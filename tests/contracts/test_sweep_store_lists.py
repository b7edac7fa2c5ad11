"""The laws of SweepStore that concern lists of sweeps: for every store."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from store_values import SPEC, START, claimed, new_sweep

from sweep_service.domain.states import SweepState
from sweep_service.domain.trial import Sweep
from sweep_service.ports import SweepFilter, SweepStore


def labelled(index: int, **labels: str) -> Sweep:
    return new_sweep(index, spec=SPEC.model_copy(update={"labels": labels}))


def ids(*indices: int) -> list[str]:
    return [new_sweep(index).id for index in indices]


def listed(store: SweepStore, only: SweepFilter, **options: Any) -> list[str]:
    return [sweep.id for sweep in store.list_sweeps(only=only, **options)]


def test_sweeps_are_listed_newest_first_in_pages(store: SweepStore) -> None:
    sweeps = [new_sweep(index) for index in (3, 1, 4, 0, 2)]
    for sweep in sweeps:
        store.add_sweep(sweep)
    newest_first = sorted((sweep.id for sweep in sweeps), reverse=True)
    assert [s.id for s in store.list_sweeps()] == newest_first
    assert [s.id for s in store.list_sweeps(limit=2)] == newest_first[:2]
    assert [s.id for s in store.list_sweeps(before=newest_first[1], limit=2)] == newest_first[2:4]
    assert store.list_sweeps(before=newest_first[-1]) == []


def test_sweeps_are_listed_oldest_first_in_pages(store: SweepStore) -> None:
    for index in (3, 1, 4, 0, 2):
        store.add_sweep(new_sweep(index))
    assert listed(store, SweepFilter(), oldest_first=True) == ids(0, 1, 2, 3, 4)
    assert listed(store, SweepFilter(), oldest_first=True, after=ids(1)[0], limit=2) == ids(2, 3)
    assert listed(store, SweepFilter(), oldest_first=True, after=ids(4)[0]) == []
    assert listed(store, SweepFilter(), after=ids(0)[0], before=ids(3)[0]) == ids(2, 1)


def test_sweeps_are_found_by_their_state(store: SweepStore) -> None:
    for index in range(3):
        store.add_sweep(new_sweep(index))
    lease = store.claim_sweep(owner="dispatcher", ttl=timedelta(seconds=60))
    assert lease is not None
    store.move_sweep(lease, SweepState.FAILED)
    assert store.claim_sweep(owner="dispatcher", ttl=timedelta(seconds=60)) is not None
    assert listed(store, SweepFilter(states=frozenset({SweepState.QUEUED}))) == ids(2)
    assert listed(store, SweepFilter(states=frozenset({SweepState.QUEUED, SweepState.FAILED}))) == ids(2, 0)
    assert listed(store, SweepFilter(states=frozenset({SweepState.PAUSED}))) == []
    assert listed(store, SweepFilter(states=frozenset(SweepState)), before=ids(2)[0], limit=1) == ids(1)


def test_sweeps_are_found_by_all_of_their_labels(store: SweepStore) -> None:
    store.add_sweep(labelled(0, team="ads", tier="a"))
    store.add_sweep(labelled(1, team="ads", tier="b"))
    store.add_sweep(labelled(2))
    store.add_sweep(labelled(3, team="adsx", ads="team"))
    assert listed(store, SweepFilter(labels=frozenset({("team", "ads")}))) == ids(1, 0)
    assert listed(store, SweepFilter(labels=frozenset({("team", "ads"), ("tier", "a")}))) == ids(0)
    assert listed(store, SweepFilter(labels=frozenset({("team", "ads"), ("team", "adsx")}))) == []
    assert listed(store, SweepFilter(labels=frozenset({("Team", "ads")}))) == []


@pytest.mark.parametrize("key", ["null", "NULL", "0", "a.b", "a-b", "A_b", "true", "x" * 63])
def test_a_label_may_have_any_key_and_value_that_a_spec_allows(store: SweepStore, key: str) -> None:
    store.add_sweep(labelled(0, **{key: key}))
    store.add_sweep(labelled(1, other=key))
    assert listed(store, SweepFilter(labels=frozenset({(key, key)}))) == ids(0)
    assert listed(store, SweepFilter(labels=frozenset({(key, "other")}))) == []


def test_sweeps_are_found_by_their_project(store: SweepStore) -> None:
    store.add_sweep(new_sweep(0, project="a"))
    store.add_sweep(new_sweep(1, project="b"))
    assert listed(store, SweepFilter(project="a")) == ids(0)
    assert listed(store, SweepFilter(project="A")) == []


def test_sweeps_are_found_by_the_time_of_their_making(store: SweepStore) -> None:
    for index in range(3):
        store.add_sweep(new_sweep(index, created_at=START + timedelta(microseconds=index)))
    assert listed(store, SweepFilter(created_after=START)) == ids(2, 1)
    assert listed(store, SweepFilter(created_after=START - timedelta(days=1))) == ids(2, 1, 0)
    assert listed(store, SweepFilter(created_after=START + timedelta(microseconds=2))) == []


def test_a_filter_of_several_things_asks_for_all_of_them(store: SweepStore) -> None:
    store.release_lease(claimed(store, labelled(0, team="ads")))
    store.add_sweep(labelled(1, team="ads"))
    store.add_sweep(new_sweep(2))
    wish = SweepFilter(
        states=frozenset({SweepState.QUEUED}),
        labels=frozenset({("team", "ads")}),
        project="default",
        created_after=START - timedelta(seconds=1),
    )
    assert listed(store, wish) == ids(2, 1), "the example's label is that of SPEC"
    assert listed(store, wish, oldest_first=True, limit=1) == ids(1)
