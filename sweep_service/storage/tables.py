"""The tables of the SQL store, as the newest migration leaves them.

Column names are the field names of the values in ``domain.trial``. The row of a sweep also holds its lease and the
counters of its events and reports: locking that one row serialises all writes to a sweep, which is what keeps the
numbers free of gaps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import TypeEngine

from sweep_service.domain.keys import KeyRole
from sweep_service.domain.states import AttemptState, SweepState, TrialState
from sweep_service.domain.trial import Role

SCHEMA_VERSION = "0010"
"""The migration that this module mirrors; a test compares the two."""

VERSION_TABLE = "sweep_service_alembic_version"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC. SQLite knows no time zones: there the bare UTC time is kept."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; use an aware time in UTC.")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _SqliteDouble(Double[float]):
    """Takes a text as it is; the ordinary one would make a number of it."""

    def bind_processor(self, dialect: Dialect) -> None:
        return None


class RealNumber(TypeDecorator[float]):
    """A double that may be NaN. SQLite would store a NaN as NULL: there it is kept as a text."""

    impl = Double
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(_SqliteDouble() if dialect.name == "sqlite" else Double())

    def process_bind_param(self, value: float | None, dialect: Dialect) -> Any:
        if value is not None and dialect.name == "sqlite" and math.isnan(value):
            return "nan"
        return value

    def process_result_value(self, value: Any | None, dialect: Dialect) -> float | None:
        return None if value is None else float(value)


class Metrics(TypeDecorator[dict[str, float]]):
    """Numbers by name. JSON knows no NaN and no infinity: those are kept as texts."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: dict[str, float] | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        return {key: number if math.isfinite(number) else str(number) for key, number in value.items()}

    def process_result_value(self, value: Any | None, dialect: Dialect) -> dict[str, float] | None:
        return None if value is None else {key: float(number) for key, number in value.items()}


# Identifiers must sort by their bytes everywhere; a PostgreSQL database may have been made with another order.
Identifier = String(64).with_variant(String(64, collation="C"), "postgresql")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: Iterable[StrEnum]) -> CheckConstraint:
    """Only for what the rules rest on; lists that grow, such as the kinds of events, would cost a migration each."""
    names = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({names})", name=column)


def _ended(states: Iterable[SweepState] | Iterable[TrialState] | Iterable[AttemptState]) -> str:
    return ", ".join(f"'{state}'" for state in states if state.is_ended)


sweeps = Table(
    "sweeps",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("project", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("state", String(20), nullable=False),
    Column("reason", String(30)),
    Column("message", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("revision", Integer, nullable=False, server_default=text("0")),  # 0: a row from before this column
    Column("best_trial_id", Identifier),
    Column("tracking_ref", Text),
    Column("results", JSON(none_as_null=True)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("active_since", UtcDateTime),
    Column("active_before_s", Double, nullable=False, server_default=text("0")),  # 0: a row from before this column
    Column("lease_token", String(32)),
    Column("lease_owner", Text),
    Column("lease_expires_at", UtcDateTime),
    Column("num_events", BigInteger, nullable=False),
    Column("num_reports", BigInteger, nullable=False),
    Column("num_delivered", BigInteger, nullable=False),  # the outbox begins after the report of this seq
    Column("priority", Integer, nullable=False, server_default=text("0")),  # of the spec
    Column("queued_at", UtcDateTime),
    Column("tracking_due_at", UtcDateTime),
    _one_of("state", SweepState),
    CheckConstraint(f"(state IN ({_ended(SweepState)})) = (ended_at IS NOT NULL)", name="ended"),
    CheckConstraint("(lease_token IS NULL) = (lease_expires_at IS NULL)", name="lease"),
    CheckConstraint("num_delivered BETWEEN 0 AND num_reports", name="delivered"),
)
SWEEP_WITHOUT_RESULTS = tuple(column for column in sweeps.c if column is not sweeps.c.results)
"""What is read of a sweep wherever its results, which may be megabytes, are not asked for."""
Index(
    "ix_sweeps_unfinished",
    sweeps.c.id,
    sqlite_where=text("ended_at IS NULL"),
    postgresql_where=text("ended_at IS NULL"),
)
IN_QUEUE = text("sweeps.state = 'queued'")  # a literal, or SQLite would not see that the index is of these rows
QUEUE_ORDER = (sweeps.c.priority.desc(), sweeps.c.queued_at, sweeps.c.id)
"""Of sweeps that are queued, the next one first."""
Index(
    "ix_sweeps_queue",
    *QUEUE_ORDER,
    sqlite_where=text("state = 'queued'"),
    postgresql_where=text("state = 'queued'"),
)
Index(
    "ix_sweeps_tracking_due",
    sweeps.c.tracking_due_at,
    sweeps.c.id,
    sqlite_where=text("tracking_due_at IS NOT NULL"),
    postgresql_where=text("tracking_due_at IS NOT NULL"),
)

adoptions = Table(
    "adoptions",
    metadata,
    Column("sweep_id", Identifier, ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True),
    Column("trials", JSON, nullable=False),  # large: a table of its own keeps it out of the sweep's row
)

trials = Table(
    "trials",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("sweep_id", Identifier, ForeignKey("sweeps.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("role", String(20), nullable=False),
    Column("balancer", Text, nullable=False),
    Column("params", JSON, nullable=False),
    Column("searched", JSON, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("confirms", Identifier),
    Column("state", String(20), nullable=False),
    Column("ending", String(20)),
    Column("message", Text, nullable=False),
    Column("traceback", Text, nullable=False),
    Column("objective", RealNumber),
    Column("metrics", Metrics, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("checkpoint", Text),
    Column("tracking_ref", Text),
    Column("search_state", JSON, nullable=False),
    Column("provenance", JSON, nullable=False),
    Column("num_attempts", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    UniqueConstraint("sweep_id", "number"),
    _one_of("state", TrialState),
    _one_of("role", Role),
    CheckConstraint(f"(state IN ({_ended(TrialState)})) = (ending IS NOT NULL)", name="ended"),
    CheckConstraint("(state = 'completed') = (objective IS NOT NULL)", name="objective"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("trial_id", Identifier, ForeignKey("trials.id", ondelete="CASCADE"), nullable=False),
    Column("sweep_id", Identifier, ForeignKey("sweeps.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", String(20), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("node", Text, nullable=False),
    Column("resumed_from", Text),
    Column("message", Text, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("pack", Identifier, nullable=False, server_default=text("''")),  # '': a row from before this column
    UniqueConstraint("trial_id", "number"),
    _one_of("state", AttemptState),
    CheckConstraint(f"(state IN ({_ended(AttemptState)})) = (ended_at IS NOT NULL)", name="ended"),
)
Index("ix_attempts_sweep_id", attempts.c.sweep_id)
Index(
    "uq_attempts_running",
    attempts.c.trial_id,
    unique=True,
    sqlite_where=text("state = 'running'"),
    postgresql_where=text("state = 'running'"),
)

reports = Table(
    "reports",
    metadata,
    Column("sweep_id", Identifier, ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("trial_id", Identifier, ForeignKey("trials.id", ondelete="CASCADE"), nullable=False),
    Column("attempt_id", Identifier, ForeignKey("attempts.id", ondelete="CASCADE"), nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("metrics", Metrics, nullable=False),
    Column("objective", RealNumber),
    Column("checkpoint", Text),
    Column("reported_at", UtcDateTime, nullable=False),
    UniqueConstraint("trial_id", "step"),
)
Index("ix_reports_attempt_id", reports.c.attempt_id)
Index("ix_reports_trial_id_seq", reports.c.trial_id, reports.c.seq)  # a trial's curves are read in pages

events = Table(
    "events",
    metadata,
    Column("sweep_id", Identifier, ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("trial_id", Identifier),
    Column("kind", String(30), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("at", UtcDateTime, nullable=False),
)

log_chunks = Table(
    "log_chunks",
    metadata,
    Column("sweep_id", Identifier, ForeignKey("sweeps.id", ondelete="CASCADE"), primary_key=True),
    Column("last_seq", BigInteger, primary_key=True),  # of its last line
    Column("trial_id", Identifier, ForeignKey("trials.id", ondelete="CASCADE"), nullable=False),
    Column("attempt_id", Identifier, ForeignKey("attempts.id", ondelete="CASCADE"), nullable=False),
    Column("first_line", BigInteger, nullable=False),  # its place among all that the attempt has said …
    Column("first_byte", BigInteger, nullable=False),  # … in lines and in bytes
    Column("num_lines", Integer, nullable=False),
    Column("num_bytes", Integer, nullable=False),
    Column("lines", JSON, nullable=False),  # of each: time, stream, level, text
    UniqueConstraint("attempt_id", "first_byte"),
    CheckConstraint("num_lines > 0", name="lines"),
)
Index("ix_log_chunks_trial_id_last_seq", log_chunks.c.trial_id, log_chunks.c.last_seq)

submission_keys = Table(
    "submission_keys",
    metadata,
    Column("project", Text, primary_key=True),
    Column("created_by", Text, primary_key=True),  # nobody gets at another's sweep by guessing a key
    Column("key", Text, primary_key=True),
    Column("digest", String(64), nullable=False),  # of what was submitted
    Column("sweep_id", Identifier, ForeignKey("sweeps.id", ondelete="CASCADE"), nullable=False),
)
Index("ix_submission_keys_sweep_id", submission_keys.c.sweep_id)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Identifier, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("role", String(20), nullable=False),
    Column("digest", String(64), nullable=False),  # of the secret, which is nowhere
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("last_used_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    _one_of("role", KeyRole),
)
Index(
    "uq_api_keys_name",
    api_keys.c.name,
    unique=True,
    sqlite_where=text("revoked_at IS NULL"),
    postgresql_where=text("revoked_at IS NULL"),
)

audit = Table(  # refers to nothing: it stays when what it tells of goes
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcDateTime, nullable=False),
    Column("key_id", Identifier),
    Column("by_name", Text, nullable=False),
    Column("action", String(30), nullable=False),
    Column("subject", Identifier, nullable=False),
    Column("detail", JSON, nullable=False),
)

publications = Table(
    "publications",
    metadata,
    Column("name", String(20), primary_key=True),  # catalog, cluster
    Column("document", JSON, nullable=False),
    Column("published_at", UtcDateTime, nullable=False),
)
