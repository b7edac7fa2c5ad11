"""What the store in memory is made of, with its API keys and its records of changes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from sweep_service.clock import SystemClock
from sweep_service.domain.audit import AuditAction, AuditRecord
from sweep_service.domain.errors import KeyNameTakenError, KeyNotFoundError, LastAdminKeyError
from sweep_service.domain.keys import Actor, ApiKey, KeyRole, StoredKey
from sweep_service.ports import Clock
from sweep_service.storage import intake
from sweep_service.storage.memory_tables import MemoryTables


class MemoryKeys:
    """Base of MemorySweepStore."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._tables = MemoryTables()  # never changed, only replaced: readers need no lock

    def close(self) -> None:
        """Nothing to close; here because every store has it."""

    @contextmanager
    def _writing(self) -> Iterator[tuple[MemoryTables, datetime]]:
        with self._lock:
            tables = self._tables.copy()
            yield tables, self._clock.now()
            self._tables = tables

    def add_key(self, key: ApiKey, *, digest: str, by: Actor) -> ApiKey:
        key = intake.accept_key(key)
        with self._writing() as (tables, _):
            if key.id in tables.api_keys:
                raise ValueError(f"There is a key {key.id} already.")
            if any(key.name == other.name for other in _live(tables)):
                raise KeyNameTakenError(key.name)
            tables.api_keys[key.id] = StoredKey(key=key, digest=digest)
            tables.add_record(intake.change_of_key(AuditAction.KEY_CREATE, key, by, at=key.created_at))
        return key

    def find_key(self, key_id: str) -> StoredKey | None:
        return self._tables.api_keys.get(key_id)

    def list_keys(self, *, limit: int = 1000) -> Sequence[ApiKey]:
        newest_first = sorted((stored.key for stored in self._tables.api_keys.values()), key=_id, reverse=True)
        return sorted(newest_first, key=lambda key: key.revoked_at is not None)[:limit]

    def revoke_key(self, key_id: str, *, by: Actor) -> ApiKey:
        with self._writing() as (tables, now):
            stored = tables.api_keys.get(key_id)
            if stored is None:
                raise KeyNotFoundError(key_id)
            key = stored.key
            if key.revoked_at is not None:
                return key
            if [other.id for other in _live(tables) if other.role is KeyRole.ADMIN] == [key_id]:
                raise LastAdminKeyError(key_id)
            revoked = replace(key, revoked_at=now)
            tables.api_keys[key_id] = replace(stored, key=revoked)
            tables.add_record(intake.change_of_key(AuditAction.KEY_REVOKE, key, by, at=now))
            return revoked

    def note_use(self, key_id: str, at: datetime) -> None:
        at = intake.utc_time(at, field="at")
        with self._writing() as (tables, _):
            stored = tables.api_keys.get(key_id)
            if stored is None:
                return
            last = stored.key.last_used_at
            if last is None or last <= at - intake.USE_INTERVAL:
                tables.api_keys[key_id] = replace(stored, key=replace(stored.key, last_used_at=at))

    def list_audit(self, *, after: int = 0, limit: int = 50) -> Sequence[AuditRecord]:
        first = max(after, 0)
        return self._tables.audit[first : first + limit]


def _id(key: ApiKey) -> str:
    return key.id


def _live(tables: MemoryTables) -> list[ApiKey]:
    return [stored.key for stored in tables.api_keys.values() if stored.key.revoked_at is None]
