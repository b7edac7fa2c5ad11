"""API keys and the records of changes, in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, func, insert, select, update

from sweep_service.domain.audit import AuditAction, AuditRecord
from sweep_service.domain.errors import KeyNameTakenError, KeyNotFoundError, LastAdminKeyError
from sweep_service.domain.keys import Actor, ApiKey, KeyRole, StoredKey
from sweep_service.storage import intake, rows
from sweep_service.storage.database import Database, lock_changes
from sweep_service.storage.tables import api_keys, audit

_LIVE = api_keys.c.revoked_at.is_(None)


class KeyTables:
    """Base of SqlSweepStore: its keys."""

    _database: Database

    def add_key(self, key: ApiKey, *, digest: str, by: Actor) -> ApiKey:
        key = intake.accept_key(key)
        same_name = select(api_keys.c.id).where(_LIVE, api_keys.c.name == key.name)
        same_id = select(api_keys.c.id).where(api_keys.c.id == key.id)
        with self._database.writing() as connection:
            lock_changes(connection)
            if connection.execute(same_id).first() is not None:
                raise ValueError(f"There is a key {key.id} already.")
            if connection.execute(same_name).first() is not None:
                raise KeyNameTakenError(key.name)
            connection.execute(insert(api_keys), rows.key_row(key) | {"digest": digest})
            append_audit(connection, intake.change_of_key(AuditAction.KEY_CREATE, key, by, at=key.created_at))
        return key

    def find_key(self, key_id: str) -> StoredKey | None:
        with self._database.reading() as connection:
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
        return None if row is None else StoredKey(key=rows.key_of(row), digest=row.digest)

    def list_keys(self, *, limit: int = 1000) -> Sequence[ApiKey]:
        query = select(api_keys).order_by(api_keys.c.revoked_at.is_not(None), api_keys.c.id.desc()).limit(limit)
        with self._database.reading() as connection:
            return [rows.key_of(row) for row in connection.execute(query)]

    def revoke_key(self, key_id: str, *, by: Actor) -> ApiKey:
        with self._database.writing() as connection:
            lock_changes(connection)
            row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
            if row is None:
                raise KeyNotFoundError(key_id)
            key = rows.key_of(row)
            if key.revoked_at is not None:
                return key
            if key.role is KeyRole.ADMIN and _num_live(connection, KeyRole.ADMIN) == 1:
                raise LastAdminKeyError(key_id)
            now = self._database.read_clock(connection)
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=now))
            append_audit(connection, intake.change_of_key(AuditAction.KEY_REVOKE, key, by, at=now))
            return replace(key, revoked_at=now)

    def note_use(self, key_id: str, at: datetime) -> None:
        at = intake.utc_time(at, field="at")
        last = api_keys.c.last_used_at
        is_news = last.is_(None) | (last <= at - intake.USE_INTERVAL)
        with self._database.writing() as connection:
            connection.execute(update(api_keys).where(api_keys.c.id == key_id, is_news).values(last_used_at=at))

    def list_audit(self, *, after: int = 0, limit: int = 50) -> Sequence[AuditRecord]:
        query = select(audit).where(audit.c.seq > after).order_by(audit.c.seq).limit(limit)
        with self._database.reading() as connection:
            return [rows.audit_of(row) for row in connection.execute(query)]


def append_audit(connection: Connection, record: AuditRecord) -> None:
    """The next record; no other change gets on until the transaction has ended."""
    lock_changes(connection)
    last = connection.execute(select(func.max(audit.c.seq))).scalar_one() or 0
    connection.execute(insert(audit), rows.audit_row(intake.accept_record(record, seq=last + 1)))


def _num_live(connection: Connection, role: KeyRole) -> int:
    query = select(func.count()).select_from(api_keys).where(_LIVE, api_keys.c.role == str(role))
    return connection.execute(query).scalar_one()
