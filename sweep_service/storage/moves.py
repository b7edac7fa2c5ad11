"""How each move changes a sweep, a trial or an attempt, and which event tells of it.

Functions from value to value, shared by every store: ``domain.states`` says what is allowed, this module what
comes of it, and a store only keeps the result. An event leaves here without a seq; the store numbers it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sweep_service.domain.amendment import changes_between, told
from sweep_service.domain.audit import AuditAction, AuditRecord
from sweep_service.domain.errors import IllegalMoveError, SpecChangedError
from sweep_service.domain.events import Event, EventKind
from sweep_service.domain.keys import Actor
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import (
    ATTEMPT_MOVES,
    CONDUCTED,
    PASSED_OVER,
    SWEEP_MOVES,
    TRIAL_MOVES,
    AttemptState,
    SweepReason,
    SweepState,
    TrialEnding,
    TrialState,
    Verb,
    amended_state,
    check_move,
    verb_target,
)
from sweep_service.domain.trial import Attempt, Lease, Report, Sweep, Trial
from sweep_service.ports import TrialEnd
from sweep_service.storage.intake import plain_text

_ACTIVE = CONDUCTED - {SweepState.STARTING}
"""States whose time counts as the sweep's: a conductor runs, or should."""

ON_THE_WAY = frozenset({SweepState.PAUSING, SweepState.STOPPING, SweepState.CANCELLING})
"""States of a sweep that is to end or to rest: whoever claims it starts nothing new."""

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def claim_order(sweep: Sweep) -> tuple[bool, int, datetime, str]:
    """The least is claimed first: sweeps that somebody must take over, for their trials are in mid-training; then, of
    those that are queued, by priority, and who has waited longest.
    """
    return sweep.queued_at is not None, -sweep.spec.priority, sweep.queued_at or _LONG_AGO, sweep.id


def late_order(sweep: Sweep) -> tuple[datetime, str]:
    """The least is claimed first of those that the tracking server is to be tried again for."""
    return sweep.tracking_due_at or _LONG_AGO, sweep.id


def waits_turn(sweep: Sweep) -> bool:
    """Whether it is in the queue, and not passed over."""
    return sweep.state is SweepState.QUEUED and sweep.reason not in PASSED_OVER


def submitted(sweep: Sweep) -> Event:
    """The event of a new sweep."""
    return Event(sweep_id=sweep.id, kind=EventKind.SWEEP_SUBMITTED, at=sweep.created_at)


def told_of(sweep: Sweep, said: str) -> Sequence[Event]:
    """The events of a new sweep, with a notice if something is said."""
    return [submitted(sweep), *([notice(sweep.id, said, trial_id=None, now=sweep.created_at)] if said else [])]


_SIGNED = frozenset({EventKind.SWEEP_SUBMITTED, EventKind.SWEEP_MOVED, EventKind.SWEEP_AMENDED})


def signed(events: Sequence[Event], by: Actor) -> list[Event]:
    """Events of a change that somebody asked for, with who it was, if anybody knows."""
    if not by.is_known:
        return [*events]
    return [replace(one, data={**one.data, "by": by.name}) if one.kind in _SIGNED else one for one in events]


def audited(action: AuditAction, sweep: Sweep, events: Sequence[Event], by: Actor, *, now: datetime) -> AuditRecord:
    """The record of a change of a sweep, which says what its events say."""
    detail = {name: value for event in events if event.kind in _SIGNED for name, value in event.data.items()}
    return AuditRecord.of(by, action, sweep.id, at=now, **detail)


def deleted(sweep: Sweep, by: Actor, *, now: datetime) -> AuditRecord:
    """The record of a sweep's end in the store: nothing else will tell of it."""
    detail = {"name": sweep.spec.name, "project": sweep.project, "created_by": sweep.created_by}
    return AuditRecord.of(by, AuditAction.SWEEP_DELETE, sweep.id, at=now, **detail, state=str(sweep.state))


def submission(sweep: Sweep, by: Actor) -> AuditRecord:
    """The record of a new sweep."""
    detail = {"name": sweep.spec.name, "project": sweep.project}
    return AuditRecord.of(by, AuditAction.SWEEP_SUBMIT, sweep.id, at=sweep.created_at, **detail)


def move_sweep(
    sweep: Sweep, target: SweepState, *, reason: SweepReason | None, message: str, now: datetime
) -> tuple[Sweep, Event]:
    """Reason and message are of the state, so each move replaces them; but what led to PAUSING, STOPPING or CANCELLING
    also explains the state after it, and stays unless another reason is given.

    Raises:
        IllegalMoveError.
    """
    check_move(SWEEP_MOVES, sweep.state, target)
    if reason is None and sweep.state in ON_THE_WAY:
        reason, message = sweep.reason, message or sweep.message
    message = plain_text(message)
    is_first_run = target is SweepState.RUNNING and sweep.started_at is None
    moved = replace(
        sweep,
        state=target,
        reason=reason,
        message=message,
        started_at=now if is_first_run else sweep.started_at,
        ended_at=now if target.is_ended else None,
        queued_at=now if target is SweepState.QUEUED else None,
        tracking_due_at=None if sweep.state.is_ended else sweep.tracking_due_at,  # its next end is for the server
        results=None if sweep.state.is_ended else sweep.results,  # what it had come to holds no more
        active_since=(sweep.active_since or now) if target in _ACTIVE else None,
        active_before_s=sweep.active_before_s if target in _ACTIVE else sweep.active_time(now).total_seconds(),
    )
    data = {"from": str(sweep.state), "to": str(target), "reason": None if reason is None else str(reason)}
    event = Event(sweep_id=sweep.id, kind=EventKind.SWEEP_MOVED, message=message, data=data, at=now)
    return moved, event


def control_sweep(
    sweep: Sweep, verb: Verb, *, failed: Sequence[Trial], message: str, now: datetime
) -> tuple[Sweep, list[Trial], list[Event]]:
    """The sweep, those of its trials that are changed, and what is told; the sweep itself where nothing is.

    Args:
        sweep: without its results, or with them.
        verb: what a user asks of it.
        failed: its FAILED trials, by number; looked at for a retry.
        message: of the user.
        now: the store's time.

    Raises:
        IllegalMoveError.
    """
    target = verb_target(sweep.state, verb, has_run=sweep.generation > 0)
    if verb is Verb.RETRY:
        if not failed and sweep.state is not SweepState.FAILED:
            return sweep, [], []
        fact = "1 failed trial is" if len(failed) == 1 else f"{len(failed)} failed trials are"
        message = message or (f"{fact} tried again." if failed else "It is tried again.")
        data = {"changes": {}, "retried": [trial.number for trial in failed]}
        amended, events = _amended(sweep, target, message=message, data=data, now=now)
        retried = [_retried(trial, now=now) for trial in failed]
        return amended, [trial for trial, _ in retried], [*(event for _, event in retried), *events]
    if target is sweep.state:
        return sweep, [], []
    moved, event = move_sweep(sweep, target, reason=SweepReason.USER, message=message, now=now)
    return moved, [], [event]


def amend_sweep(sweep: Sweep, spec: SweepSpec, *, revision: int, now: datetime) -> tuple[Sweep, list[Event]]:
    """The sweep with that spec; itself where it has that spec and has not ended.

    Raises:
        SpecChangedError: it is of another revision.
        IllegalMoveError.
    """
    check_revision(sweep, revision)
    target = amended_state(sweep.state)
    changes = changes_between(sweep.spec, spec)
    if not changes and not sweep.state.is_ended:
        return sweep, []
    data = {"changes": {pointer: list(pair) for pointer, pair in changes.items()}, "retried": []}
    message = told(changes) or "It goes on under the same spec."
    return _amended(replace(sweep, spec=spec), target, message=message, data=data, now=now)


def check_revision(sweep: Sweep, revision: int | None) -> None:
    """Raise SpecChangedError unless the sweep is of that revision, or none is given."""
    if revision not in (None, sweep.revision):
        raise SpecChangedError(f"{sweep.id} has been changed: it is of revision {sweep.revision}, not {revision}.")


def _amended(
    sweep: Sweep, target: SweepState, *, message: str, data: Mapping[str, Any], now: datetime
) -> tuple[Sweep, list[Event]]:
    """The sweep in its next revision."""
    amended = replace(sweep, revision=sweep.revision + 1)
    data = {"revision": amended.revision, **data}
    message = plain_text(message)
    events = [Event(sweep_id=sweep.id, kind=EventKind.SWEEP_AMENDED, message=message, data=data, at=now)]
    if target is not sweep.state:
        amended, moved = move_sweep(amended, target, reason=SweepReason.USER, message=message, now=now)
        events.append(moved)
    return amended, events


def _retried(trial: Trial, *, now: datetime) -> tuple[Trial, Event]:
    """Waiting for another attempt, which goes on from its last checkpoint. Its tracking run is looked up anew, and
    opened again by that.
    """
    check_move(TRIAL_MOVES, trial.state, TrialState.PENDING)
    event = _trial_moved(trial, TrialState.PENDING, ending=None, message="", now=now)
    waiting = replace(
        trial, state=TrialState.PENDING, ending=None, message="", traceback="", ended_at=None, tracking_ref=None
    )
    return waiting, event


def claim_sweep(sweep: Sweep, *, owner: str, ttl: timedelta, now: datetime) -> tuple[Sweep, Lease, list[Event]]:
    """The next generation of the sweep, STARTING if it was QUEUED, else in the state in which its conductor left it;
    and the lease on it, whose token nobody can guess.
    """
    claimed = replace(sweep, generation=sweep.generation + 1)
    data = {"owner": owner, "generation": claimed.generation}
    events = [Event(sweep_id=sweep.id, kind=EventKind.SWEEP_CLAIMED, data=data, at=now)]
    if sweep.state is SweepState.QUEUED:
        claimed, moved = move_sweep(claimed, SweepState.STARTING, reason=None, message="", now=now)
        events.append(moved)
    lease = Lease(
        sweep_id=sweep.id, token=uuid.uuid4().hex, owner=owner, generation=claimed.generation, expires_at=now + ttl
    )
    return claimed, lease, events


def explain_wait(sweep: Sweep, reason: SweepReason | None, message: str, *, now: datetime) -> tuple[Sweep, list[Event]]:
    """Passed over in the queue for that reason, or for none any more; itself where that changes nothing. Raises
    ValueError for a reason of another kind.
    """
    if reason is not None and reason not in PASSED_OVER:
        raise ValueError(f"No queued sweep is passed over because of {reason}.")
    message = plain_text(message)
    is_news = reason is not sweep.reason and (reason or sweep.reason) in PASSED_OVER
    if sweep.state is not SweepState.QUEUED or not (is_news or (reason and message != sweep.message)):
        return sweep, []
    said = message if reason else "It waits its turn again."
    events = [notice(sweep.id, said, trial_id=None, now=now)] if is_news else []
    return replace(sweep, reason=reason, message=message if reason else ""), events


def notice(sweep_id: str, message: str, *, trial_id: str | None, now: datetime) -> Event:
    return Event(sweep_id=sweep_id, trial_id=trial_id, kind=EventKind.SWEEP_NOTICE, message=plain_text(message), at=now)


def new_best(sweep: Sweep, trial: Trial, *, now: datetime) -> tuple[Sweep, list[Event]]:
    """No event where the trial is the best one already. Raises ValueError if it has no objective."""
    if trial.objective is None:
        raise ValueError(f"The best trial has an objective; {trial.id} has none.")
    if sweep.best_trial_id == trial.id:
        return sweep, []
    data = {"objective": trial.objective}
    event = Event(sweep_id=sweep.id, trial_id=trial.id, kind=EventKind.TRIAL_BEST, data=data, at=now)
    return replace(sweep, best_trial_id=trial.id), [event]


def new_results(sweep: Sweep, results: Mapping[str, Any], *, now: datetime) -> tuple[Sweep, Event]:
    """Raises ValueError if there is a verdict that is no mapping."""
    verdict = results.get("verdict") or {}
    if not isinstance(verdict, Mapping):
        raise ValueError(f"results['verdict'] must be a mapping, not {type(verdict).__name__}.")
    event = Event(sweep_id=sweep.id, kind=EventKind.SWEEP_VERDICT, data=verdict, at=now)
    return replace(sweep, results=results), event


def created(trial: Trial, *, now: datetime) -> Event:
    """The event of a new trial."""
    data = {"number": trial.number, "role": str(trial.role)}
    return Event(sweep_id=trial.sweep_id, trial_id=trial.id, kind=EventKind.TRIAL_CREATED, data=data, at=now)


def start_attempt(trial: Trial, attempt: Attempt, *, is_one_running: bool, now: datetime) -> tuple[Trial, list[Event]]:
    """The trial with that attempt running.

    Raises:
        IllegalMoveError: the trial has ended, or another attempt of it is running.
        ValueError: the attempt's number is not the next one.
    """
    if is_one_running:
        allowed = sorted(ATTEMPT_MOVES[AttemptState.RUNNING])
        raise IllegalMoveError(current=AttemptState.RUNNING, target=AttemptState.RUNNING, allowed=allowed)
    if trial.state is not TrialState.RUNNING:
        check_move(TRIAL_MOVES, trial.state, TrialState.RUNNING)
    if attempt.number != trial.num_attempts:
        raise ValueError(f"The next attempt of {trial.id} has number {trial.num_attempts}, not {attempt.number}.")
    data = {"attempt_id": attempt.id, "number": attempt.number, "node": attempt.node}
    events = [
        Event(sweep_id=trial.sweep_id, trial_id=trial.id, kind=EventKind.ATTEMPT_STARTED, data=data, at=now),
    ]
    if trial.state is not TrialState.RUNNING:
        events.append(_trial_moved(trial, TrialState.RUNNING, ending=None, message="", now=now))
    started = replace(
        trial,
        state=TrialState.RUNNING,
        num_attempts=trial.num_attempts + 1,
        started_at=trial.started_at or now,
    )
    return started, events


def end_attempt(attempt: Attempt, state: AttemptState, *, message: str, now: datetime) -> tuple[Attempt, Event]:
    """Raises IllegalMoveError: the attempt has ended, or ``state`` is no end."""
    check_move(ATTEMPT_MOVES, attempt.state, state)
    message = plain_text(message)
    data = {"attempt_id": attempt.id, "state": str(state)}
    event = Event(
        sweep_id=attempt.sweep_id,
        trial_id=attempt.trial_id,
        kind=EventKind.ATTEMPT_ENDED,
        message=message,
        data=data,
        at=now,
    )
    return replace(attempt, state=state, message=message, ended_at=now), event


def end_trial(
    trial: Trial, running: Attempt | None, end: TrialEnd, *, now: datetime
) -> tuple[Trial, Attempt | None, list[Event]]:
    """The trial and its running attempt, if any, ended. Raises IllegalMoveError."""
    target = end.ending.state
    check_move(TRIAL_MOVES, trial.state, target)
    events: list[Event] = []
    if running is not None:
        running, event = end_attempt(running, end.ending.attempt_state, message=end.message, now=now)
        events.append(event)
    events.append(_trial_moved(trial, target, ending=end.ending, message=end.message, now=now))
    ended = replace(
        trial,
        state=target,
        ending=end.ending,
        message=end.message,
        traceback=end.traceback,
        objective=end.objective,
        provenance=end.provenance or trial.provenance,
        ended_at=now,
    )
    return ended, running, events


def rest_trial(trial: Trial, running: Attempt | None, *, now: datetime) -> tuple[Trial, Attempt | None, list[Event]]:
    """The trial at rest, and its running attempt, if any, preempted. Raises IllegalMoveError."""
    check_move(TRIAL_MOVES, trial.state, TrialState.RESTING)
    events: list[Event] = []
    if running is not None:
        running, event = end_attempt(running, AttemptState.PREEMPTED, message="The sweep is paused.", now=now)
        events.append(event)
    events.append(_trial_moved(trial, TrialState.RESTING, ending=None, message="", now=now))
    return replace(trial, state=TrialState.RESTING), running, events


def take_report(trial: Trial, attempt: Attempt, report: Report, *, is_new: bool) -> Trial:
    """The trial after that report; of a step that it reported before, only the checkpoint counts.

    Raises:
        IllegalMoveError: the trial or the attempt has ended.
    """
    if trial.state is not TrialState.RUNNING:
        allowed = sorted(TRIAL_MOVES[trial.state])
        raise IllegalMoveError(current=trial.state, target=TrialState.RUNNING, allowed=allowed)
    if attempt.state.is_ended:
        raise IllegalMoveError(current=attempt.state, target=AttemptState.RUNNING, allowed=())
    checkpoint = report.checkpoint if report.checkpoint is not None else trial.checkpoint
    if not is_new:
        return replace(trial, checkpoint=checkpoint)
    return replace(trial, checkpoint=checkpoint, metrics=report.metrics, last_step=report.step)


def _trial_moved(trial: Trial, target: TrialState, *, ending: TrialEnding | None, message: str, now: datetime) -> Event:
    data = {"from": str(trial.state), "to": str(target), "ending": None if ending is None else str(ending)}
    return Event(
        sweep_id=trial.sweep_id, trial_id=trial.id, kind=EventKind.TRIAL_MOVED, message=message, data=data, at=now
    )
