"""API keys and records of changes as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from sweep_service.domain.audit import AuditAction, AuditRecord
from sweep_service.domain.keys import ApiKey, KeyRole
from sweep_service.services.keys import NewKey

_NAME = {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,63}$", "description": "Whose it is, or what for."}
NEW_KEY_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "role"],
    "properties": {
        "name": _NAME,
        "role": {"type": "string", "enum": [str(role) for role in KeyRole], "description": "What it is for."},
    },
}


class KeyView(BaseModel):
    """A key, without what it opens with."""

    id: str
    name: str = Field(description="No two keys that are not revoked have one name.")
    role: KeyRole = Field(description="viewer: looks; submitter: also submits and changes sweeps; admin: also keys.")
    created_at: datetime
    created_by: str = Field(description="Name of the key that made it.")
    last_used_at: datetime | None = Field(description="To the minute.")
    revoked_at: datetime | None = Field(description="It opens nothing since then; null: it is valid.")

    @classmethod
    def of(cls, key: ApiKey) -> KeyView:
        return cls(**_values(key))


class NewKeyView(KeyView):
    """A key that was just made."""

    key: str = Field(description="Its text, which opens. It is in this answer only: nobody can tell it again.")

    @classmethod
    def of_new(cls, new: NewKey) -> NewKeyView:
        return cls(**_values(new.key), key=new.text)


class KeyList(BaseModel):
    """Those that are not revoked, then the revoked ones; each the newest first."""

    keys: list[KeyView]


class OwnKeyView(BaseModel):
    """Whom the service takes the caller for."""

    id: str | None = Field(description="Of the key; null: none was given, and none is needed here.")
    name: str
    role: KeyRole


class AuditView(BaseModel):
    """One change, and who made it."""

    seq: int = Field(description="1, 2, 3, … without gaps.")
    at: datetime
    key_id: str | None = Field(description="null: no key was given, and none was needed.")
    by: str = Field(description="Name of the key, or anonymous; setup made the first key.")
    action: AuditAction
    subject: str = Field(description="Id of what was changed; it may have been deleted since.")
    detail: dict[str, Any]

    @classmethod
    def of(cls, record: AuditRecord) -> AuditView:
        return cls(
            seq=record.seq,
            at=record.at,
            key_id=record.key_id,
            by=record.by,
            action=record.action,
            subject=record.subject,
            detail=dict(record.detail),
        )


class AuditPage(BaseModel):
    """Records of changes, by seq."""

    records: list[AuditView]
    next_after: int = Field(description="What to ask for next as `after`; more may have happened by then.")
    has_more: bool = Field(description="Whether more had happened already.")


def _values(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "created_at": key.created_at,
        "created_by": key.created_by,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    }
