"""Who has changed what over REST, as an append-only list. Each change writes its record in its own transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sweep_service.domain.keys import Actor
from sweep_service.domain.states import Verb


class AuditAction(StrEnum):
    """What was done. The records of the first six have ``from``, ``to`` and ``reason`` of the move, where there was
    one.
    """

    SWEEP_PAUSE = "sweep.pause"
    SWEEP_RESUME = "sweep.resume"
    SWEEP_STOP = "sweep.stop"
    SWEEP_CANCEL = "sweep.cancel"
    SWEEP_RETRY = "sweep.retry"  # detail: revision, changes, retried (numbers of trials)
    SWEEP_AMEND = "sweep.amend"  # detail: revision, changes (by pointer: before, after), retried
    SWEEP_SUBMIT = "sweep.submit"  # detail: name, project
    SWEEP_DELETE = "sweep.delete"  # detail: name, project, state, created_by
    KEY_CREATE = "key.create"  # detail: name, role
    KEY_REVOKE = "key.revoke"  # detail: name, role

    @classmethod
    def of(cls, verb: Verb) -> AuditAction:
        """What a verb does to a sweep."""
        return cls(f"sweep.{verb}")


@dataclass(frozen=True, kw_only=True)
class AuditRecord:
    """One change."""

    seq: int = 0  # given by the store: 1, 2, 3, …
    at: datetime
    key_id: str | None  # None: no key was given
    by: str  # name of the key, or "anonymous"
    action: AuditAction
    subject: str  # id of what was changed; it may be gone
    detail: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, by: Actor, action: AuditAction, subject: str, *, at: datetime, **detail: Any) -> AuditRecord:
        """What that actor has done."""
        return cls(at=at, key_id=by.key_id, by=by.name, action=action, subject=subject, detail=detail)
