"""POST /api/v1/sweeps with an Idempotency-Key: sent again, it is queued once."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from harness import SPEC, DownStore, Service, finish_sweep, problem, serve

from api.app import create_app
from sweep_service.client import SweepClient
from sweep_service.settings import Settings
from trainables.catalog import builtin_trainables


def new_key() -> str:
    return uuid.uuid4().hex


def post(service: Service, key: str, document: Any = SPEC, query: str = "") -> httpx.Response:
    return service.http.post(f"/api/v1/sweeps{query}", json=dict(document), headers={"Idempotency-Key": key})


def test_what_is_sent_again_under_its_key_is_queued_once(service: Service) -> None:
    key, before = new_key(), service.num_sweeps()
    first, second = post(service, key), post(service, key)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert first.headers["location"] == second.headers["location"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert service.num_sweeps() == before + 1


def test_the_answer_to_a_repetition_shows_the_sweep_as_it_stands(service: Service) -> None:
    key = new_key()
    sweep_id = post(service, key).json()["id"]
    finish_sweep(service.store, sweep_id)
    again = post(service, key)
    assert again.status_code == 201
    assert again.json() == service.http.get(f"/api/v1/sweeps/{sweep_id}").json()
    assert again.json()["state"] == "completed"


def test_the_same_body_in_another_writing_is_the_same_body(service: Service) -> None:
    key = new_key()
    first = post(service, key).json()
    text = json.dumps(dict(reversed(SPEC.items())), indent=4)
    headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
    assert service.http.post("/api/v1/sweeps", content=text, headers=headers).json()["id"] == first["id"]


def test_another_body_under_the_same_key_is_refused(service: Service) -> None:
    key, before = new_key(), service.num_sweeps()
    post(service, key)
    answer = problem(post(service, key, {**SPEC, "name": "another"}), 422)
    assert answer["type"] == "urn:sweep-service:problem:idempotency-key-reused"
    assert [(item["parameter"], item["code"]) for item in answer["errors"]] == [("Idempotency-Key", "reused_key")]
    assert service.num_sweeps() == before + 1


def test_what_was_refused_is_not_remembered(service: Service) -> None:
    key = new_key()
    problem(post(service, key, {**SPEC, "trainable": "toi"}), 422)
    assert post(service, key).status_code == 201


def test_only_checking_a_spec_uses_no_key_up(service: Service) -> None:
    key, before = new_key(), service.num_sweeps()
    assert post(service, key, query="?validate_only=true").status_code == 200
    assert post(service, key, {**SPEC, "name": "another"}).status_code == 201
    assert service.num_sweeps() == before + 1


def test_a_repetition_is_answered_even_if_the_catalogue_has_changed(own_service: Service) -> None:
    key = new_key()
    first = post(own_service, key).json()
    own_service.store.publish_catalog(builtin_trainables())
    assert post(own_service, key).json()["id"] == first["id"]
    problem(post(own_service, new_key()), 422)


def test_without_a_key_every_submission_is_another_sweep(service: Service) -> None:
    assert service.submit()["id"] != service.submit()["id"]


def test_requests_at_once_under_one_key_make_one_sweep(service: Service) -> None:
    key, before = new_key(), service.num_sweeps()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(service, key), range(16)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert service.num_sweeps() == before + 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é", "tab\tin it"])
def test_a_key_that_is_none_is_refused(service: Service, key: str) -> None:
    before = service.num_sweeps()
    headers = [(b"Idempotency-Key", key.encode())]
    answer = problem(service.http.post("/api/v1/sweeps", json=dict(SPEC), headers=headers), 422)
    assert answer["type"] == "urn:sweep-service:problem:invalid-parameter"
    assert [item["parameter"] for item in answer["errors"]] == ["Idempotency-Key"]
    assert "1 to 255 visible ASCII characters" in answer["errors"][0]["detail"]
    assert service.num_sweeps() == before


def test_two_keys_are_refused(service: Service) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    answer = problem(service.http.post("/api/v1/sweeps", json=dict(SPEC), headers=headers), 422)
    assert [item["code"] for item in answer["errors"]] == ["repeated_parameter"]


def test_a_key_of_the_greatest_length_is_taken(service: Service) -> None:
    key = (new_key() * 8)[:255]
    assert post(service, key).status_code == 201
    assert post(service, key).headers["idempotent-replayed"] == "true"


def test_a_database_that_does_not_answer_leaves_the_way_out_of_sending_it_again() -> None:
    down: Any = DownStore()
    with serve(create_app(Settings(), down), down) as service:
        assert "send it again under the same Idempotency-Key" in problem(post(service, new_key()), 503)["detail"]


def test_the_client_queues_once_what_is_submitted_twice_under_one_key(service: Service) -> None:
    with SweepClient(service.url) as client:
        key = new_key()
        assert client.submit(SPEC, key=key)["id"] == client.submit(SPEC, key=key)["id"]
        assert client.submit(SPEC)["id"] != client.submit(SPEC)["id"]
