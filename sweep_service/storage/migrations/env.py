"""Runs the migrations on the connection that ``storage.schema`` passes, inside its transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from sweep_service.storage.tables import VERSION_TABLE, metadata


def _run() -> None:
    connection: Connection | None = context.config.attributes.get("connection")
    if connection is None:
        raise RuntimeError("Migrations run through sweep_service.storage.schema.migrate(url), not on their own.")
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,  # SQLite alters a table by copying it
    )
    with context.begin_transaction():
        context.run_migrations()


_run()
