"""Connections, transactions and the clock of the SQL store, for SQLite and PostgreSQL.

All that differs between the two is here. SQLite has one writer at a time, so a write takes the lock when it begins
(BEGIN IMMEDIATE): one that began as a read could not be upgraded while another writes. PostgreSQL locks rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy.orm  # noqa: F401  # SQLAlchemy looks into it, and fails while another thread loads it for MLflow
from sqlalchemy import (
    Connection,
    Double,
    Engine,
    Executable,
    Table,
    bindparam,
    cast,
    create_engine,
    event,
    extract,
    func,
    select,
)
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.sql import ColumnElement

from sweep_service.domain.errors import SchemaOutdatedError, StoreUnavailableError
from sweep_service.ports import Clock
from sweep_service.storage.tables import UtcDateTime

_WRITES = "sweep_store_writes"
_LOCK_WAIT_SECONDS = 10
_POSTGRES_ARGS: dict[str, Any] = {
    "application_name": "sweep-service",
    "connect_timeout": 10,
    # A peer that vanished must not block us, nor may a frozen process keep a sweep's row locked.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "options": (f"-c lock_timeout={_LOCK_WAIT_SECONDS}s -c idle_in_transaction_session_timeout=15s -c timezone=UTC"),
}
_CLOCK = func.clock_timestamp(type_=UtcDateTime())  # of PostgreSQL
_READ_CLOCK = select(_CLOCK)
_CHANGES = 0x5357_4545_5002  # any number that nothing else in the database locks
_LOCK_CHANGES = select(func.pg_advisory_xact_lock(_CHANGES))
_MISSING_TABLE = ("no such table", "no such column", "UndefinedTable", "UndefinedColumn")


def parse_url(url: str) -> URL:
    """The URL with the driver that is used. Raises ValueError for a database that cannot be the store."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(
            "database_url is no database URL; write sqlite:////folder/file.db or postgresql://user@host/name."
        ) from None
    backend = parsed.get_backend_name()
    if backend == "postgresql":
        if parsed.drivername not in {"postgresql", "postgresql+psycopg"}:
            raise ValueError(f"database_url asks for {parsed.drivername}; write postgresql+psycopg:// instead.")
        return parsed.set(drivername="postgresql+psycopg")
    if backend != "sqlite":
        raise ValueError(f"database_url asks for {backend}; only sqlite:// and postgresql:// can be the store.")
    if not parsed.database or parsed.database == ":memory:" or parsed.query.get("mode") == "memory":
        raise ValueError(
            "database_url names no file; several processes share the store: write sqlite:////path/to/file."
        )
    return parsed


def open_engine(url: str) -> Engine:
    """An engine for the store; connects to nothing yet. Makes the folder of a SQLite file.

    Raises:
        ValueError: the URL cannot be the store's.
        StoreUnavailableError: the folder cannot be made.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "postgresql":
        args = {key: value for key, value in _POSTGRES_ARGS.items() if key not in parsed.query}
        engine = create_engine(parsed, connect_args=args, pool_pre_ping=True)
        event.listen(engine, "handle_error", _replace_what_does_not_answer)
        return engine
    folder = Path(parsed.database or "").expanduser().parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailableError(f"The folder {folder} of the store cannot be made: {error}.") from error
    args = {} if "timeout" in parsed.query else {"timeout": _LOCK_WAIT_SECONDS}
    engine = create_engine(parsed, connect_args=args)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _replace_what_does_not_answer(context: ExceptionContext) -> None:
    """A connection that fails its ping is given up, whatever it says. Of one that was cut off a moment ago psycopg may
    not know yet, and then complains of the state that it finds itself in.
    """
    if context.is_pre_ping:
        context.is_disconnect = True


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # BEGIN is ours to send
    for pragma in ("foreign_keys = ON", "synchronous = NORMAL"):  # NORMAL survives a killed process
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    is_write = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_write else "BEGIN")


@contextmanager
def errors_named() -> Iterator[None]:
    """Turn the driver's errors into StoreUnavailableError and SchemaOutdatedError; leave programming faults alone."""
    try:
        yield
    except PoolTimeoutError as error:
        raise StoreUnavailableError("All connections to the database are busy.") from error
    except DBAPIError as error:
        _raise_named(error)
        raise
    except sqlite3.Error as error:  # of a pragma that SQLAlchemy does not see
        raise StoreUnavailableError(f"The database does not answer: {error}.") from error


def _raise_named(error: DBAPIError) -> None:
    """Raises unless a statement of ours is at fault. What else drivers report differs from database to database (a
    file that is none, a server that only reads, a disk that is full), but none of it is known to a caller's code.
    """
    said = f"{type(error.orig).__name__}: {error.orig}"
    is_of_schema = isinstance(error, OperationalError | ProgrammingError)
    if is_of_schema and any(sign in said for sign in _MISSING_TABLE):
        raise SchemaOutdatedError(f"The database lacks what this version needs ({error.orig}); migrate it.") from error
    if error.connection_invalidated or not isinstance(error, IntegrityError | DataError | ProgrammingError):
        raise StoreUnavailableError(f"The database does not answer: {error.orig}.") from error


class Database:
    """One database: its transactions and its clock."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self._clock = clock
        self._is_sqlite = engine.dialect.name == "sqlite"

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that writes nothing. Raises StoreUnavailableError, SchemaOutdatedError."""
        with errors_named(), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction, committed at the end of the block. Raises StoreUnavailableError, SchemaOutdatedError."""
        with errors_named(), writing(self.engine) as connection:
            yield connection

    def upsert(self, table: Table, row: dict[str, Any]) -> Executable:
        """Insert the row, or overwrite the one with the same primary key."""
        if self._is_sqlite:  # imported here because each brings a dialect that the other database does not need
            from sqlalchemy.dialects.sqlite import insert
        else:
            from sqlalchemy.dialects.postgresql import insert
        keys = [column.name for column in table.primary_key]
        changes = {name: value for name, value in row.items() if name not in keys}
        return insert(table).values(**row).on_conflict_do_update(index_elements=keys, set_=changes)

    def now(self) -> ColumnElement[datetime]:
        """The store's time when a query is executed: the database's own where it has a clock that all its clients
        share.
        """
        if self._is_sqlite:
            return bindparam(None, callable_=self._clock.now, type_=UtcDateTime(), unique=True)
        return _CLOCK

    def seconds_between(self, start: ColumnElement[datetime], end: ColumnElement[datetime]) -> ColumnElement[float]:
        """Of SQLite to the millisecond, which is as exactly as its functions know the time."""
        if self._is_sqlite:
            return func.round((func.julianday(end) - func.julianday(start)) * 86400.0, 3, type_=Double())
        return cast(extract("epoch", end - start), Double())

    def read_clock(self, connection: Connection) -> datetime:
        """The store's time, read in that transaction."""
        return self._clock.now() if self._is_sqlite else connection.execute(_READ_CLOCK).scalar_one()


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that may write from its first statement on."""
    with engine.connect().execution_options(**{_WRITES: True}) as connection, connection.begin():
        yield connection


def lock_changes(connection: Connection) -> None:
    """Let no other transaction come here until this one has ended: what it then reads of keys and records holds, and
    a record of a lower number cannot appear later. Whoever locks a sweep as well does that first. SQLite has one writer
    at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_LOCK_CHANGES)


@contextmanager
def migrating(engine: Engine) -> Iterator[Connection]:
    """A transaction that may alter tables.

    SQLite alters a table by copying it and dropping the old one, which would delete every row that refers to it: so it
    enforces no foreign keys meanwhile, and they are checked before the commit instead. Inside a transaction it could
    not be told so.

    Raises:
        RuntimeError: the migrations leave rows that refer to nothing; none of them has happened.
    """
    if engine.dialect.name != "sqlite":
        with writing(engine) as connection:
            yield connection
        return
    with engine.connect().execution_options(**{_WRITES: True}) as connection:
        _send_pragma(connection, "foreign_keys = OFF")
        try:
            with connection.begin():
                yield connection
                _check_references(connection)
        finally:
            _send_pragma(connection, "foreign_keys = ON")


def _check_references(connection: Connection) -> None:
    tables = sorted({row.table for row in connection.exec_driver_sql("PRAGMA foreign_key_check")})
    if tables:
        raise RuntimeError(f"The migrations leave rows that refer to nothing, in {', '.join(tables)}; undone.")


def use_write_ahead_log(engine: Engine) -> None:
    """Let readers of a SQLite file never wait for its writer. The file remembers it."""
    with engine.connect() as connection:
        _send_pragma(connection, "journal_mode = WAL")


def _send_pragma(connection: Connection, pragma: str) -> None:
    """Past SQLAlchemy, which would begin a transaction first."""
    driver: Any = connection.connection.driver_connection
    driver.execute(f"PRAGMA {pragma}").close()
