"""The PostgreSQL server of the tests, and databases on it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from sqlalchemy.engine import URL

FORGETFUL: Mapping[str, str] = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
}
"""Settings for data that is thrown away: nobody waits for the disk."""

DURABLE: Mapping[str, str] = {**FORGETFUL, "synchronous_commit": "on"}
"""What is committed outlives an immediate stop of the server, if not of the machine."""


@contextmanager
def new_database(server: URL) -> Iterator[str]:
    """A new, empty database on that server, dropped at the end."""
    name = f"sweep_test_{uuid.uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: URL, statement: str) -> None:
    conninfo = server.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statement.encode())
