"""What keys keep out, whatever is sent: bodies, guesses, foreign pages, changes of MLflow."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import BrokenStore, DownStore, Service, problem, serve
from key_house import UNKNOWN, Guarded, basic, bearer, guarding, key_of, memory_store

from api.app import create_app
from api.event_feed import MOST_STREAMS
from sweep_service.domain.keys import KeyRole
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.storage.sql import open_sql_store

STREAM = {"Accept": "text/event-stream"}


def test_the_host_is_judged_before_the_key(guarded: Guarded) -> None:
    assert problem(guarded.ask("GET", "/api/v1/sweeps", headers={"Host": "evil.example"}), 421)


def test_a_large_body_without_a_key_is_refused_and_its_sender_sees_the_answer(guarded: Guarded) -> None:
    answer = guarded.ask("POST", "/api/v1/sweeps", content=b"x" * 20_000_000, headers={"Content-Type": "text/plain"})
    assert problem(answer, 401)
    assert guarded.ask("GET", "/healthz").status_code == 200, "on the same connection"
    assert problem(guarded.ask("POST", "/api/v1/sweeps", guarded.viewer, content=b"x" * 20_000_000), 403)


def test_nobody_without_a_key_is_waited_for(guarded: Guarded) -> None:
    host, port = guarded.http.base_url.host, guarded.http.base_url.port
    assert port is not None
    with socket.create_connection((host, port), timeout=60) as connection:
        head = f"POST /api/v1/sweeps HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000\r\n\r\n{{"
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 401 ")


def test_a_body_that_does_not_come_is_not_waited_for_without_end() -> None:
    # Not less: the client of the last line sends the head of its request and the body in two goes.
    with guarding(memory_store(), body_timeout=timedelta(seconds=2)) as guarded:
        host, port = guarded.http.base_url.host, guarded.http.base_url.port
        assert port is not None
        head = (
            f"POST /api/v1/sweeps HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {guarded.submitter}\r\n"
            "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
        )
        with socket.create_connection((host, port), timeout=60) as connection:
            connection.sendall(head.encode())
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"body-too-slow" in answer
        assert guarded.submit(), "a body that comes is taken"


def test_a_store_that_is_away_lets_nobody_in_and_says_so() -> None:
    store: Any = DownStore()
    values: dict[str, Any] = {"home": Path("unused"), "require_keys": True}
    with serve(create_app(Settings(**values), store), store) as running:
        answer = running.http.get("/api/v1/sweeps", headers=bearer(UNKNOWN))
        away = problem(answer, 503)
        assert away["type"].endswith(":store-unavailable")
        assert answer.headers["retry-after"]
        assert "db.internal" not in answer.text
        assert running.http.get("/healthz").status_code == 200
        assert problem(running.http.get("/readyz"), 503)
        assert problem(running.http.get("/api/v1/sweeps"), 401), "nobody has to be asked"


def test_a_fault_of_the_store_lets_nobody_in() -> None:
    store: Any = BrokenStore()
    with serve(create_app(Settings(home=Path("unused"), require_keys=True), store), store) as running:
        assert problem(running.http.get("/api/v1/sweeps", headers=bearer(UNKNOWN)), 500)


def test_a_database_that_was_not_migrated_is_named(tmp_path: Path) -> None:
    store = open_sql_store(f"sqlite:///{tmp_path / 'empty.db'}")
    with serve(create_app(Settings(home=Path("unused"), require_keys=True), store), store) as running:
        away = problem(running.http.get("/api/v1/sweeps", headers=bearer(UNKNOWN)), 503)
        assert away["type"].endswith(":schema-outdated")
    store.close()


def test_no_foreign_page_is_let_in(guarded: Guarded, own_service: Service) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    headers |= {"Access-Control-Request-Headers": "authorization"}
    for http in (guarded.http, own_service.http):
        for path in ("/api/v1/sweeps", "/api/v1/keys", "/internal/authorize"):
            for method in ("OPTIONS", "GET"):
                answer = http.request(method, path, headers=headers)
                assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_key_in_the_wrong_place_is_repeated_nowhere(guarded: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    key = guarded.admin
    for method, path in (
        ("GET", f"/api/v1/sweeps?key={key}"),
        ("GET", f"/api/v1/sweeps?{key}=1"),
        ("GET", f"/api/v1/sweeps?page_token={key}"),
        ("GET", f"/api/v1/sweeps/{key}"),
        ("GET", f"/{key}"),
        ("POST", f"/api/v1/keys/{key}/revoke"),
    ):
        answer = guarded.ask(method, path, key)
        assert answer.status_code >= 400
        assert key[-43:] not in answer.text, path
    made = guarded.ask("POST", "/api/v1/keys", key, json={"name": key, "role": "viewer", key: 1})
    assert problem(made, 422)
    assert key[-43:] not in made.text
    assert key[-43:] not in caplog.text
    assert guarded.ask("GET", "/api/v1/sweeps", headers={"Host": key}).text.count(key[-43:]) == 0


# --- MLflow -----------------------------------------------------------------------------------------------------------

SEARCH = "/ajax-api/2.0/mlflow/runs/search"
DELETE = "/ajax-api/2.0/mlflow/runs/delete"


def gate(guarded: Guarded, key: str | None, method: str, uri: str, **headers: str) -> httpx.Response:
    given = {"X-Forwarded-Method": method, "X-Forwarded-Uri": uri} | {
        k.replace("_", "-"): v for k, v in headers.items()
    }
    return guarded.ask("GET", "/internal/authorize", key, headers=given)


def test_the_gateway_hears_who_it_is_and_that_they_may(guarded: Guarded) -> None:
    for role, key in guarded.keys.items():
        for method, uri in (("GET", "/"), ("HEAD", "/static-files/main.js"), ("POST", f"{SEARCH}?x=1")):
            answer = gate(guarded, key, method, uri)
            assert (answer.status_code, answer.headers["x-sweep-user"], answer.text) == (200, str(role), "")


def test_the_gateway_hears_that_only_admins_change_anything(guarded: Guarded) -> None:
    for method, uri in (("POST", DELETE), ("GET", "/ajax-api/2.0/mlflow/gateway-proxy"), ("GET", "/static-files/../x")):
        for key in (guarded.viewer, guarded.submitter):
            assert problem(gate(guarded, key, method, uri), 403)["needed"] == "admin"
        assert gate(guarded, guarded.admin, method, uri).status_code == 200


def test_the_gateway_hears_of_nobody_without_a_key(guarded: Guarded) -> None:
    answer = gate(guarded, None, "POST", SEARCH)
    assert problem(answer, 401)
    assert "Basic" in answer.headers["www-authenticate"]
    assert problem(gate(guarded, UNKNOWN, "GET", "/"), 401)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"])
def test_the_gateway_may_ask_with_a_password_and_by_any_method(guarded: Guarded, method: str) -> None:
    headers = {"X-Forwarded-Method": "POST", "X-Forwarded-Uri": SEARCH, **basic(guarded.viewer)}
    headers["Content-Type"] = "multipart/form-data"  # of the request that waits
    assert guarded.ask(method, "/internal/authorize", headers=headers).status_code == 200


def test_a_body_that_stays_with_the_gateway_is_not_waited_for_and_the_next_question_is_heard(guarded: Guarded) -> None:
    host, port = guarded.http.base_url.host, guarded.http.base_url.port
    assert port is not None
    head = f"GET /internal/authorize HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {guarded.viewer}\r\n"
    told = f"X-Forwarded-Method: POST\r\nX-Forwarded-Uri: {SEARCH}\r\nContent-Length: 99\r\n\r\n"
    with socket.create_connection((host, port), timeout=60) as connection:
        connection.sendall((head + told).encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()


def test_what_the_gateway_does_not_describe_or_describes_twice_is_refused(guarded: Guarded) -> None:
    described = [("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/")]
    for headers in ([], described[:1], described[1:], [*described, described[0]], [*described, described[1]]):
        auth = ("Authorization", f"Bearer {guarded.admin}")
        assert problem(guarded.http.get("/internal/authorize", headers=[auth, *headers]), 403)


def test_a_foreign_page_changes_nothing_in_mlflow_by_an_admins_password(guarded: Guarded) -> None:
    def status(method: str, uri: str, **headers: str) -> int:
        return gate(guarded, None, method, uri, **basic(guarded.admin), **headers).status_code

    own, foreign = {"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "cross-site"}
    assert status("POST", DELETE, **own) == 200
    assert status("POST", DELETE, **foreign) == 403
    assert status("POST", DELETE, Sec_Fetch_Site="same-site") == 403
    assert status("POST", DELETE) == 200, "no browser: it would tell"
    assert status("POST", DELETE, Origin="https://evil.example", X_Forwarded_Host="sweeps.example") == 403
    assert status("POST", DELETE, Origin="https://sweeps.example", X_Forwarded_Host="sweeps.example") == 200
    assert status("GET", "/", **foreign) == 200, "a link leads there"
    assert gate(guarded, guarded.admin, "POST", DELETE, **foreign).status_code == 200, "no browser adds a token"


def test_mlflow_may_have_a_prefix_at_the_gateway() -> None:
    with guarding(memory_store(), mlflow_prefix="/mlflow") as guarded:
        assert gate(guarded, guarded.viewer, "POST", f"/mlflow{SEARCH}").status_code == 200
        assert gate(guarded, guarded.viewer, "POST", SEARCH).status_code == 403


def test_the_gateways_question_is_not_described(guarded: Guarded) -> None:
    assert "/internal/authorize" not in guarded.ask("GET", "/api/v1/openapi.json", guarded.viewer).text


# --- how many ---------------------------------------------------------------------------------------------------------


def test_each_key_has_so_many_requests_a_second() -> None:
    with guarding(memory_store(), rate_limit=5.0) as guarded:
        answers = [guarded.ask("GET", "/api/v1/keys/me", guarded.viewer)]
        while len(answers) < 500 and answers[-1].status_code == 200:  # a slow machine gets more than ten through
            answers.append(guarded.ask("GET", "/api/v1/keys/me", guarded.viewer))
        assert {answer.status_code for answer in answers[:10]} == {200}, "those of two seconds come at once"
        refused = answers[-1]
        assert problem(refused, 429)["type"].endswith(":too-many-requests")
        assert int(refused.headers["retry-after"]) >= 1
        assert guarded.ask("GET", "/api/v1/keys/me", guarded.submitter).status_code == 200, "another key's is its own"
        assert guarded.ask("GET", "/healthz").status_code == 200
        assert gate(guarded, guarded.viewer, "GET", "/").status_code == 200, "MLflow's page is many files"


def test_each_key_has_more_requests_for_mlflow_of_their_own() -> None:
    with guarding(memory_store(), rate_limit=1.0) as guarded:
        answers = [gate(guarded, guarded.viewer, "GET", "/")]
        while len(answers) < 500 and answers[-1].status_code == 200:  # a slow machine gets more than eight through
            answers.append(gate(guarded, guarded.viewer, "GET", "/"))
        assert {answer.status_code for answer in answers[:8]} == {200}, "four times those of two seconds come at once"
        refused = answers[-1]
        assert problem(refused, 429)["type"].endswith(":too-many-requests")
        assert int(refused.headers["retry-after"]) >= 1
        assert gate(guarded, guarded.submitter, "GET", "/").status_code == 200, "another key's is its own"
        assert guarded.ask("GET", "/api/v1/keys/me", guarded.viewer).status_code == 200, "nor is it the API's"
        strangers = [gate(guarded, key, "GET", "/").status_code for key in (None, UNKNOWN) for _ in range(4)]
        assert strangers[:2] == [401, 401]
        assert 429 in strangers, "who shows no key that is known has no more than elsewhere"


@contextmanager
def opened(guarded: Guarded, path: str, key: str) -> Iterator[httpx.Response]:
    with guarded.http.stream("GET", path, headers=bearer(key) | STREAM) as response:
        yield response


@contextmanager
def opened_soon(guarded: Guarded, path: str, key: str) -> Iterator[httpx.Response]:
    """The server learns a moment later that a client is gone."""
    deadline = time.monotonic() + 60
    while True:
        with opened(guarded, path, key) as response:
            if response.status_code == 200 or time.monotonic() > deadline:
                assert response.status_code == 200
                yield response
                return
        time.sleep(0.01)


def test_a_key_has_so_many_streams_at_once_and_gets_back_those_that_end() -> None:
    soon = timedelta(milliseconds=20)
    with guarding(memory_store(), event_poll_interval=soon) as guarded, ExitStack() as stack:
        path = f"/api/v1/sweeps/{guarded.submit()}/events"

        def is_refused() -> bool:
            with opened(guarded, path, guarded.viewer) as refused:
                if refused.status_code == 200:  # it would be read for ever
                    return False
                refused.read()
                assert problem(refused, 429)["type"].endswith(":too-many-streams")
                return int(refused.headers["retry-after"]) >= 1

        streams = [stack.enter_context(opened(guarded, path, guarded.viewer)) for _ in range(MOST_STREAMS)]
        assert {stream.status_code for stream in streams} == {200}
        assert is_refused(), "one more"
        assert guarded.ask("GET", path, guarded.viewer).status_code == 200, "a page of them is no stream"
        assert stack.enter_context(opened(guarded, path, guarded.submitter)).status_code == 200, "another key's"

        streams[0].close()  # its client goes
        streams[0] = stack.enter_context(opened_soon(guarded, path, guarded.viewer))
        assert is_refused(), "that was the only one"

        guarded.ask("POST", path.replace("events", "cancel"), guarded.submitter)
        for stream in streams:
            assert stream.read().count(b"data: ") == 2, "the sweep has ended"
        other = f"/api/v1/sweeps/{guarded.submit()}/events"
        for _ in range(MOST_STREAMS):
            stack.enter_context(opened_soon(guarded, other, guarded.viewer))


def test_who_guesses_is_told_to_wait_and_others_at_the_address_are_not() -> None:
    asked: list[str] = []

    class Watched(MemorySweepStore):
        def find_key(self, key_id: str) -> Any:
            asked.append(key_id)
            return super().find_key(key_id)

    with guarding(Watched(), rate_limit=3.0) as guarded:
        assert guarded.ask("GET", "/api/v1/keys/me", guarded.viewer).status_code == 200
        statuses = [guarded.ask("GET", "/api/v1/keys/me", UNKNOWN).status_code for _ in range(30)]
        assert statuses[:6] == [401] * 6
        assert 429 in statuses
        assert len(asked) - 1 == statuses.count(401) < 30, "the store is spared"
        keyless = (guarded.ask("GET", "/api/v1/keys/me").status_code for _ in range(30))
        assert 429 in keyless, "at once, but for the turns that have come back meanwhile"
        assert guarded.ask("GET", "/api/v1/keys/me", guarded.viewer).status_code == 200
        time.sleep(0.6)
        for _ in range(3):
            guarded.ask("GET", "/api/v1/keys/me", UNKNOWN)
        assert guarded.ask("GET", "/api/v1/keys/me", guarded.viewer).status_code == 200, "looked up anew"


def test_guesses_that_come_all_at_once_spare_the_store_too() -> None:
    asked: list[str] = []

    class Slow(MemorySweepStore):
        def find_key(self, key_id: str) -> Any:
            asked.append(key_id)
            time.sleep(0.3)
            return super().find_key(key_id)

    with guarding(Slow(), rate_limit=0.5) as guarded:  # so that few turns come back until the last has guessed

        def guess(_: int) -> int:
            return guarded.ask("GET", "/docs", UNKNOWN).status_code

        with ThreadPoolExecutor(12) as threads:
            statuses = list(threads.map(guess, range(12)))
        assert set(statuses) == {401, 429}
        assert len(asked) == statuses.count(401) < 12


def test_many_keys_at_once_are_told_apart(guarded: Guarded) -> None:
    keys = {f"many-{index}": key_of(guarded.store, KeyRole.VIEWER, f"many-{index}") for index in range(8)}

    def names_told(key: str) -> set[str]:
        with httpx.Client(base_url=guarded.service.url, trust_env=False, timeout=60) as http:
            return {http.get("/api/v1/keys/me", headers=bearer(key)).json()["name"] for _ in range(10)}

    with ThreadPoolExecutor(len(keys)) as threads:
        assert list(threads.map(names_told, keys.values())) == [{name} for name in keys]
