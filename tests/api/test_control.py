"""Pause, resume, stop and cancel."""

from __future__ import annotations

import pytest
from harness import Conductor, Service, finish_sweep, pointers, problem

from sweep_service.domain.states import SweepState

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(("verb", "state"), [("pause", "paused"), ("stop", "stopped"), ("cancel", "cancelled")])
def test_a_queued_sweep_is_there_at_once_and_asking_again_changes_nothing(
    service: Service, verb: str, state: str
) -> None:
    links = service.submit()["links"]
    first = service.http.post(links[verb])
    again = service.http.post(links[verb])
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.json()["state"] == state
    assert first.json()["reason"] == "user"
    assert again.json() == first.json()
    moves = [event for event in service.http.get(links["events"]).json()["events"] if event["kind"] == "sweep.moved"]
    assert len(moves) == 1


@pytest.mark.parametrize(("verb", "state"), [("pause", "pausing"), ("stop", "stopping"), ("cancel", "cancelling")])
def test_a_running_sweep_is_on_its_way_there(service: Service, verb: str, state: str) -> None:
    sweep = service.submit()
    Conductor(service.store, sweep["id"]).move(SweepState.RUNNING)
    assert service.http.post(sweep["links"][verb]).json()["state"] == state
    assert service.http.post(sweep["links"][verb]).json()["state"] == state


def test_a_paused_sweep_is_queued_by_its_resumption_and_asking_again_changes_nothing(service: Service) -> None:
    links = service.submit()["links"]
    service.http.post(links["pause"])
    resumed = service.http.post(links["resume"])
    assert (resumed.json()["state"], resumed.json()["reason"]) == ("queued", "user")
    assert service.http.post(links["resume"]).json() == resumed.json()


def test_a_sweep_cannot_be_resumed_while_its_trials_come_to_rest(service: Service) -> None:
    sweep = service.submit()
    Conductor(service.store, sweep["id"]).move(SweepState.RUNNING)
    service.http.post(sweep["links"]["pause"])
    answer = problem(service.http.post(sweep["links"]["resume"]), 409)
    assert (answer["state"], answer["allowed"]) == ("pausing", ["cancel", "pause", "retry", "stop"])


@pytest.mark.parametrize(("verb", "state"), [("stop", "stopping"), ("cancel", "cancelling")])
def test_a_paused_sweep_that_has_run_is_on_its_way_to_the_end(service: Service, verb: str, state: str) -> None:
    sweep = service.submit()
    Conductor(service.store, sweep["id"]).move(SweepState.RUNNING, SweepState.PAUSING, SweepState.PAUSED)
    assert service.http.post(sweep["links"][verb]).json()["state"] == state


def test_a_stopping_sweep_can_still_be_cancelled(service: Service) -> None:
    sweep = service.submit()
    Conductor(service.store, sweep["id"]).move(SweepState.RUNNING)
    service.http.post(sweep["links"]["stop"])
    assert service.http.post(sweep["links"]["cancel"]).json()["state"] == "cancelling"


def test_a_cancelling_sweep_cannot_be_stopped_and_says_what_is_possible(service: Service) -> None:
    sweep = service.submit()
    Conductor(service.store, sweep["id"]).move(SweepState.RUNNING)
    service.http.post(sweep["links"]["cancel"])
    answer = problem(service.http.post(sweep["links"]["stop"]), 409)
    assert (answer["state"], answer["allowed"]) == ("cancelling", ["cancel"])
    assert [item["code"] for item in answer["errors"]] == ["illegal_move"]


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "cancel"])
def test_a_completed_sweep_allows_a_retry_alone(service: Service, verb: str) -> None:
    sweep = service.submit()
    finish_sweep(service.store, sweep["id"])
    answer = problem(service.http.post(sweep["links"][verb]), 409)
    assert (answer["state"], answer["allowed"]) == ("completed", ["retry"])
    assert service.http.get(sweep["links"]["self"]).json()["state"] == "completed"


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "cancel"])
def test_a_sweep_that_does_not_exist_cannot_be_controlled(service: Service, verb: str) -> None:
    for sweep_id in ("swp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "nonsense"):
        answer = problem(service.http.post(f"/api/v1/sweeps/{sweep_id}/{verb}"), 404)
        assert sweep_id in answer["detail"]


@pytest.mark.parametrize("verb", ["pause", "resume", "stop", "cancel"])
@pytest.mark.parametrize("body", ['{"confirm": true, "a/b": 1}', "[]", "3", "null", '"now"'])
def test_a_verb_takes_no_body_and_says_so_rather_than_ignore_it(service: Service, verb: str, body: str) -> None:
    links = service.submit()["links"]
    answer = problem(service.http.post(links[verb], content=body, headers=JSON), 422)
    assert answer["type"].endswith(":unexpected-body")
    assert "takes no body" in answer["detail"]
    assert pointers(answer) == ({"/confirm", "/a~1b"} if body.startswith("{") else set())
    assert service.http.get(links["self"]).json()["state"] == "queued"


def test_a_verb_with_a_broken_body_is_refused(service: Service) -> None:
    links = service.submit()["links"]
    problem(service.http.post(links["stop"], content='{"a": 1, "a": 2}', headers=JSON), 400)
    assert service.http.get(links["self"]).json()["state"] == "queued"


@pytest.mark.parametrize("body", ["", " \n", "{}", " { } "])
def test_a_verb_bears_with_a_body_that_says_nothing(service: Service, body: str) -> None:
    response = service.http.post(service.submit()["links"]["stop"], content=body, headers=JSON)
    assert response.json()["state"] == "stopped"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_the_form_of_a_foreign_web_page_cannot_stop_a_sweep(service: Service, content_type: str) -> None:
    links = service.submit()["links"]
    problem(service.http.post(links["cancel"], headers={"Content-Type": content_type}), 415)
    assert service.http.get(links["self"]).json()["state"] == "queued"
