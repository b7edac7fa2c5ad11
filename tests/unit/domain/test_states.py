"""The tables of moves: every pair of states is judged, and what follows from an ending is derived from it alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from itertools import product
from typing import Any

import pytest

from sweep_service.domain.errors import IllegalMoveError
from sweep_service.domain.states import (
    ATTEMPT_MOVES,
    SWEEP_MOVES,
    TRIAL_MOVES,
    AttemptState,
    SweepState,
    TrialEnding,
    TrialState,
    Verb,
    check_move,
    verb_target,
)

# Written out by hand from the drawing of the states, as text: not a copy of the tables under test.
ALLOWED: Mapping[type[StrEnum], str] = {
    SweepState: """
        queued     -> starting paused stopping stopped cancelling cancelled failed
        starting   -> running pausing stopping cancelling failed
        running    -> pausing stopping cancelling completed failed
        pausing    -> paused stopping cancelling completed failed
        paused     -> queued stopping stopped cancelling cancelled
        stopping   -> stopped cancelling failed
        cancelling -> cancelled
        completed  -> queued
        stopped    -> queued
        failed     -> queued
    """,
    TrialState: """
        pending -> running failed cancelled
        running -> resting completed early_stopped failed infeasible cancelled
        resting -> running failed cancelled
        failed  -> pending
    """,
    AttemptState: """
        running -> finished failed infeasible lost preempted
    """,
}
TABLES: Mapping[type[StrEnum], Mapping[Any, frozenset[Any]]] = {
    SweepState: SWEEP_MOVES,
    TrialState: TRIAL_MOVES,
    AttemptState: ATTEMPT_MOVES,
}


def allowed_pairs(kind: type[StrEnum]) -> set[tuple[str, str]]:
    pairs: set[tuple[str, str]] = set()
    for line in ALLOWED[kind].strip().splitlines():
        source, targets = line.split("->")
        pairs |= {(source.strip(), target) for target in targets.split()}
    return pairs


def every_pair() -> list[Any]:
    return [
        pytest.param(kind, source, target, id=f"{kind.__name__}-{source}-{target}")
        for kind in TABLES
        for source, target in product(kind, kind)
    ]


@pytest.mark.parametrize(("kind", "source", "target"), every_pair())
def test_a_move_is_allowed_exactly_where_the_drawing_has_an_arrow(
    kind: type[StrEnum], source: StrEnum, target: StrEnum
) -> None:
    table = TABLES[kind]
    if (str(source), str(target)) in allowed_pairs(kind):
        check_move(table, source, target)
        return
    with pytest.raises(IllegalMoveError) as raised:
        check_move(table, source, target)
    assert (raised.value.current, raised.value.target) == (source, target)
    assert set(raised.value.allowed) == {to for at, to in allowed_pairs(kind) if at == source}


@pytest.mark.parametrize("kind", TABLES, ids=lambda kind: kind.__name__)
def test_every_state_has_a_row_and_every_state_but_the_first_can_be_reached(kind: type[StrEnum]) -> None:
    table = TABLES[kind]
    assert set(table) == set(kind)
    assert set(kind) - {target for targets in table.values() for target in targets} <= {next(iter(kind))}


@pytest.mark.parametrize("state", TrialState)
def test_a_trial_has_ended_exactly_where_nothing_but_a_retry_can_follow(state: TrialState) -> None:
    assert state.is_ended == (TRIAL_MOVES[state] <= {TrialState.PENDING})


@pytest.mark.parametrize("state", AttemptState)
def test_an_attempt_has_ended_exactly_where_nothing_can_become_of_it(state: AttemptState) -> None:
    assert state.is_ended == (not ATTEMPT_MOVES[state])


@pytest.mark.parametrize("state", SweepState)
def test_an_ended_sweep_can_only_be_queued_again(state: SweepState) -> None:
    if state.is_ended:
        assert SWEEP_MOVES[state] <= {SweepState.QUEUED}
    else:
        assert SWEEP_MOVES[state] - {SweepState.QUEUED}


def test_a_cancelled_trial_gives_its_part_of_the_budget_back() -> None:
    counted = {state for state in TrialState if state.counts_in_budget}
    assert counted == {TrialState.COMPLETED, TrialState.EARLY_STOPPED, TrialState.FAILED, TrialState.INFEASIBLE}


@pytest.mark.parametrize("ending", TrialEnding)
def test_an_ending_leads_where_a_running_trial_and_its_attempt_may_go(ending: TrialEnding) -> None:
    check_move(TRIAL_MOVES, TrialState.RUNNING, ending.state)
    check_move(ATTEMPT_MOVES, AttemptState.RUNNING, ending.attempt_state)
    assert ending.state.is_ended
    assert ending.attempt_state.is_ended


def test_every_end_of_a_trial_has_an_ending_that_leads_to_it() -> None:
    assert {ending.state for ending in TrialEnding} == {state for state in TrialState if state.is_ended}


IMPOSSIBLE = {(verb, state) for verb in Verb for state in SweepState if state.is_ended}
IMPOSSIBLE -= {(Verb.STOP, SweepState.STOPPED), (Verb.CANCEL, SweepState.CANCELLED)}  # in effect already
IMPOSSIBLE -= set(product([Verb.RETRY], [SweepState.COMPLETED, SweepState.STOPPED, SweepState.FAILED]))
IMPOSSIBLE |= {(Verb.STOP, SweepState.CANCELLING)}
IMPOSSIBLE |= set(product([Verb.PAUSE, Verb.RESUME, Verb.RETRY], [SweepState.STOPPING, SweepState.CANCELLING]))
IMPOSSIBLE |= {(Verb.RESUME, SweepState.PAUSING)}  # until they rest, nobody could tell what goes on


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize(("verb", "state"), list(product(Verb, SweepState)), ids=str)
def test_a_verb_moves_a_sweep_by_the_table_or_is_refused_with_what_is_possible(
    verb: Verb, state: SweepState, has_run: bool
) -> None:
    if (verb, state) not in IMPOSSIBLE:
        target = verb_target(state, verb, has_run=has_run)
        if target is not state:
            check_move(SWEEP_MOVES, state, target)
        return
    with pytest.raises(IllegalMoveError) as raised:
        verb_target(state, verb, has_run=has_run)
    assert set(raised.value.allowed) == {other for other in Verb if (other, state) not in IMPOSSIBLE}


@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("verb", Verb)
def test_a_verb_asked_again_changes_nothing(verb: Verb, has_run: bool) -> None:
    targets = []
    for state in SweepState:
        with suppress(IllegalMoveError):
            targets.append(verb_target(state, verb, has_run=has_run))
    assert len(targets) >= 4
    assert [verb_target(target, verb, has_run=has_run) for target in targets] == targets


@pytest.mark.parametrize("state", [SweepState.QUEUED, SweepState.PAUSED])
def test_what_has_run_is_ended_by_a_conductor_and_what_has_not_at_once(state: SweepState) -> None:
    assert verb_target(state, Verb.STOP, has_run=True) is SweepState.STOPPING
    assert verb_target(state, Verb.CANCEL, has_run=True) is SweepState.CANCELLING
    assert verb_target(state, Verb.STOP, has_run=False) is SweepState.STOPPED
    assert verb_target(state, Verb.CANCEL, has_run=False) is SweepState.CANCELLED


def test_nobody_can_stop_what_is_being_cancelled_but_what_stops_can_be_cancelled() -> None:
    assert verb_target(SweepState.STOPPING, Verb.CANCEL, has_run=True) is SweepState.CANCELLING
    with pytest.raises(IllegalMoveError) as raised:
        verb_target(SweepState.CANCELLING, Verb.STOP, has_run=True)
    assert list(raised.value.allowed) == ["cancel"]
