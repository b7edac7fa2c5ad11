"""Statements of the writes to a sweep: those of every report are built once, since to build one takes longer than to
execute it; and the queries for what a dispatcher claims.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, Update, bindparam, insert, select, update
from sqlalchemy.sql import ColumnElement

from sweep_service.domain.states import AttemptState, SweepState, TrialState
from sweep_service.storage.tables import (
    IN_QUEUE,
    QUEUE_ORDER,
    SWEEP_WITHOUT_RESULTS,
    attempts,
    events,
    reports,
    sweeps,
    trials,
)

_TRIALS_NAMED = trials.c.id.in_(bindparam("trial_ids", expanding=True))

LOCK_SWEEP = select(*SWEEP_WITHOUT_RESULTS).where(sweeps.c.id == bindparam("sweep_id")).with_for_update()
LOCK_LEASED_SWEEP = LOCK_SWEEP.where(sweeps.c.lease_token == bindparam("token"))

TRIALS = select(trials).where(trials.c.sweep_id == bindparam("sweep_id"), _TRIALS_NAMED)
FAILED_TRIALS = (
    select(trials)
    .where(trials.c.sweep_id == bindparam("sweep_id"), trials.c.state == str(TrialState.FAILED))
    .order_by(trials.c.number)
)
ATTEMPTS = select(attempts).where(
    attempts.c.sweep_id == bindparam("sweep_id"), attempts.c.id.in_(bindparam("attempt_ids", expanding=True))
)
RUNNING_ATTEMPTS = select(attempts).where(
    attempts.c.trial_id.in_(bindparam("trial_ids", expanding=True)), attempts.c.state == str(AttemptState.RUNNING)
)
KNOWN_STEPS = select(reports.c.trial_id, reports.c.step).where(
    reports.c.trial_id.in_(bindparam("trial_ids", expanding=True)),
    reports.c.step.in_(bindparam("steps", expanding=True)),
)
NEW_EVENTS = insert(events)
NEW_REPORTS = insert(reports)
END_OF_ATTEMPT = (
    update(attempts)
    .where(attempts.c.id == bindparam("row_id"))
    .values(state=bindparam("new_state"), message=bindparam("new_message"), ended_at=bindparam("new_ended_at"))
)


@cache
def change_of_trial(columns: tuple[str, ...]) -> Update:
    """Sets these columns to ``new_<column>`` in the trial ``row_id``."""
    return (
        update(trials)
        .where(trials.c.id == bindparam("row_id"))
        .values({name: bindparam(f"new_{name}") for name in columns})
    )


@cache
def change_of_sweep(columns: tuple[str, ...]) -> Update:
    """Sets these columns to ``new_<column>`` in the sweep ``row_id``."""
    return (
        update(sweeps)
        .where(sweeps.c.id == bindparam("row_id"))
        .values({name: bindparam(f"new_{name}") for name in columns})
    )


@dataclass(frozen=True)
class Claimable:
    """Sweeps that may be claimed, in order: to see whether there is one, and to lock the first."""

    look: Select[Any]
    lock: Select[Any]  # passes over what somebody else has locked: it is being claimed or changed right now

    @classmethod
    def of(cls, query: Select[Any]) -> Claimable:
        first = query.limit(1)
        return cls(look=first.with_only_columns(sweeps.c.id), lock=first.with_for_update(skip_locked=True))


def abandoned_sweeps(now: ColumnElement[datetime], states: Collection[SweepState]) -> Claimable:
    """Those in one of these states that nobody has a lease on."""
    is_abandoned = sweeps.c.ended_at.is_(None) & sweeps.c.state.in_(sorted(states)) & _has_no_lease(now)
    query = select(*SWEEP_WITHOUT_RESULTS).where(is_abandoned)
    return Claimable.of(query.order_by(sweeps.c.priority.desc(), sweeps.c.id))


def queued_sweeps(among: Collection[str] | None) -> Claimable:
    """The queue in its order, or those in it that are named."""
    queue = select(*SWEEP_WITHOUT_RESULTS).where(IN_QUEUE).order_by(*QUEUE_ORDER)
    return Claimable.of(queue if among is None else queue.where(sweeps.c.id.in_(sorted(among))))


def late_sweeps(now: ColumnElement[datetime]) -> Claimable:
    """The ended ones that the tracking server is due to be tried again for, and that nobody has a lease on."""
    is_late = sweeps.c.ended_at.is_not(None) & (sweeps.c.tracking_due_at <= now) & _has_no_lease(now)
    query = select(*SWEEP_WITHOUT_RESULTS).where(is_late)
    return Claimable.of(query.order_by(sweeps.c.tracking_due_at, sweeps.c.id))


def _has_no_lease(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    return sweeps.c.lease_expires_at.is_(None) | (sweeps.c.lease_expires_at <= now)
