"""The API's log, of the process itself too: as text and as JSON, and what each line tells of its request."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import SPEC, TOY, BrokenStore, Service, serve
from test_process import api_process

from api.app import create_app
from sweep_service.logs import JsonLines
from sweep_service.settings import Settings
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import open_sql_store

SWEEP = "swp_01ARZ3NDEKTSV4RRFFQ69G5FAV"
TRIAL = "trl_01ARZ3NDEKTSV4RRFFQ69G5FAV"
OWN = "SWEEP_LOG_FORMAT"


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    migrate(url)
    open_sql_store(url).publish_catalog([TOY])
    return url


def test_every_line_of_the_process_is_json_the_servers_own_too(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OWN, "json")
    log = tmp_path / "log"
    with api_process(database, log=log) as (process, url, _):
        assert httpx.post(f"{url}/api/v1/sweeps", json=dict(SPEC), trust_env=False, timeout=60).status_code == 201
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {(line["process"], line["pid"], line["level"]) for line in lines} == {("api", process.pid, "INFO")}
    assert {"uvicorn.error"} <= {line["logger"] for line in lines}
    assert any("Uvicorn running on" in line["message"] for line in lines)
    assert not any("POST" in line["message"] for line in lines), "who was served is not told"


def test_the_text_of_the_process_is_as_it_always_was(database: str, tmp_path: Path) -> None:
    assert OWN not in os.environ
    log = tmp_path / "log"
    with api_process(database, log=log):
        pass
    form = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO uvicorn\.error \S.*"
    assert all(re.fullmatch(form, line) for line in log.read_text().splitlines())


@pytest.fixture
def broken_service() -> Iterator[Service]:
    """Whatever it is asked of sweeps, it fails and logs."""
    store: Any = BrokenStore()
    with serve(create_app(Settings(home=Path("unused")), store), store) as service:
        yield service


@pytest.fixture
def log() -> Iterator[list[dict[str, Any]]]:
    """Faults, as they are written."""
    lines: list[dict[str, Any]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(self.format(record)))

    handler, logger = Handler(), logging.getLogger("api.middleware")
    handler.setFormatter(JsonLines("api"))
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    ("path", "known"),
    [
        (f"/api/v1/sweeps/{SWEEP}", {"sweep_id": SWEEP}),
        (f"/api/v1/sweeps/{SWEEP}/events", {"sweep_id": SWEEP}),
        (f"/api/v1/trials/{TRIAL}/logs", {"trial_id": TRIAL}),
        ("/api/v1/sweeps", {}),
    ],
)
def test_a_line_tells_the_request_and_what_its_path_names(
    broken_service: Service, log: list[dict[str, Any]], path: str, known: dict[str, str]
) -> None:
    response = broken_service.http.get(path)
    assert response.status_code == 500
    (line,) = log
    assert line["request_id"] == response.headers["X-Request-ID"]
    assert {name: line.get(name) for name in ("sweep_id", "trial_id") if name in line} == known
    assert "ZeroDivisionError" in line["exception"]


def test_what_only_looks_like_an_id_is_not_told_as_one(broken_service: Service, log: list[dict[str, Any]]) -> None:
    for path in ("/api/v1/sweeps/swp_1", f"/api/v1/sweeps/{SWEEP}X", "/api/v1/sweeps/%0A"):
        broken_service.http.get(path)
    assert not any("sweep_id" in line for line in log)


def test_requests_have_ids_of_their_own_unless_a_proxy_has_given_them_one(own_service: Service) -> None:
    def id_of(given: str | None = None) -> str:
        headers = {} if given is None else {"X-Request-ID": given}
        return own_service.http.get("/healthz", headers=headers).headers["X-Request-ID"]

    assert id_of() != id_of()
    assert id_of("a-proxys_own.1") == "a-proxys_own.1"
    for odd in ("", "with space", "x" * 129, "<script>"):
        assert re.fullmatch(r"[0-9a-f]{32}", id_of(odd))
