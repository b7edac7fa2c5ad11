"""The database's schema: bring it up to date, or check that it is."""

from __future__ import annotations

import threading
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

from sweep_service.domain.errors import SchemaOutdatedError
from sweep_service.storage.database import errors_named, migrating, open_engine, use_write_ahead_log
from sweep_service.storage.tables import SCHEMA_VERSION, VERSION_TABLE

_MIGRATIONS = Path(__file__).parent / "migrations"
_ONE_THREAD = threading.Lock()  # Alembic keeps what it works on in a module
_MIGRATION_LOCK = 0x5357_4545_5001  # any number that nothing else in the database locks


def migrate(url: str, *, scripts: Path = _MIGRATIONS) -> None:
    """Bring the store at that URL to the schema of this code, making it if there is none.

    ``scripts`` is the folder of the migrations: this code's own, unless a test brings others.

    One transaction behind one lock: of two processes that call it at once, one waits and finds nothing left to do, and
    one that dies half way leaves the old schema.

    Raises:
        ValueError: the URL cannot be the store's.
        StoreUnavailableError: the database does not answer.
        SchemaOutdatedError: the database was migrated by a newer version of this code.
    """
    engine = open_engine(url)
    try:
        with errors_named(), _ONE_THREAD:
            _migrate(engine, scripts)
    finally:
        engine.dispose()


def check_schema(connection: Connection) -> None:
    """Raises SchemaOutdatedError unless the database has the schema of this code."""
    found = _read_version(connection)
    if found != SCHEMA_VERSION:
        stands = "has no schema yet" if found is None else f"has schema {found}"
        raise SchemaOutdatedError(f"The database {stands}; this version needs {SCHEMA_VERSION}. Migrate it.")


def _read_version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar_one_or_none()  # noqa: S608


def _migrate(engine: Engine, scripts: Path) -> None:
    # Alembic takes a third of a second to import, and only this function needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if engine.dialect.name == "sqlite":
        use_write_ahead_log(engine)
    with migrating(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET LOCAL lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
        config = Config()
        config.set_main_option("script_location", str(scripts).replace("%", "%%"))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            found = _read_version(connection)
            raise SchemaOutdatedError(f"The database has schema {found}, which this version does not know.") from error
