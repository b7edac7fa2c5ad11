"""What only a store in a database must do: its URLs, its failures, its clock, its constraints."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import IntegrityError
from store_values import SPEC, TTL, FakeClock, claimed, new_attempt, new_report, new_sweep, new_trial

from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.states import AttemptState, SweepState, Verb
from sweep_service.storage.database import Database, open_engine
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import SqlSweepStore, open_sql_store
from trainables.catalog import builtin_trainables


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on a store with empty tables."""
    if request.param == "postgresql":
        yield request.getfixturevalue("emptied_postgres")
        return
    engine = open_engine(request.getfixturevalue("sqlite_url"))
    yield engine
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("", "no database URL"),
        ("sweeps.db", "no database URL"),
        ("mysql://host/name", "only sqlite:// and postgresql://"),
        ("postgresql+psycopg2://host/name", r"write postgresql\+psycopg://"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///file:x?mode=memory&uri=true", "names no file"),
    ],
)
def test_a_url_that_cannot_be_the_store_is_refused_with_the_way_out(url: str, fault: str) -> None:
    for use in (open_sql_store, migrate):
        with pytest.raises(ValueError, match=fault) as raised:
            use(url)
        assert "database_url" in str(raised.value)


def test_a_refused_url_does_not_tell_its_password() -> None:
    with pytest.raises(ValueError, match="only sqlite") as raised:
        open_sql_store("mysql://user:secret@host/name")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])
def test_a_postgresql_url_may_name_the_driver_or_not(emptied_postgres: Engine, scheme: str) -> None:
    store = open_sql_store(emptied_postgres.url.set(drivername=scheme).render_as_string(hide_password=False))
    store.check_ready()
    store.close()


def test_the_folder_of_a_sqlite_file_is_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a' / 'b' / 'store.db'}"
    migrate(url)
    store = open_sql_store(url)
    store.check_ready()
    store.close()
    assert (tmp_path / "a" / "b" / "store.db").is_file()


def test_a_database_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "store.db").mkdir()
    for url in (f"sqlite:///{tmp_path / 'store.db'}", "postgresql://sweep@127.0.0.1:1/nowhere"):
        store = open_sql_store(url)
        for use in (store.check_ready, store.list_sweeps, lambda s=store: s.add_sweep(new_sweep())):
            with pytest.raises(StoreUnavailableError):
                use()
        store.close()


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_text("These are my notes, and no database. " * 100)
    url = f"sqlite:///{tmp_path / 'store.db'}"
    store = open_sql_store(url)
    for use in (store.check_ready, store.list_sweeps, lambda: store.add_sweep(new_sweep()), lambda: migrate(url)):
        with pytest.raises(StoreUnavailableError, match="not a database"):
            use()
    store.close()


def test_a_postgresql_server_that_only_reads_is_unavailable_to_writers(postgres_url: str) -> None:
    migrate(postgres_url)
    store = open_sql_store(postgres_url + "?options=-c default_transaction_read_only=on")
    with pytest.raises(StoreUnavailableError, match="read-only"):
        store.add_sweep(new_sweep())
    assert store.list_sweeps() == []
    store.close()


def test_a_sqlite_writer_that_waits_too_long_for_another_gives_up(sqlite_url: str, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = open_sql_store(sqlite_url + "?timeout=0.01")
    with pytest.raises(StoreUnavailableError, match="locked"):
        store.add_sweep(new_sweep())
    other.close()
    store.add_sweep(new_sweep())
    store.close()


def test_where_nothing_is_to_be_claimed_nobody_waits_for_a_writer(sqlite_url: str, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = open_sql_store(sqlite_url + "?timeout=0.01")
    assert store.claim_sweep(owner="test", ttl=TTL) is None
    assert store.claim_sweep(owner="test", ttl=TTL, winding_up_only=True) is None
    assert store.claim_late(owner="test", ttl=TTL) is None
    other.close()
    store.close()


def test_a_postgresql_store_survives_the_loss_of_its_connections(postgres_url: str) -> None:
    migrate(postgres_url)
    store = open_sql_store(postgres_url)
    store.add_sweep(new_sweep())
    admin = open_engine(postgres_url)
    with admin.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert store.get_sweep(new_sweep().id) == new_sweep()
    admin.dispose()
    store.close()


def test_a_connection_that_complains_when_pinged_is_replaced(emptied_postgres: Engine) -> None:
    """As psycopg does of one that was cut off a moment ago, before it knows."""
    store = SqlSweepStore(emptied_postgres)
    store.add_sweep(new_sweep())
    engine = open_engine(emptied_postgres.url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
    driver.execute("SELECT 1")  # psycopg lets nobody change autocommit within a transaction, as the ping will
    assert SqlSweepStore(engine).get_sweep(new_sweep().id) == new_sweep()
    engine.dispose()


def test_a_postgresql_transaction_that_is_cut_off_has_not_happened(emptied_postgres: Engine) -> None:
    database = Database(emptied_postgres, FakeClock())
    store = SqlSweepStore(emptied_postgres)
    store.add_sweep(new_sweep())

    def write_and_lose_the_connection() -> None:
        with database.writing() as connection:
            connection.execute(text("UPDATE sweeps SET message = 'half'"))
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with emptied_postgres.begin() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    with pytest.raises(StoreUnavailableError):
        write_and_lose_the_connection()
    assert store.get_sweep(new_sweep().id) == new_sweep()


def test_leases_in_postgresql_follow_the_databases_clock(emptied_postgres: Engine) -> None:
    slow_clock = FakeClock()
    slow_clock.advance(timedelta(days=-365))
    store = SqlSweepStore(emptied_postgres, slow_clock)
    lease = claimed(store)
    with emptied_postgres.connect() as connection:
        left = connection.execute(text("SELECT CAST(:at AS timestamptz) - clock_timestamp()"), {"at": lease.expires_at})
        assert timedelta(0) < left.scalar_one() <= TTL
    slow_clock.advance(2 * TTL)
    store.add_notice(lease, "still held")
    store.renew_lease(lease, ttl=timedelta(0))
    assert store.claim_sweep(owner="successor", ttl=TTL) is not None


def test_ids_sort_by_their_bytes_whatever_the_databases_language(engine: Engine) -> None:
    store = SqlSweepStore(engine)
    ids = ["swp_0Z", "swp_1a", "swp_1B", "swp_Z0", "swp_a0"]
    for sweep_id in ids:
        store.add_sweep(new_sweep(id=sweep_id))
    assert [s.id for s in store.list_sweeps()] == sorted(ids, reverse=True)
    assert [s.id for s in store.list_sweeps(before="swp_Z0")] == ["swp_1a", "swp_1B", "swp_0Z"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE sweeps SET state = 'resting'",
        "UPDATE sweeps SET state = 'completed'",
        "UPDATE sweeps SET ended_at = created_at",
        "UPDATE sweeps SET lease_token = NULL",
        "UPDATE sweeps SET num_delivered = num_reports + 1",
        "UPDATE trials SET state = 'stopped'",
        "UPDATE trials SET state = 'failed'",
        "UPDATE trials SET ending = 'error'",
        "UPDATE trials SET state = 'completed', ending = 'completed'",
        "UPDATE trials SET role = 'other'",
        "UPDATE trials SET number = 0",
        "UPDATE trials SET sweep_id = 'swp_nowhere'",
        "UPDATE attempts SET state = 'completed'",
        "UPDATE attempts SET state = 'lost'",
        "UPDATE attempts SET state = 'running', ended_at = NULL",
        "UPDATE attempts SET number = 0",
        "UPDATE reports SET step = 1",
        "UPDATE reports SET seq = 1",
    ],
)
def test_the_database_itself_refuses_rows_that_break_the_laws(engine: Engine, statement: str) -> None:
    store = SqlSweepStore(engine)
    lease = claimed(store)
    trials = [new_trial(lease.sweep_id, number) for number in range(2)]
    store.add_trials(lease, trials)
    first, second = new_attempt(trials[0]), new_attempt(trials[0], 1)
    store.start_attempt(lease, first)
    store.record(lease, reports=[new_report(first, 1), new_report(first, 2)])
    store.end_attempt(lease, first.id, AttemptState.LOST)
    store.start_attempt(lease, second)
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text(statement))


def test_a_deleted_sweep_takes_all_its_rows_along(engine: Engine) -> None:
    store = SqlSweepStore(engine)
    lease = claimed(store)
    trial = new_trial(lease.sweep_id)
    store.add_trials(lease, [trial])
    attempt = new_attempt(trial)
    store.start_attempt(lease, attempt)
    store.record(lease, reports=[new_report(attempt, 1)])
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM sweeps"))
        for table in ("trials", "attempts", "reports", "events"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() == 0


def test_a_sweep_stored_by_other_rules_is_served_like_any_other(engine: Engine) -> None:
    store = SqlSweepStore(engine)
    store.add_sweep(new_sweep())
    store.add_sweep(new_sweep(1))
    old = SPEC.canonical() | {"epochs": 3, "name": " ", "search": {"sampler": "grid", "order": 1}}
    del old["retries"]
    with engine.begin() as connection:
        update = text("UPDATE sweeps SET spec = :spec WHERE id = :id")
        connection.execute(update, {"spec": json.dumps(old), "id": new_sweep().id})
    assert [s.spec.search.sampler for s in store.list_sweeps()] == ["tpe", "grid"]
    lease = store.claim_sweep(owner="dispatcher", ttl=TTL)
    assert lease is not None
    assert lease.sweep_id == new_sweep().id
    store.move_sweep(lease, SweepState.RUNNING)
    assert store.control_sweep(lease.sweep_id, Verb.CANCEL).spec.retries == SPEC.retries
    assert store.get_sweep(lease.sweep_id).spec.canonical()["search"] == {
        "sampler": "grid",
        "seed": 0,
        "from_sweep": None,
        "balancers": None,
    }


def test_a_catalogue_that_a_newer_dispatcher_has_published_is_read(engine: Engine) -> None:
    store = SqlSweepStore(engine)
    trainable = builtin_trainables()[0]
    store.publish_catalog([trainable])
    document = trainable.model_dump(mode="json") | {"paper": "x"}
    document["parameters"][0]["unit"] = document["tasks"][0]["weight"] = 1
    with engine.begin() as connection:
        update = text("UPDATE publications SET document = :document")
        connection.execute(update, {"document": json.dumps({trainable.name: document})})
    assert store.read_catalog() == {trainable.name: trainable}


def test_opening_a_store_imports_nothing_heavy() -> None:
    script = (
        "import sys; import sweep_service.storage.sql; import sweep_service.storage.schema; "
        "print([m for m in ('alembic', 'torch', 'ray', 'mlflow', 'optuna', 'numpy', 'psycopg') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
