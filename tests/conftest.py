"""Fixtures for every test: a real PostgreSQL server, and databases on it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before torch is loaded: with a thread a core, the two processes of a test run get in each other's way. A search by a
# Gaussian process took three times the CPU time, and more than that in time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from postgres_server import new_database, running_server
from sqlalchemy.engine import URL, make_url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """The URL of a PostgreSQL server, one for the whole session, on which tests may make databases."""
    given = os.environ.get("SWEEP_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    folder = Path(tempfile.mkdtemp(prefix="sweep-postgres-"))
    try:
        with running_server(folder) as url:
            yield url
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: URL) -> Iterator[str]:
    """The URL of a new, empty database, which goes away after the test."""
    with new_database(postgres_server) as url:
        yield url
