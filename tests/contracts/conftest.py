"""Every implementation of SweepStore, one after the other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres_server import new_database
from sqlalchemy import Engine, text
from sqlalchemy.engine import URL
from store_values import Backend, FakeClock

from sweep_service.clock import SystemClock
from sweep_service.ports import Clock, SweepStore
from sweep_service.storage.database import open_engine
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import SqlSweepStore
from sweep_service.storage.tables import metadata


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with empty tables, to be copied."""
    path = tmp_path_factory.mktemp("store") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: URL) -> Iterator[Engine]:
    """A database with tables, shared by the tests: truncate before use."""
    with new_database(postgres_server) as url:
        migrate(url)
        engine = open_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture
def fake_clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def sqlite_url(migrated_sqlite: Path, tmp_path: Path) -> str:
    """The URL of a store of the test's own."""
    shutil.copy(migrated_sqlite, tmp_path / "store.db")
    return f"sqlite:///{tmp_path / 'store.db'}"


@pytest.fixture
def emptied_postgres(migrated_postgres: Engine) -> Engine:
    """The shared database, without rows."""
    with migrated_postgres.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))
    return migrated_postgres


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Each kind of store, on its real clock."""
    yield from _backend(request, SystemClock())


@pytest.fixture(params=["memory", "sqlite"])
def clocked_backend(request: pytest.FixtureRequest, fake_clock: FakeClock) -> Iterator[Backend]:
    """The kinds of store that take their time from a clock of ours."""
    yield from _backend(request, fake_clock)


@pytest.fixture
def store(backend: Backend) -> SweepStore:
    return backend.open()


@pytest.fixture
def clocked_store(clocked_backend: Backend) -> SweepStore:
    return clocked_backend.open()


def _backend(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Backend]:
    if request.param == "memory":
        memory = MemorySweepStore(clock)
        yield Backend(name="memory", url="", open=lambda: memory)
    elif request.param == "sqlite":
        yield from _sql_backend("sqlite", request.getfixturevalue("sqlite_url"), clock)
    else:
        engine: Engine = request.getfixturevalue("emptied_postgres")
        yield from _sql_backend("postgresql", engine.url.render_as_string(hide_password=False), clock, engine)


def _sql_backend(name: str, url: str, clock: Clock, first: Engine | None = None) -> Iterator[Backend]:
    opened: list[Engine] = []

    def open_another() -> SweepStore:
        if first is not None and not opened:
            opened.append(first)  # to connect takes longer than most tests
        else:
            opened.append(open_engine(url))
        return SqlSweepStore(opened[-1], clock)

    yield Backend(name=name, url=url, open=open_another)
    for engine in opened:
        if engine is not first:
            engine.dispose()
