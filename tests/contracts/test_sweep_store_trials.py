"""The laws of SweepStore that concern trials, attempts, reports and the outbox: for every store."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
from store_values import (
    START,
    claimed,
    events_of,
    new_attempt,
    new_end,
    new_report,
    new_sweep,
    new_trial,
)

from sweep_service.domain.errors import IllegalMoveError, NotFoundError, SweepNotFoundError
from sweep_service.domain.events import EventKind
from sweep_service.domain.spec import Objective
from sweep_service.domain.states import ATTEMPT_MOVES, TRIAL_MOVES, AttemptState, TrialEnding, TrialState
from sweep_service.domain.trial import Attempt, Lease, Role, Trial
from sweep_service.ports import SweepStore

E = TrialEnding


@pytest.fixture
def lease(store: SweepStore) -> Lease:
    return claimed(store)


def added(store: SweepStore, lease: Lease, number: int = 0) -> Trial:
    trial = new_trial(lease.sweep_id, number)
    store.add_trials(lease, [trial])
    return trial


def started(store: SweepStore, lease: Lease, number: int = 0) -> tuple[Trial, Attempt]:
    """A running trial and its attempt."""
    trial = added(store, lease, number)
    attempt = new_attempt(trial)
    return store.start_attempt(lease, attempt), attempt


def ended(store: SweepStore, lease: Lease, ending: TrialEnding, number: int = 0) -> Trial:
    trial, _ = started(store, lease, number)
    objective = 0.5 if ending is E.COMPLETED else None
    store.record(lease, ends=[new_end(trial.id, ending, objective=objective)])
    return store.get_trial(trial.id)


# --- trials -----------------------------------------------------------------------------------------------------------


def test_trials_are_counted_by_role_and_state(store: SweepStore, lease: Lease) -> None:
    assert store.count_trials(lease.sweep_id) == {}
    ended(store, lease, E.COMPLETED, 0)
    ended(store, lease, E.COMPLETED, 1)
    ended(store, lease, E.NON_FINITE, 2)
    started(store, lease, 3)
    store.add_trials(lease, [new_trial(lease.sweep_id, 4, role=Role.BASELINE, balancer="equal")])
    assert store.count_trials(lease.sweep_id) == {
        (Role.SEARCH, TrialState.COMPLETED): 2,
        (Role.SEARCH, TrialState.INFEASIBLE): 1,
        (Role.SEARCH, TrialState.RUNNING): 1,
        (Role.BASELINE, TrialState.PENDING): 1,
    }
    with pytest.raises(SweepNotFoundError):
        store.count_trials("swp_nowhere")


@pytest.mark.parametrize(("direction", "leaders"), [("minimize", [1, 4, 5]), ("maximize", [0, 3, 5])])
def test_the_leader_of_a_role_is_its_best_completed_trial_the_first_of_equal_ones(
    store: SweepStore, lease: Lease, direction: Literal["minimize", "maximize"], leaders: list[int]
) -> None:
    objective = Objective(direction=direction)
    assert store.find_leader(lease.sweep_id, Role.SEARCH, objective=objective) is None
    values = {0: 2.0, 1: -1.0, 2: -1.0, 3: 2.0, 4: -1.0, 5: 7.0}
    names = {3: "equal", 4: "equal", 5: "single_task"}
    for number, value in values.items():
        role = Role.BASELINE if number in names else Role.SEARCH
        trial = new_trial(lease.sweep_id, number, role=role, balancer=names.get(number, "gradnorm"))
        store.add_trials(lease, [trial])
        store.start_attempt(lease, new_attempt(trial))
        store.record(lease, ends=[new_end(trial.id, E.COMPLETED, objective=value)])
    ended(store, lease, E.NON_FINITE, 6)
    started(store, lease, 7)

    def leader(role: Role, balancer: str | None = None) -> int | None:
        found = store.find_leader(lease.sweep_id, role, objective=objective, balancer=balancer)
        return found.number if found else None

    found = [leader(Role.SEARCH), leader(Role.BASELINE, "equal"), leader(Role.BASELINE, "single_task")]
    assert found == leaders
    assert leader(Role.SEARCH, "equal") is None
    assert leader(Role.CONFIRM) is None
    with pytest.raises(SweepNotFoundError):
        store.find_leader("swp_nowhere", Role.SEARCH, objective=objective)


def test_new_trials_come_back_as_they_were_given(store: SweepStore, lease: Lease) -> None:
    trials = [
        new_trial(lease.sweep_id, 0),
        new_trial(lease.sweep_id, 1, role=Role.BASELINE, balancer="equal", searched={}, seed=2**31 - 1),
        new_trial(lease.sweep_id, 2, role=Role.CONFIRM, confirms=new_trial(lease.sweep_id, 0).id),
    ]
    store.add_trials(lease, trials)
    assert store.list_trials(lease.sweep_id) == trials
    assert [store.get_trial(trial.id) for trial in trials] == trials
    told = [(e.trial_id, e.data) for e in events_of(store, lease.sweep_id) if e.kind is EventKind.TRIAL_CREATED]
    assert told == [(t.id, {"number": t.number, "role": t.role}) for t in trials]


def test_a_value_that_json_changes_comes_back_as_json_has_it(store: SweepStore, lease: Lease) -> None:
    store.add_trials(lease, [new_trial(lease.sweep_id, search_state={"values": (1, 2), 3: "three"})])
    (trial,) = store.list_trials(lease.sweep_id)
    assert trial.search_state == {"values": [1, 2], "3": "three"}


def test_what_the_caller_changes_later_does_not_change_the_store(store: SweepStore, lease: Lease) -> None:
    params: dict[str, Any] = {"hidden": [1]}
    store.add_trials(lease, [new_trial(lease.sweep_id, params=params)])
    params["hidden"].append(2)
    assert store.list_trials(lease.sweep_id)[0].params == {"hidden": [1]}


def test_no_trials_are_no_trials(store: SweepStore, lease: Lease) -> None:
    before = events_of(store, lease.sweep_id)
    store.add_trials(lease, [])
    assert store.list_trials(lease.sweep_id) == []
    assert events_of(store, lease.sweep_id) == before


def test_trials_are_listed_by_number_in_pages(store: SweepStore, lease: Lease) -> None:
    store.add_trials(lease, [new_trial(lease.sweep_id, number) for number in (4, 1, 0, 3, 2)])
    assert [t.number for t in store.list_trials(lease.sweep_id)] == [0, 1, 2, 3, 4]
    assert [t.number for t in store.list_trials(lease.sweep_id, after=1, limit=2)] == [2, 3]
    assert store.list_trials(lease.sweep_id, after=4) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"state": TrialState.RUNNING}, "pending"),
        ({"num_attempts": 1}, "pending"),
        ({"ending": E.ERROR}, "pending"),
        ({"objective": 0.0}, "pending"),
        ({"started_at": START}, "pending"),
        ({"sweep_id": "swp_other"}, "swp_other"),
        ({"id": new_trial(new_sweep().id).id}, "stored already"),
        ({"number": 0}, "stored already"),
        ({"params": {"alpha": math.nan}}, "params"),
        ({"search_state": {"sampler": object}}, "search_state"),
        ({"created_at": START.replace(tzinfo=None)}, "created_at"),
    ],
    ids=str,
)
def test_one_bad_trial_keeps_all_of_the_call_out(
    store: SweepStore, lease: Lease, changes: dict[str, Any], fault: str
) -> None:
    added(store, lease)
    before = events_of(store, lease.sweep_id)
    trials = [new_trial(lease.sweep_id, 1), replace(new_trial(lease.sweep_id, 2), **changes)]
    with pytest.raises(ValueError, match=fault):
        store.add_trials(lease, trials)
    assert [t.number for t in store.list_trials(lease.sweep_id)] == [0]
    assert events_of(store, lease.sweep_id) == before


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_an_attempt_starts_its_trial(store: SweepStore, lease: Lease) -> None:
    trial = added(store, lease)
    before = events_of(store, lease.sweep_id)
    attempt = new_attempt(trial, pack="ab12c_00000", resumed_from="/checkpoints/a")
    running = store.start_attempt(lease, attempt)
    assert running == store.get_trial(trial.id)
    assert (running.state, running.num_attempts) == (TrialState.RUNNING, 1)
    assert running.started_at is not None
    assert store.list_attempts(trial.id) == [attempt]
    first, second = events_of(store, lease.sweep_id)[len(before) :]
    assert (first.kind, first.trial_id) == (EventKind.ATTEMPT_STARTED, trial.id)
    assert first.data == {"attempt_id": attempt.id, "number": 0, "node": "node-a"}
    assert (second.kind, second.trial_id) == (EventKind.TRIAL_MOVED, trial.id)
    assert second.data == {"from": "pending", "to": "running", "ending": None}


def test_a_lost_attempt_leaves_its_trial_running_for_the_next(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    before = events_of(store, lease.sweep_id)
    store.end_attempt(lease, attempt.id, AttemptState.LOST, message="node-a vanished")
    assert store.get_trial(trial.id) == trial
    (lost,) = store.list_attempts(trial.id)
    assert (lost.state, lost.message) == (AttemptState.LOST, "node-a vanished")
    assert lost.ended_at is not None
    again = store.start_attempt(lease, new_attempt(trial, 1))
    assert again == replace(trial, num_attempts=2)
    assert [a.number for a in store.list_attempts(trial.id)] == [0, 1]
    new = events_of(store, lease.sweep_id)[len(before) :]
    assert [event.kind for event in new] == [EventKind.ATTEMPT_ENDED, EventKind.ATTEMPT_STARTED]
    assert new[0].data == {"attempt_id": attempt.id, "state": "lost"}


def test_a_trial_has_one_running_attempt_at_most(store: SweepStore, lease: Lease) -> None:
    trial, _ = started(store, lease)
    before = events_of(store, lease.sweep_id)
    with pytest.raises(IllegalMoveError):
        store.start_attempt(lease, new_attempt(trial, 1))
    assert store.get_trial(trial.id) == trial
    assert len(store.list_attempts(trial.id)) == 1
    assert events_of(store, lease.sweep_id) == before


@pytest.mark.parametrize("ending", E)
def test_an_ended_trial_takes_nothing_more(store: SweepStore, lease: Lease, ending: TrialEnding) -> None:
    trial = ended(store, lease, ending)
    attempt = store.list_attempts(trial.id)[0]
    before = events_of(store, lease.sweep_id)
    refused: list[Callable[[], object]] = [
        lambda: store.start_attempt(lease, new_attempt(trial, 1)),
        lambda: store.end_attempt(lease, attempt.id, AttemptState.LOST),
        lambda: store.record(lease, reports=[new_report(attempt, 10)]),
    ]
    refused += [
        lambda e=e: store.record(lease, ends=[new_end(trial.id, e, objective=1.0 if e is E.COMPLETED else None)])
        for e in E
    ]
    for write in refused:
        with pytest.raises(IllegalMoveError) as raised:
            write()
        assert set(raised.value.allowed) <= {TrialState.PENDING}, "of a failed one, by a user"
    assert store.get_trial(trial.id) == trial
    assert store.list_reports(trial.id) == []
    assert events_of(store, lease.sweep_id) == before


@pytest.mark.parametrize("ending", E)
def test_a_pending_trial_ends_as_the_table_allows(store: SweepStore, lease: Lease, ending: TrialEnding) -> None:
    trial = added(store, lease)
    end = new_end(trial.id, ending, objective=0.5 if ending is E.COMPLETED else None)
    if ending.state in TRIAL_MOVES[TrialState.PENDING]:
        store.record(lease, ends=[end])
        assert store.get_trial(trial.id).ending is ending
        assert store.list_attempts(trial.id) == []
    else:
        with pytest.raises(IllegalMoveError) as raised:
            store.record(lease, ends=[end])
        assert set(raised.value.allowed) == TRIAL_MOVES[TrialState.PENDING]
        assert store.get_trial(trial.id) == trial


@pytest.mark.parametrize("first", [state for state in AttemptState if state.is_ended])
def test_an_attempt_ends_once(store: SweepStore, lease: Lease, first: AttemptState) -> None:
    trial, attempt = started(store, lease)
    with pytest.raises(IllegalMoveError) as raised:
        store.end_attempt(lease, attempt.id, AttemptState.RUNNING)
    assert set(raised.value.allowed) == ATTEMPT_MOVES[AttemptState.RUNNING]
    store.end_attempt(lease, attempt.id, first)
    for second in AttemptState:
        with pytest.raises(IllegalMoveError):
            store.end_attempt(lease, attempt.id, second)
    assert [a.state for a in store.list_attempts(trial.id)] == [first]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"number": 1}, "number 0, not 1"),
        ({"state": AttemptState.LOST}, "running"),
        ({"ended_at": START}, "has not ended"),
        ({"started_at": START.replace(tzinfo=None)}, "started_at"),
        ({"sweep_id": "swp_other"}, "swp_other"),
    ],
    ids=str,
)
def test_an_attempt_that_makes_no_sense_is_refused(
    store: SweepStore, lease: Lease, changes: dict[str, Any], fault: str
) -> None:
    trial = added(store, lease)
    with pytest.raises(ValueError, match=fault):
        store.start_attempt(lease, replace(new_attempt(trial), **changes))
    assert store.get_trial(trial.id) == trial
    assert store.list_attempts(trial.id) == []


def test_the_id_of_an_attempt_is_used_once(store: SweepStore, lease: Lease) -> None:
    _, attempt = started(store, lease)
    other = added(store, lease, 1)
    with pytest.raises(ValueError, match="stored already"):
        store.start_attempt(lease, replace(new_attempt(other), id=attempt.id))
    assert store.get_trial(other.id) == other


def test_an_unknown_attempt_is_named(store: SweepStore, lease: Lease) -> None:
    trial, attempt = started(store, lease)
    other_trial, _ = started(store, lease, 1)
    with pytest.raises(NotFoundError, match="att_nowhere"):
        store.end_attempt(lease, "att_nowhere", AttemptState.LOST)
    with pytest.raises(NotFoundError, match="att_nowhere"):
        store.record(lease, reports=[replace(new_report(attempt, 10), attempt_id="att_nowhere")])
    with pytest.raises(NotFoundError, match=attempt.id):
        store.record(lease, reports=[replace(new_report(attempt, 10), trial_id=other_trial.id)])
    assert store.list_reports(trial.id) == store.list_reports(other_trial.id) == []
