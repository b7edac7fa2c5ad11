"""The laws of SweepStore that concern what a sweep has adopted of another: for every store."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from store_values import TTL, claimed, events_of, new_sweep

from sweep_service.domain.errors import SweepNotFoundError
from sweep_service.domain.events import EventKind
from sweep_service.domain.states import SweepState, TrialState, Verb
from sweep_service.domain.trial import AdoptedTrial, Role
from sweep_service.ports import SubmissionKey, SweepStore

ADOPTED = (
    AdoptedTrial(
        trial_id="trl_earlier",
        role=Role.SEARCH,
        balancer="gradnorm",
        point={"alpha": 1.5, "dtype": "float32", "flag": True, "count": 3},
        state=TrialState.COMPLETED,
        value=0.25,
        last_step=300,
    ),
    AdoptedTrial(
        trial_id="trl_another",
        role=Role.BASELINE,
        balancer="equal",
        point={},
        state=TrialState.EARLY_STOPPED,
        value=-7.5,
        last_step=30,
    ),
)
SWEEP = new_sweep(adopted=ADOPTED)


def test_what_a_sweep_has_adopted_is_read_back_as_it_was_in_its_order(store: SweepStore) -> None:
    store.add_sweep(SWEEP)
    store.add_sweep(new_sweep(1))
    found = store.get_sweep(SWEEP.id)
    assert found == SWEEP
    assert [type(value) for value in found.adopted[0].point.values()] == [float, str, bool, int]
    assert store.get_sweep(new_sweep(1).id).adopted == ()


def test_it_stays_whatever_becomes_of_the_sweep_and_only_get_sweep_has_it(store: SweepStore) -> None:
    lease = claimed(store, SWEEP)
    assert store.move_sweep(lease, SweepState.RUNNING).adopted == ()
    store.set_results(lease, {"leaderboard": []})
    assert store.control_sweep(SWEEP.id, Verb.STOP).adopted == ()
    assert [sweep.adopted for sweep in store.list_sweeps()] == [()]
    assert store.get_sweep(SWEEP.id).adopted == ADOPTED


def test_a_repeated_submission_adopts_nothing_again(store: SweepStore) -> None:
    key = SubmissionKey(key="mine", digest="d" * 64)
    store.add_sweep(SWEEP, key=key, notice="2 adopted.")
    other = replace(new_sweep(1), adopted=ADOPTED[:1])
    assert store.add_sweep(other, key=key, notice="1 adopted.").id == SWEEP.id
    assert store.get_sweep(SWEEP.id).adopted == ADOPTED
    assert len(events_of(store, SWEEP.id)) == 2


def test_a_notice_of_a_new_sweep_is_its_second_event(store: SweepStore) -> None:
    store.add_sweep(SWEEP, notice="2 adopted.")
    store.add_sweep(new_sweep(1))
    assert [(event.kind, event.message, event.at) for event in events_of(store, SWEEP.id)] == [
        (EventKind.SWEEP_SUBMITTED, "", SWEEP.created_at),
        (EventKind.SWEEP_NOTICE, "2 adopted.", SWEEP.created_at),
    ]
    assert len(events_of(store, new_sweep(1).id)) == 1
    lease = store.claim_sweep(owner="dispatcher", ttl=TTL)
    assert lease is not None
    assert [event.seq for event in events_of(store, lease.sweep_id)] == [1, 2, 3, 4]


def test_it_goes_with_its_sweep(store: SweepStore) -> None:
    store.add_sweep(SWEEP)
    store.control_sweep(SWEEP.id, Verb.CANCEL)
    store.delete_sweep(SWEEP.id)
    with pytest.raises(SweepNotFoundError):
        store.get_sweep(SWEEP.id)
    store.add_sweep(new_sweep())
    assert store.get_sweep(SWEEP.id).adopted == ()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_is_refused(store: SweepStore, value: float) -> None:
    with pytest.raises(ValueError, match="trl_earlier"):
        store.add_sweep(new_sweep(adopted=(replace(ADOPTED[0], value=value),)))
    assert store.list_sweeps() == []
