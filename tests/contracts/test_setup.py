"""``python -m sweep_service.setup``: a database that is ready, and the first key in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sweep_service.domain.keys import SETUP, ApiKey, KeyRole, KeyText, new_key_text, parse_key
from sweep_service.services.keys import KeyRing
from sweep_service.settings import Settings
from sweep_service.setup import NO_DATABASE, WRONG, SetupError, main, run
from sweep_service.storage.sql import open_sql_store

NOW = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    def now(self) -> datetime:
        return NOW


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sweeps.db'}"
    return request.getfixturevalue("postgres_url")


def set_up(url: str, key: str | None, folder: Path, **options: object) -> None:
    path = folder / "admin-key"
    if key is not None:
        path.write_text(key)
    run(Settings(database_url=url, admin_key_file=None if key is None else path), **options)


def keys_in(url: str) -> dict[str, ApiKey]:
    store = open_sql_store(url)
    found = {key.name: key for key in store.list_keys()}
    store.close()
    return found


def opens(url: str, text: KeyText) -> bool:
    store = open_sql_store(url)
    found = KeyRing(store=store, clock=Clock()).find(text)
    store.close()
    return found is not None and found.role is KeyRole.ADMIN


def test_a_database_is_migrated_and_the_key_of_the_file_is_an_admins(url: str, tmp_path: Path) -> None:
    text = new_key_text(now=NOW)
    for ending in ("\n", "", "\r\n"):
        set_up(url, text.text + ending, tmp_path)
    (key,) = keys_in(url).values()
    assert (key.id, key.name, key.role, key.created_by) == (text.id, "admin", KeyRole.ADMIN, "setup")
    assert opens(url, text)
    store = open_sql_store(url)
    assert [(record.by, record.action, record.subject) for record in store.list_audit()] == [
        ("setup", "key.create", text.id)
    ]
    store.close()


def test_prometheus_has_a_key_of_its_own_that_may_only_read(url: str, tmp_path: Path) -> None:
    texts = {name: new_key_text(now=NOW) for name in ("admin", "metrics")}
    for name, text in texts.items():
        (tmp_path / name).write_text(text.text)
    for _ in range(2):
        run(Settings(database_url=url, admin_key_file=tmp_path / "admin", metrics_key_file=tmp_path / "metrics"))
    found = {name: (key.id, key.role) for name, key in keys_in(url).items()}
    assert found == {
        "admin": (texts["admin"].id, KeyRole.ADMIN),
        "metrics": (texts["metrics"].id, KeyRole.VIEWER),
    }


def test_without_a_file_there_is_no_key(url: str, tmp_path: Path) -> None:
    set_up(url, None, tmp_path)
    assert keys_in(url) == {}


def test_a_revoked_key_is_never_revived(url: str, tmp_path: Path) -> None:
    text = new_key_text(now=NOW)
    set_up(url, text.text, tmp_path)
    store = open_sql_store(url)
    other = ApiKey(id=new_key_text(now=NOW).id, name="other", role=KeyRole.ADMIN, created_at=NOW, created_by="x")
    store.add_key(other, digest="d" * 64, by=SETUP)
    store.revoke_key(text.id, by=SETUP)
    store.close()
    set_up(url, text.text, tmp_path)
    assert not opens(url, text)
    assert keys_in(url)["admin"].revoked_at is not None


def test_another_key_in_the_file_comes_in_beside_the_first(url: str, tmp_path: Path) -> None:
    first, second = new_key_text(now=NOW), new_key_text(now=NOW)
    set_up(url, first.text, tmp_path)
    set_up(url, second.text, tmp_path)
    assert opens(url, first)
    assert opens(url, second)
    assert set(keys_in(url)) == {"admin", f"admin-{second.id[-8:].lower()}"}


@pytest.mark.parametrize("content", ["", "\n", "nonsense", "swk_", "é", "swk_01J9Z3NDEKTSV4RRFFQ69G5FAV_short"])
def test_a_file_without_a_key_is_named_and_nothing_of_it_repeated(tmp_path: Path, content: str) -> None:
    database = tmp_path / "sweeps.db"
    with pytest.raises(SetupError, match=r"admin-key \(SWEEP_ADMIN_KEY_FILE\) holds no key; run deploy/init") as caught:
        set_up(f"sqlite:///{database}", content, tmp_path)
    assert caught.value.code == WRONG
    assert not content.strip() or content not in str(caught.value)
    assert not database.exists(), "it is found out before anything is made"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = Settings(database_url=f"sqlite:///{tmp_path / 'sweeps.db'}", admin_key_file=tmp_path / "nowhere")
    with pytest.raises(SetupError, match="nowhere"):
        run(settings)


def test_a_database_is_waited_for_a_minute(tmp_path: Path) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)

    with pytest.raises(SetupError, match="has not answered for a minute") as caught:
        set_up("postgresql://sweep@127.0.0.1:1/nowhere", None, tmp_path, sleep=sleep, timer=lambda: sum(pauses))
    assert caught.value.code == NO_DATABASE
    assert sum(pauses) == 60


def test_a_database_that_comes_up_meanwhile_is_used(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("no folder yet")
    url = f"sqlite:///{tmp_path / 'folder' / 'sweeps.db'}"
    text = new_key_text(now=NOW)
    set_up(url, text.text, tmp_path, sleep=lambda _: (tmp_path / "folder").unlink())
    assert opens(url, text)


def test_what_can_be_no_store_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="only sqlite:// and postgresql://"):
        set_up("mysql://localhost/sweeps", None, tmp_path, sleep=lambda _: pytest.fail("it waits"))


def test_a_new_key_is_printed_and_nothing_else_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--new-key"]) == 0
    printed = capsys.readouterr().out
    assert re.fullmatch(r"swk_[0-7][0-9A-HJKMNP-TV-Z]{25}_[A-Za-z0-9_-]{43}\n", printed)
    assert parse_key(printed.strip()) is not None


def test_the_process_says_in_one_sentence_what_is_wrong_and_then_sets_up(tmp_path: Path) -> None:
    def process(**environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sweep_service.setup"]
        given = {**os.environ, "SWEEP_DATABASE_URL": f"sqlite:///{tmp_path / 'sweeps.db'}", **environment}
        return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60)

    path = tmp_path / "key"
    path.write_text("")
    refused = process(SWEEP_ADMIN_KEY_FILE=str(path))
    assert refused.returncode == 2
    assert refused.stderr == f"{path} (SWEEP_ADMIN_KEY_FILE) holds no key; run deploy/init, which makes one.\n"
    assert process(SWEEP_ADMIN_KEY_FILE="").returncode == 0, "an empty setting is none"
    text = new_key_text(now=NOW)
    path.write_text(text.text)
    for _ in range(2):
        done = process(SWEEP_ADMIN_KEY_FILE=str(path))
        assert done.returncode == 0, done.stderr
        assert text.secret not in done.stdout + done.stderr
    assert opens(f"sqlite:///{tmp_path / 'sweeps.db'}", text)
