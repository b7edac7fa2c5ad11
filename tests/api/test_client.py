"""The Python client against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    for call in (client.get, client.trials, client.best, client.events, client.stop, client.cancel):
        with pytest.raises(MissingError, match=NO_SWEEP):
            call(NO_SWEEP)


@pytest.mark.parametrize("sweep_id", ["../trainables", "a/b", "a?b=c", "%2e%2e", " ", "#"])
def test_an_id_is_never_taken_for_a_path(client: SweepClient, sweep_id: str) -> None:
    with pytest.raises(MissingError):
        client.get(sweep_id)


def test_stop_and_cancel_are_asked_and_refused(client: SweepClient, service: Service) -> None:
    assert client.stop(client.submit(SPEC)["id"])["state"] == "stopped"
    assert client.cancel(client.submit(SPEC)["id"])["state"] == "cancelled"
    done = client.submit(SPEC)["id"]
    finish_sweep(service.store, done)
    with pytest.raises(ConflictError) as caught:
        client.stop(done)
    assert caught.value.allowed == []


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
