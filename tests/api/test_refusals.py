"""What the API says when it says no: a problem document, whoever refuses."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from harness import SPEC, TOY, BrokenStore, DownStore, Service, problem, serve

from api.app import create_app
from sweep_service.domain.keys import ANONYMOUS, Actor
from sweep_service.domain.trial import Sweep
from sweep_service.ports import SubmissionKey, SweepStore
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.storage.sql import open_sql_store

THREADS = 40  # that the framework has for routes that may block
GETS = ["/api/v1/sweeps", "/api/v1/sweeps/swp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "/api/v1/trainables", "/readyz"]


@contextmanager
def served(store: object, **settings: Any) -> Iterator[Service]:
    fake = cast("SweepStore", store)
    with serve(create_app(Settings(home=Path("unused"), **settings), fake), fake) as service:
        yield service


@pytest.mark.parametrize("path", ["/", "/nowhere", "/api", "/api/v1", "/api/v1/", "/api/v1/sweeps/", "/api/v2/sweeps"])
def test_an_unknown_path_is_a_problem(service: Service, path: str) -> None:
    assert problem(service.http.get(path), 404)["type"].endswith(":not-found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/sweeps", "GET, HEAD, POST"),
        ("DELETE", "/api/v1/sweeps", "GET, HEAD, POST"),
        ("OPTIONS", "/api/v1/sweeps", "GET, HEAD, POST"),
        ("PUT", "/api/v1/sweeps/x", "GET, HEAD, PATCH, DELETE"),
        ("GET", "/api/v1/sweeps/x/stop", "POST"),
        ("POST", "/healthz", "GET, HEAD"),
        ("POST", "/api/v1/openapi.json", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_lacks_is_a_problem_that_names_those_it_has(
    service: Service, method: str, path: str, allowed: str
) -> None:
    response = service.http.request(method, path)
    problem(response, 405)
    assert response.headers["allow"] == allowed


def test_head_answers_like_get_without_a_body(service: Service) -> None:
    response = service.http.head("/healthz")
    assert (response.status_code, response.content) == (200, b"")
    assert service.http.head("/nowhere").status_code == 404


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]", "127.0.0.2"],
)
def test_a_foreign_host_is_refused_even_on_loopback(service: Service, host: str) -> None:
    for path in ("/healthz", "/api/v1/sweeps", "/nowhere"):
        refused = problem(service.http.get(path, headers={"Host": host}), 421)
        assert refused["type"].endswith(":unknown-host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1:99", "[::1]", "[::1]:8000", "localhost."])
def test_an_allowed_host_is_answered_whatever_its_port(service: Service, host: str) -> None:
    assert service.http.get("/healthz", headers={"Host": host}).status_code == 200


def test_further_hosts_can_be_allowed(service: Service) -> None:
    with served(MemorySweepStore(), allowed_hosts=("sweeps.internal",)) as other:
        assert other.http.get("/healthz", headers={"Host": "sweeps.internal:80"}).status_code == 200
        problem(other.http.get("/healthz", headers={"Host": "localhost"}), 421)


def test_a_request_without_a_host_is_refused(service: Service) -> None:
    address = httpx.URL(service.url)
    with socket.create_connection((address.host, address.port or 80), timeout=60) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("path", GETS)
def test_a_database_that_does_not_answer_is_said_to_be_so_without_its_secrets(path: str) -> None:
    with served(DownStore()) as service:
        response = service.http.get(path)
        problem(response, 503)
        assert int(response.headers["retry-after"]) >= 1
        assert "db.internal" not in response.text


class HangingStore(MemorySweepStore):
    """A store whose database takes every question and answers none, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)
        self.let_go = threading.Event()

    def check_ready(self) -> None:
        self._hang()

    def list_sweeps(self, **wish: Any) -> Sequence[Sweep]:
        self._hang()
        return super().list_sweeps(**wish)

    def _hang(self) -> None:
        self.asked.release()
        self.let_go.wait(240)


@contextmanager
def waiting(service: Service, path: str, number: int) -> Iterator[list[Future[httpx.Response]]]:
    """So many callers of that path at once."""
    with ThreadPoolExecutor(number) as pool:
        yield [pool.submit(httpx.get, service.url + path, timeout=240, trust_env=False) for _ in range(number)]


def test_the_process_says_that_it_lives_while_every_thread_waits_for_the_database() -> None:
    store = HangingStore()
    with served(store) as service, waiting(service, "/api/v1/sweeps", THREADS + 5) as callers:
        for _ in range(THREADS):
            assert store.asked.acquire(timeout=60)
        assert not store.asked.acquire(blocking=False), "there are more threads than THREADS: none would be missing"
        try:
            assert service.http.get("/healthz", timeout=60).status_code == 200
        finally:
            store.let_go.set()
        assert {answer.result(timeout=240).status_code for answer in callers} == {200}


def test_however_many_ask_whether_it_is_ready_one_thread_waits_for_the_database() -> None:
    store = HangingStore()
    with served(store) as service, waiting(service, "/readyz", THREADS + 5) as callers:
        try:
            assert store.asked.acquire(timeout=60)
            assert not store.asked.acquire(timeout=1), "they share the question"
        finally:
            store.let_go.set()
        assert {answer.result(timeout=240).status_code for answer in callers} == {200}


def test_submitting_to_a_database_that_does_not_answer_is_refused_as_unavailable() -> None:
    with served(DownStore()) as service:
        problem(service.http.post("/api/v1/sweeps", json=dict(SPEC)), 503)
        assert service.http.get("/healthz").status_code == 200, "the process itself is well"


def test_a_database_that_does_not_answer_promises_nothing_of_what_it_was_to_write() -> None:
    sweep = "/api/v1/sweeps/swp_01ARZ3NDEKTSV4RRFFQ69G5FAV"
    with served(DownStore()) as service:
        for path in ("/api/v1/sweeps", f"{sweep}/stop", f"{sweep}/cancel"):
            detail = problem(service.http.post(path, json=dict(SPEC) if path.endswith("sweeps") else None), 503)[
                "detail"
            ]
            assert "may or may not have happened; look before you send it again" in detail
        assert problem(service.http.get(sweep), 503)["detail"] == "The database does not answer. Try again soon."


class ForgetfulStore(MemorySweepStore):
    """A store that takes sweeps, and answers nothing any more once it has one."""

    def add_sweep(
        self, sweep: Sweep, *, key: SubmissionKey | None = None, notice: str = "", by: Actor = ANONYMOUS
    ) -> Sweep:
        stored = super().add_sweep(sweep, key=key, notice=notice, by=by)
        self.get_sweep = self.count_trials = self.find_leader = DownStore().anything
        return stored


def test_a_sweep_that_was_queued_is_never_said_to_have_failed() -> None:
    store = ForgetfulStore()
    store.publish_catalog([TOY])
    with served(store) as service:
        sweep = service.submit()
        problem(service.http.get(sweep["links"]["self"]), 503)
    assert [row.id for row in store.list_sweeps()] == [sweep["id"]]
    assert sweep["state"] == "queued"
    assert sweep["progress"] == {
        "budget_trials": 4,
        "used_trials": 0,
        "used_gpu_hours": None,
        "trials": {"search": {}, "baseline": {}, "confirm": {}},
    }
    assert sweep["leaders"] == []


def test_before_anybody_has_published_the_catalogue_nothing_can_be_submitted() -> None:
    store = MemorySweepStore()
    with served(store) as service:
        for response in (service.http.post("/api/v1/sweeps", json=dict(SPEC)), service.http.get("/api/v1/trainables")):
            assert problem(response, 503)["type"].endswith(":catalog-missing")
            assert int(response.headers["retry-after"]) >= 1
        assert not store.list_sweeps()
        assert service.http.get("/readyz").status_code == 200


def test_a_database_that_was_never_migrated_is_not_ready(tmp_path: Path) -> None:
    store = open_sql_store(f"sqlite:///{tmp_path / 'empty.db'}")
    with served(store) as service:
        answer = problem(service.http.get("/readyz"), 503)
        assert answer["type"].endswith(":schema-outdated")
        problem(service.http.get("/api/v1/sweeps"), 503)


def test_an_unforeseen_error_tells_the_caller_nothing_and_the_log_everything(caplog: pytest.LogCaptureFixture) -> None:
    with served(BrokenStore()) as service, caplog.at_level(logging.ERROR):
        response = service.http.get("/api/v1/sweeps")
        answer = problem(response, 500)
        assert "secret" not in response.text
        assert "ZeroDivisionError" not in response.text
        again = service.http.get("/healthz")
    assert again.status_code == 200
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.name == "api.middleware"
    number = record.getMessage().rpartition(" ")[2]
    assert number in answer["detail"]
    assert "ZeroDivisionError: secret of the inside" in caplog.text


def test_a_smaller_limit_of_bodies_is_kept() -> None:
    with served(MemorySweepStore(), max_body_bytes=100) as service:
        assert "100 bytes" in problem(service.http.post("/api/v1/sweeps", json=dict(SPEC)), 413)["detail"]


def test_a_body_where_none_belongs_is_held_to_the_same_rules(service: Service) -> None:
    for size, status, kind in ((2_000_000, 413, "body-too-large"), (1, 415, "unsupported-media-type")):
        refused = problem(service.http.request("GET", "/healthz", content=b"x" * size), status)
        assert refused["type"].endswith(f":{kind}")


def test_no_route_ever_answers_in_the_form_of_the_framework(service: Service) -> None:
    """Each path of the description with each method, a wrong query and a wrong body."""
    document = service.http.get("/api/v1/openapi.json").json()
    for path in document["paths"]:
        filled = path.replace("{sweep_id}", "swp_01ARZ3NDEKTSV4RRFFQ69G5FAV")
        filled = filled.replace("{trial_id}", "trl_01ARZ3NDEKTSV4RRFFQ69G5FAV")
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            for query in ("", "?page_size=x&after=x&page_token=x&other=1"):
                response = service.http.request(
                    method, filled + query, content=b"{", headers={"Content-Type": "application/json"}
                )
                if not response.is_success:
                    assert response.headers["content-type"] == "application/problem+json", (method, filled, query)
                    assert "title" in response.json()
