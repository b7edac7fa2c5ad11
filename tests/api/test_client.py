"""The Python client against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from harness import SPEC, Conductor, DownStore, Service, finish_sweep, serve

from api.app import create_app
from sweep_service.client import (
    ConflictError,
    InvalidRequestError,
    MissingError,
    SweepClient,
    UnavailableError,
    UnreachableError,
    WaitTimeoutError,
)
from sweep_service.domain.states import SweepState
from sweep_service.settings import Settings

NO_SWEEP = "swp_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture
def client(service: Service) -> Iterator[SweepClient]:
    with SweepClient(service.url, sleep=lambda _: None) as client:
        yield client


def test_a_sweep_is_submitted_and_read_back(client: SweepClient) -> None:
    sweep = client.submit(SPEC)
    assert client.get(sweep["id"]) == sweep
    assert client.trials(sweep["id"]) == []
    assert client.best(sweep["id"])["best"] is None
    assert [event["kind"] for event in client.events(sweep["id"])] == ["sweep.submitted"]
    assert [trainable["name"] for trainable in client.trainables()] == ["toy"]


def test_an_invalid_spec_raises_an_error_that_tells_every_pointer(client: SweepClient) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        client.submit({**SPEC, "budget": {}, "naem": 1})
    assert caught.value.status == 422
    assert {item["pointer"] for item in caught.value.errors} == {"/budget/trials", "/naem"}
    assert "/budget/trials: This field is required." in str(caught.value)
    assert "/naem: Unknown key" in str(caught.value)


def test_a_missing_sweep_raises(client: SweepClient) -> None:
    for call in (
        client.get,
        client.trials,
        client.best,
        client.events,
        client.pause,
        client.resume,
        client.stop,
        client.cancel,
    ):
        with pytest.raises(MissingError, match=NO_SWEEP):
            call(NO_SWEEP)


@pytest.mark.parametrize("sweep_id", ["../trainables", "a/b", "a?b=c", "%2e%2e", " ", "#"])
def test_an_id_is_never_taken_for_a_path(client: SweepClient, sweep_id: str) -> None:
    with pytest.raises(MissingError):
        client.get(sweep_id)


def test_pause_and_resume_are_asked(client: SweepClient) -> None:
    sweep_id = client.submit(SPEC)["id"]
    assert client.pause(sweep_id)["state"] == "paused"
    assert client.resume(sweep_id)["state"] == "queued"


def test_stop_and_cancel_are_asked_and_refused(client: SweepClient, service: Service) -> None:
    assert client.stop(client.submit(SPEC)["id"])["state"] == "stopped"
    assert client.cancel(client.submit(SPEC)["id"])["state"] == "cancelled"
    done = client.submit(SPEC)["id"]
    finish_sweep(service.store, done)
    with pytest.raises(ConflictError) as caught:
        client.stop(done)
    assert caught.value.allowed == ["retry"]


def test_lists_are_walked_through_all_their_pages(client: SweepClient, service: Service) -> None:
    sweep_id = client.submit(SPEC)["id"]
    conductor = Conductor(service.store, sweep_id)
    trials = conductor.add_trials(503)
    assert [trial["id"] for trial in client.trials(sweep_id)] == [trial.id for trial in trials]
    assert len(client.trials(sweep_id, limit=502)) == 502
    assert [event["seq"] for event in client.events(sweep_id)] == list(range(1, len(client.events(sweep_id)) + 1))
    assert len(client.events(sweep_id)) > 503
    assert client.list(limit=1)[0]["id"] == max(sweep["id"] for sweep in client.list())


def test_waiting_shows_every_look_and_ends_with_the_sweep(service: Service) -> None:
    sweep_id = service.submit()["id"]
    steps = [SweepState.RUNNING, SweepState.STOPPING, SweepState.STOPPED]
    conductor = Conductor(service.store, sweep_id)
    seen: list[str] = []
    with SweepClient(service.url, sleep=lambda _: conductor.move(steps.pop(0))) as client:
        ended = client.wait(sweep_id, on_update=lambda sweep: seen.append(sweep["state"]))
    assert seen == ["starting", "running", "stopping", "stopped"]
    assert ended["state"] == "stopped"


def test_waiting_has_an_end_of_its_own(client: SweepClient) -> None:
    sweep_id = client.submit(SPEC)["id"]
    with pytest.raises(WaitTimeoutError) as caught:
        client.wait(sweep_id, timeout=0.05, poll=0.01)
    assert caught.value.sweep is not None
    assert caught.value.sweep["state"] == "queued"


def test_nobody_at_the_address_is_an_error_of_its_own() -> None:
    pauses: list[float] = []
    with (
        SweepClient("http://127.0.0.1:9", sleep=pauses.append) as client,
        pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:9.*sweep up"),
    ):
        client.list()
    assert len(pauses) == 2, "a GET is tried three times"


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with SweepClient(service.url) as client:
        assert client.trainables()


@pytest.mark.parametrize("address", ["", "nowhere", "ftp://host", "http://", "127.0.0.1:8000", "http://[::1"])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="no address of a service"):
        SweepClient(address)


def test_an_address_may_end_in_a_slash(service: Service) -> None:
    with SweepClient(service.url + "/") as client:
        assert client.trainables()


def test_an_unavailable_store_is_an_error_of_its_own() -> None:
    down: Any = DownStore()
    with (
        serve(create_app(Settings(), down), down) as service,
        SweepClient(service.url) as client,
        pytest.raises(UnavailableError, match="database does not answer"),
    ):
        client.list()


def test_a_spec_is_checked_without_being_queued(client: SweepClient, service: Service) -> None:
    before = service.num_sweeps()
    assert len(client.preview(SPEC)["samples"]) == 5
    with pytest.raises(InvalidRequestError):
        client.preview({})
    assert service.num_sweeps() == before


def test_a_trial_is_read_with_its_attempts_and_all_of_its_curves(client: SweepClient, service: Service) -> None:
    conductor = Conductor(service.store, client.submit(SPEC)["id"])
    attempt = conductor.start(conductor.add_trial(alpha=1.0))
    for step in range(1, 504):
        conductor.report(attempt, step, loss=float(step), other=0.0)
    trial_id = attempt.trial_id
    assert [shown["id"] for shown in client.trial(trial_id)["attempts"]] == [attempt.id]
    points = client.metrics(trial_id, keys=(key for key in ["loss"]))
    assert [point["metrics"] for point in points] == [{"loss": float(step)} for step in range(1, 504)]
    assert client.metrics(trial_id, after=points[-1]["seq"]) == []
    for call in (client.trial, client.metrics):
        with pytest.raises(MissingError):
            call("trl_01ARZ3NDEKTSV4RRFFQ69G5FAV")


def test_a_sweep_is_followed_to_its_end_whenever_its_streams_end(own_service: Service) -> None:
    sweep_id = own_service.submit()["id"]
    conductor = Conductor(own_service.store, sweep_id)
    with SweepClient(own_service.url, sleep=lambda _: None) as client:
        seen = []
        for event in client.follow(sweep_id):
            seen.append(event["seq"])
            if len(seen) == 3:
                conductor.move(SweepState.FAILED)
        assert seen == [event["seq"] for event in client.events(sweep_id)]
        assert list(client.follow(sweep_id, after=seen[-1])) == []
        assert [event["seq"] for event in client.follow(sweep_id, after=2)] == seen[2:]
        with pytest.raises(MissingError):
            next(client.follow(NO_SWEEP))


def test_a_stream_that_breaks_is_taken_up_where_it_broke() -> None:
    parts = [b'data: {"seq": 1}\nid: 1\n\ndata: {"seq": 2', b'data: {"seq": 2}\nid: 2\n\n', None]
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers["last-event-id"])
        part = parts.pop(0)
        return httpx.Response(204) if part is None else httpx.Response(200, content=part)

    with SweepClient("http://127.0.0.1:9", sleep=lambda _: None, transport=httpx.MockTransport(answer)) as client:
        assert [event["seq"] for event in client.follow("swp_1")] == [1, 2]
    assert asked == ["0", "1", "2"]


def test_a_stream_that_cannot_be_had_is_given_up() -> None:
    pauses: list[float] = []
    with SweepClient("http://127.0.0.1:9", sleep=pauses.append) as client, pytest.raises(UnreachableError):
        next(client.follow("swp_1"))
    assert len(pauses) == 2
