"""What happened to a sweep, as an append-only list. Every move of a state writes one, in the same transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class EventKind(StrEnum):
    SWEEP_SUBMITTED = "sweep.submitted"
    SWEEP_MOVED = "sweep.moved"  # data: from, to, reason
    SWEEP_AMENDED = "sweep.amended"  # data: revision, changes (by pointer: before, after), retried (numbers)
    SWEEP_CLAIMED = "sweep.claimed"  # data: owner, generation
    SWEEP_VERDICT = "sweep.verdict"  # data: the verdict
    SWEEP_NOTICE = "sweep.notice"  # something an operator should know; nothing moved
    TRIAL_CREATED = "trial.created"  # data: number, role
    TRIAL_MOVED = "trial.moved"  # data: from, to, ending
    TRIAL_BEST = "trial.best"  # a new best; data: objective
    ATTEMPT_STARTED = "attempt.started"  # data: attempt_id, number, node
    ATTEMPT_ENDED = "attempt.ended"  # data: attempt_id, state


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened."""

    seq: int = 0  # given by the store, rising within a sweep
    sweep_id: str
    trial_id: str | None = None
    kind: EventKind
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    at: datetime
