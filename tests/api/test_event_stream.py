"""GET /api/v1/sweeps/{id}/events as server-sent events, from a real server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest
from harness import TOY, Conductor, Service, finish_sweep, problem, serve

from api.app import create_app
from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.events import Event
from sweep_service.domain.states import SweepReason, SweepState
from sweep_service.ports import SweepStore
from sweep_service.settings import Settings
from sweep_service.storage.database import open_engine
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import SqlSweepStore

STREAM = "text/event-stream"
SOON = timedelta(milliseconds=5)
LATE = timedelta(minutes=5)
THREADS = 40  # that the framework has for what may block


@contextmanager
def served(store: SweepStore, *, poll: timedelta = SOON, heartbeat: timedelta = LATE) -> Iterator[Service]:
    store.publish_catalog([TOY])
    settings = Settings(home=Path("unused"), event_poll_interval=poll, event_heartbeat=heartbeat)
    with serve(create_app(settings, store), store) as service:
        yield service


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SweepStore]:
    if request.param == "memory":
        yield MemorySweepStore()
        return
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    migrate(url)
    engine = open_engine(url)
    yield SqlSweepStore(engine)
    engine.dispose()


@pytest.fixture
def quick(store: SweepStore) -> Iterator[Service]:
    """A server that looks for events all the time."""
    with served(store) as service:
        yield service


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One event of a stream."""

    id: str
    data: Any


@contextmanager
def streaming(service: Service, path: str, **headers: str) -> Iterator[httpx.Response]:
    with service.http.stream("GET", path, headers={"Accept": STREAM, **headers}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].partition(";")[0] == STREAM
        yield response


def frames(response: httpx.Response) -> Iterator[Frame]:
    """The events as they come, by the rules of the standard."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if line == "":
            if fields:
                yield Frame(id=fields["id"], data=json.loads(fields["data"]))
            fields = {}
        elif name:  # a line that begins with a colon is a comment
            fields[name] = value


def all_events(service: Service, path: str) -> list[dict[str, Any]]:
    return service.http.get(path, params={"page_size": 500}).json()["events"]


def test_the_stream_of_an_ended_sweep_is_all_of_its_events_and_ends(quick: Service) -> None:
    sweep = quick.submit()
    finish_sweep(quick.store, sweep["id"])
    path = sweep["links"]["events"]
    with streaming(quick, path) as response:
        got = list(frames(response))
        assert response.headers["cache-control"] == "no-store"
    assert [frame.data for frame in got] == all_events(quick, path)
    assert [frame.id for frame in got] == [str(seq) for seq in range(1, len(got) + 1)]
    assert (got[-1].data["kind"], got[-1].data["data"]["to"]) == ("sweep.moved", "completed")


def test_no_event_is_missed_nor_comes_twice_while_they_are_written_and_the_connection_breaks(quick: Service) -> None:
    sweep = quick.submit()
    conductor = Conductor(quick.store, sweep["id"])
    conductor.move(SweepState.RUNNING)

    def conduct() -> None:
        for number in range(300):
            conductor.notice(f"notice {number}")
        conductor.move(SweepState.COMPLETED, reason=SweepReason.BUDGET_TRIALS)

    writer = threading.Thread(target=conduct)
    writer.start()
    got: list[Frame] = []
    path = sweep["links"]["events"]
    for size in (1, 7, 60, None):
        headers = {"Last-Event-ID": got[-1].id} if got else {}
        with streaming(quick, path, **headers) as response:
            got += islice(frames(response), size)
    writer.join()
    assert [frame.data["seq"] for frame in got] == list(range(1, 306))
    assert [frame.data["message"] for frame in got[4:-1]] == [f"notice {number}" for number in range(300)]
    assert got[-1].data["data"]["to"] == "completed"


def test_a_stream_may_begin_after_an_event(quick: Service) -> None:
    sweep = quick.submit()
    finish_sweep(quick.store, sweep["id"])
    path = sweep["links"]["events"]
    with streaming(quick, f"{path}?after=5") as response:
        assert next(frames(response)).id == "6"
    with streaming(quick, f"{path}?after=5", **{"Last-Event-ID": "7"}) as response:
        assert next(frames(response)).id == "8", "a browser keeps the address when it comes back"


def test_who_has_all_events_of_an_ended_sweep_is_told_not_to_come_back(quick: Service) -> None:
    sweep = quick.submit()
    finish_sweep(quick.store, sweep["id"])
    path = sweep["links"]["events"]
    last = all_events(quick, path)[-1]["seq"]
    response = quick.http.get(path, headers={"Accept": STREAM, "Last-Event-ID": str(last)})
    assert (response.status_code, response.content) == (204, b"")


def test_a_stream_goes_on_when_an_ended_sweep_was_opened_again(quick: Service) -> None:
    sweep = quick.submit()
    conductor = Conductor(quick.store, sweep["id"])
    conductor.move(SweepState.FAILED, SweepState.QUEUED)
    with streaming(quick, sweep["links"]["events"]) as response:
        stream = frames(response)
        assert [frame.data["data"].get("to") for frame in islice(stream, 5)][-2:] == ["failed", "queued"]
        quick.http.post(sweep["links"]["cancel"])
        conductor.move(SweepState.CANCELLED)
        assert [frame.data["data"]["to"] for frame in stream] == ["cancelling", "cancelled"]


def test_a_stream_with_nothing_to_say_says_so_now_and_then(store: SweepStore) -> None:
    with served(store, heartbeat=timedelta(milliseconds=20)) as service:
        sweep = service.submit()
        with streaming(service, sweep["links"]["events"]) as response:
            comments = (line for line in response.iter_lines() if line.startswith(":"))
            assert len(list(islice(comments, 3))) == 3


def test_clients_that_wait_hold_neither_a_thread_nor_a_connection(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'sweeps.db'}"
    migrate(url)
    engine: Any = open_engine(url)
    with served(SqlSweepStore(engine), poll=timedelta(seconds=60)) as service, ExitStack() as stack:
        path = service.submit()["links"]["events"]
        limits = httpx.Limits(max_connections=None)
        http = stack.enter_context(httpx.Client(base_url=service.url, limits=limits, trust_env=False, timeout=60))
        for _ in range(THREADS + 10):
            response = stack.enter_context(http.stream("GET", path, headers={"Accept": STREAM}))
            assert next(frames(response)).id == "1"
        assert engine.pool.checkedout() == 0
        assert service.http.get("/readyz", timeout=60).status_code == 200
    engine.dispose()


def test_a_server_that_shuts_down_ends_its_streams(store: SweepStore) -> None:
    with served(store, poll=timedelta(minutes=5)) as service:
        path = service.submit()["links"]["events"]
        seen: list[str] = []
        begun = threading.Event()

        def follow() -> None:
            own = {"headers": {"Accept": STREAM}, "trust_env": False, "timeout": 60}
            with httpx.stream("GET", service.url + path, **own) as response:
                for frame in frames(response):
                    seen.append(frame.id)
                    begun.set()

        client = threading.Thread(target=follow)
        client.start()
        assert begun.wait(60)
    client.join(timeout=60)
    assert not client.is_alive()
    assert seen == ["1"]


def test_the_stream_of_a_deleted_sweep_ends(quick: Service) -> None:
    sweep = quick.submit()
    conductor = Conductor(quick.store, sweep["id"])
    with streaming(quick, sweep["links"]["events"]) as response:
        stream = frames(response)
        assert len(list(islice(stream, 3))) == 3
        conductor.move(SweepState.FAILED)
        quick.store.delete_sweep(sweep["id"])
        assert len(list(stream)) <= 1, "whether its last event was seen before is a matter of luck"
        problem(quick.http.get(sweep["links"]["events"], headers={"Accept": STREAM}), 404)


class MoodyStore(MemorySweepStore):
    """A store whose database fails for a few questions when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.recovered = threading.Event()

    def list_events(self, sweep_id: str, *, after: int = 0, limit: int = 50) -> Sequence[Event]:
        if self.failures > 0:
            self.failures -= 1
            if self.failures == 0:
                self.recovered.set()
            raise StoreUnavailableError("gone for a moment")
        return super().list_events(sweep_id, after=after, limit=limit)


def test_a_stream_waits_for_a_store_that_does_not_answer() -> None:
    store = MoodyStore()
    with served(store) as service:
        sweep = service.submit()
        with streaming(service, sweep["links"]["events"]) as response:
            stream = frames(response)
            assert next(stream).id == "1"
            store.failures = 3
            assert store.recovered.wait(60)
            service.http.post(sweep["links"]["cancel"])
            assert [frame.data["data"]["to"] for frame in stream] == ["cancelled"]


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", "application/json, text/event-stream", "text/event-stream;q=0", "x", ""]
)
def test_who_does_not_ask_for_a_stream_gets_a_page(quick: Service, accept: str) -> None:
    path = quick.submit()["links"]["events"]
    response = quick.http.get(path, headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"
    assert len(response.json()["events"]) == 1


@pytest.mark.parametrize(
    "accept", ["Text/Event-Stream", "text/event-stream, */*", "application/json;q=0.5, text/event-stream;q=0.9"]
)
def test_who_would_rather_have_a_stream_gets_one(quick: Service, accept: str) -> None:
    sweep = quick.submit()
    quick.http.post(sweep["links"]["cancel"])
    response = quick.http.get(sweep["links"]["events"], headers={"Accept": accept})
    assert response.headers["content-type"].startswith(STREAM)
    assert len(list(frames(response))) == 2


def test_the_head_of_a_stream_is_answered_without_its_endless_body(quick: Service) -> None:
    response = quick.http.head(quick.submit()["links"]["events"], headers={"Accept": STREAM}, timeout=60)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "99999999999999999999", "2", "7"])
def test_an_event_that_the_sweep_never_had_is_refused_as_a_place_to_begin(quick: Service, last: str) -> None:
    path = quick.submit()["links"]["events"]
    answer = problem(quick.http.get(path, headers={"Accept": STREAM, "Last-Event-ID": last}), 422)
    assert [item["parameter"] for item in answer["errors"]] == ["Last-Event-ID"]
    answer = problem(quick.http.get(path, headers={"Accept": STREAM}, params={"after": last}), 422)
    assert [item["parameter"] for item in answer["errors"]] == ["after"]


def test_the_stream_of_no_sweep_is_a_problem(quick: Service) -> None:
    for sweep_id in ("swp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "1"):
        answer = problem(quick.http.get(f"/api/v1/sweeps/{sweep_id}/events", headers={"Accept": STREAM}), 404)
        assert sweep_id in answer["detail"]
