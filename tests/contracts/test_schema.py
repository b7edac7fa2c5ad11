"""The migrations: what they make is what the code's tables say, on both databases and however they are run."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from postgres_server import new_database
from processes import processes_at_once
from sqlalchemy import Engine, insert, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import IntegrityError
from store_values import SPEC, START, claimed, new_attempt, new_report, new_sweep, new_trial

from sweep_service.domain.errors import SchemaOutdatedError, StoreUnavailableError
from sweep_service.domain.states import SweepState
from sweep_service.domain.trial import BusyTime
from sweep_service.ports import SubmissionKey
from sweep_service.storage import rows, schema, tables
from sweep_service.storage.database import open_engine
from sweep_service.storage.schema import check_schema, migrate
from sweep_service.storage.sql import open_sql_store
from sweep_service.storage.tables import SCHEMA_VERSION, VERSION_TABLE, metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new' / 'store.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def empty_engine(empty_url: str) -> Iterator[Engine]:
    engine = open_engine(empty_url)
    yield engine
    engine.dispose()


def test_the_newest_migration_is_the_one_that_the_code_expects() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == SCHEMA_VERSION


def test_migrations_make_the_tables_of_the_code(empty_url: str, empty_engine: Engine) -> None:
    migrate(empty_url)
    with empty_engine.connect() as connection:
        check_schema(connection)
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []


def test_migrations_make_the_constraints_of_the_code_in_sqlite(tmp_path: Path) -> None:
    migrated, made = f"sqlite:///{tmp_path / 'migrated.db'}", f"sqlite:///{tmp_path / 'made.db'}"
    migrate(migrated)
    metadata.create_all(engine := open_engine(made))
    engine.dispose()
    assert _sqlite_statements(migrated) == _sqlite_statements(made)


def test_migrations_make_the_constraints_of_the_code_in_postgresql(postgres_server: URL) -> None:
    with new_database(postgres_server) as migrated, new_database(postgres_server) as made:
        migrate(migrated)
        metadata.create_all(engine := open_engine(made))
        engine.dispose()
        assert _postgres_statements(migrated) == _postgres_statements(made)


def test_migrating_again_changes_nothing(empty_url: str) -> None:
    migrate(empty_url)
    store = open_sql_store(empty_url)
    store.add_sweep(new_sweep())
    migrate(empty_url)
    assert store.get_sweep(new_sweep().id).spec == SPEC
    store.close()


_MIGRATE = """
import sys
from sweep_service.storage.schema import migrate
print("ready", flush=True)
sys.stdin.readline()
migrate(sys.argv[1])
print("migrated")
"""


def test_processes_that_migrate_at_once_wait_for_each_other(empty_url: str) -> None:
    assert processes_at_once(_MIGRATE, empty_url, num=3) == ["migrated"] * 3
    store = open_sql_store(empty_url)
    store.check_ready()
    store.close()


def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str, empty_engine: Engine) -> None:
    with empty_engine.begin() as connection:
        connection.execute(text("CREATE TABLE events (unlike_ours INTEGER)"))
    with pytest.raises(Exception, match="events"):
        migrate(empty_url)
    with empty_engine.connect() as connection:
        tables = empty_engine.dialect.get_table_names(connection)
    assert tables == ["events"]


_ALTERED = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "9998", "{SCHEMA_VERSION}", None, None


def upgrade():
    for table in ("sweeps", "trials"):
        with op.batch_alter_table(table) as batch:  # SQLite copies the table for this
            batch.alter_column("message", existing_type=sa.Text(), nullable=True)
"""


def _with_another_migration(folder: Path, text: str) -> Path:
    """The folder of our migrations and one that comes after them."""
    scripts = shutil.copytree(Path(schema.__file__).parent / "migrations", folder / "migrations")
    (scripts / "versions" / "9998_of_the_test.py").write_text(text)
    return scripts


def _filled(url: str) -> dict[str, int]:
    """Put something into every table of the sweeps; the number of rows of each."""
    store = open_sql_store(url)
    lease = claimed(store)
    trials = [new_trial(lease.sweep_id, number) for number in range(2)]
    store.add_trials(lease, trials)
    for trial in trials:
        store.start_attempt(lease, attempt := new_attempt(trial))
        store.record(lease, reports=[new_report(attempt, 1)])
    store.close()
    return _num_rows(url)


def _num_rows(url: str) -> dict[str, int]:
    engine = open_engine(url)
    with engine.connect() as connection:
        tables = ("sweeps", "trials", "attempts", "reports", "events")
        found = {name: connection.execute(text(f"SELECT count(*) FROM {name}")).scalar_one() for name in tables}
    engine.dispose()
    return found


def test_a_migration_that_alters_a_table_keeps_the_rows_that_refer_to_it(empty_url: str, tmp_path: Path) -> None:
    migrate(empty_url)
    before = _filled(empty_url)
    assert min(before.values()) > 0
    migrate(empty_url, scripts=_with_another_migration(tmp_path, _ALTERED))
    assert _num_rows(empty_url) == before


def _migrations_up_to(version: str, folder: Path) -> Path:
    """The folder of our migrations as that version had it."""
    scripts = shutil.copytree(Path(schema.__file__).parent / "migrations", folder / "migrations")
    for script in scripts.glob("versions/*.py"):
        if script.name[:4] > version:
            script.unlink()
    return scripts


def _filled_before_0005(engine: Engine) -> dict[str, int]:
    """Two trials that run, as a conductor wrote them before attempts had packs; the number of rows of each table."""
    sweep = new_sweep(0, state=SweepState.RUNNING, started_at=START)
    counters = {"num_events": 0, "num_reports": 2, "num_delivered": 0}
    row = rows.sweep_row(sweep)
    newer_ones = ("active_since", "active_before_s", "revision", "priority", "queued_at", "tracking_due_at")
    for newer in newer_ones:  # of 0006 and later
        del row[newer]
    with engine.begin() as connection:
        connection.execute(insert(tables.sweeps).values(**row, **counters))
        for number in range(2):
            trial = new_trial(sweep.id, number)
            connection.execute(insert(tables.trials).values(**rows.trial_row(trial)))
            attempt = new_attempt(trial)
            row = rows.attempt_row(attempt)
            del row["pack"]
            connection.execute(insert(tables.attempts).values(**row))
            connection.execute(insert(tables.reports).values(**rows.report_row(new_report(attempt, 1, seq=number + 1))))
    return _num_rows(engine.url.render_as_string(hide_password=False))


@pytest.mark.parametrize("version", ["0001", "0004"])
def test_a_store_of_an_earlier_version_is_brought_up_with_its_rows(
    empty_url: str, empty_engine: Engine, tmp_path: Path, version: str
) -> None:
    migrate(empty_url, scripts=_migrations_up_to(version, tmp_path))
    before = _filled_before_0005(empty_engine)
    migrate(empty_url)
    assert _num_rows(empty_url) == before
    store = open_sql_store(empty_url)
    store.check_ready()
    assert store.get_sweep(new_sweep().id).active_time(START + timedelta(hours=1)) == timedelta(hours=1)
    trial = new_trial(new_sweep().id)
    assert store.list_attempts(trial.id) == [new_attempt(trial)], "with no pack"
    assert store.list_reports(trial.id) == [new_report(new_attempt(trial), 1, seq=1)]
    assert store.busy_time(trial.sweep_id) == BusyTime(running_since=(START, START)), "each was a pack by itself"
    key = SubmissionKey(key="mine", digest="d" * 64)
    assert store.add_sweep(new_sweep(1), key=key) == store.add_sweep(new_sweep(2), key=key)
    store.close()


def test_a_store_of_an_earlier_version_keeps_its_rules(empty_url: str, empty_engine: Engine, tmp_path: Path) -> None:
    migrate(empty_url, scripts=_migrations_up_to("0004", tmp_path))
    _filled_before_0005(empty_engine)
    migrate(empty_url)
    broken = ("state = 'lost'", "state = 'unknown'", "trial_id = 'trl_nowhere'", "number = NULL", "pack = NULL")
    for change in broken:
        with pytest.raises(IntegrityError), empty_engine.begin() as connection:
            connection.execute(text(f"UPDATE attempts SET {change}"))
    with empty_engine.begin() as connection:
        connection.execute(text("DELETE FROM trials"))
    assert {name: _num_rows(empty_url)[name] for name in ("attempts", "reports")} == {"attempts": 0, "reports": 0}


def test_references_are_enforced_again_after_a_migration(empty_url: str, empty_engine: Engine, tmp_path: Path) -> None:
    migrate(empty_url)
    _filled(empty_url)
    migrate(empty_url, scripts=_with_another_migration(tmp_path, _ALTERED))
    with pytest.raises(IntegrityError), empty_engine.begin() as connection:
        connection.execute(text("UPDATE trials SET sweep_id = 'swp_nowhere'"))
    with empty_engine.begin() as connection:
        connection.execute(text("DELETE FROM sweeps"))
    assert set(_num_rows(empty_url).values()) == {0}


def test_a_migration_that_leaves_rows_without_what_they_refer_to_has_not_happened(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    migrate(url)
    before = _filled(url)
    deletes = _ALTERED + "    op.execute('DELETE FROM trials')\n"
    with pytest.raises(RuntimeError, match="attempts, reports"):
        migrate(url, scripts=_with_another_migration(tmp_path, deletes))
    assert _num_rows(url) == before
    store = open_sql_store(url)
    store.check_ready()
    store.close()


def test_a_database_that_was_never_migrated_says_so(empty_url: str) -> None:
    store = open_sql_store(empty_url)
    with pytest.raises(SchemaOutdatedError, match="no schema yet"):
        store.check_ready()
    with pytest.raises(SchemaOutdatedError, match="sweeps"):
        store.get_sweep(new_sweep().id)
    store.close()


def test_a_database_of_a_newer_version_is_left_alone(empty_url: str, empty_engine: Engine) -> None:
    migrate(empty_url)
    with empty_engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    store = open_sql_store(empty_url)
    with pytest.raises(SchemaOutdatedError, match="9999"):
        store.check_ready()
    with pytest.raises(SchemaOutdatedError, match="9999"):
        migrate(empty_url)
    store.close()


def test_a_sqlite_store_is_read_while_it_is_written(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    migrate(url)
    store = open_sql_store(url)
    writer = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert store.list_sweeps() == []
    writer.close()
    store.close()


def test_a_database_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for url in (f"sqlite:///{tmp_path / 'file' / 'store.db'}", "postgresql://sweep@127.0.0.1:1/nowhere"):
        with pytest.raises(StoreUnavailableError):
            migrate(url)


def _sqlite_statements(url: str) -> dict[str, list[str]]:
    """What made each table and index, line by line in alphabetical order. A column that was added to a table stands on
    the line of the one before it.
    """
    path = url.removeprefix("sqlite:///")
    with sqlite3.connect(path) as connection:
        found = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    lines = {name: re.sub(r", (?=[a-z_]+ [A-Z])", ",\n", sql).splitlines() for name, sql in found}
    return {name: sorted(line.strip(" \t,") for line in lines[name]) for name in lines if name != VERSION_TABLE}


def _postgres_statements(url: str) -> set[tuple[str, ...]]:
    """Every column, constraint and index of ours."""
    columns = (
        "table_name, column_name, data_type, is_nullable, coalesce(collation_name, ''), coalesce(column_default, '')"
    )
    constraints = "conrelid::regclass::text, conname, pg_get_constraintdef(oid)"
    queries = (
        f"SELECT {columns} FROM information_schema.columns WHERE table_schema = 'public'",
        f"SELECT {constraints} FROM pg_constraint WHERE connamespace = 'public'::regnamespace",
        "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    )
    engine = open_engine(url)
    with engine.connect() as connection:
        found = {tuple(row) for query in queries for row in connection.execute(text(query))}
    engine.dispose()
    return {row for row in found if row[0] != VERSION_TABLE}
