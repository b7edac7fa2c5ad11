"""DELETE /api/v1/sweeps/{id}."""

from __future__ import annotations

import pytest
from harness import SPEC, Conductor, Service, finish_sweep, problem

from sweep_service.client import ConflictError, MissingError, SweepClient
from sweep_service.domain.states import SweepState

NO_SWEEP = "swp_01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_an_ended_sweep_is_deleted_with_all_that_is_stored_of_it(service: Service) -> None:
    sweep = service.submit()
    finish_sweep(service.store, sweep["id"])
    (trial, *_) = service.http.get(sweep["links"]["trials"]).json()["trials"]
    response = service.http.delete(sweep["links"]["self"])
    assert (response.status_code, response.content) == (204, b"")
    for link in ("self", "trials", "best", "events"):
        problem(service.http.get(sweep["links"][link]), 404)
    problem(service.http.get(f"/api/v1/trials/{trial['id']}"), 404)
    problem(service.http.get(f"/api/v1/trials/{trial['id']}/metrics"), 404)
    problem(service.http.delete(sweep["links"]["self"]), 404)


@pytest.mark.parametrize("state", [SweepState.QUEUED, SweepState.STARTING, SweepState.RUNNING, SweepState.STOPPING])
def test_a_sweep_that_has_not_ended_is_not_deleted_and_what_is_possible_is_said(
    service: Service, state: SweepState
) -> None:
    sweep = service.submit()
    if state is not SweepState.QUEUED:
        conductor = Conductor(service.store, sweep["id"])
        steps = {SweepState.STARTING: (), SweepState.STOPPING: (SweepState.RUNNING, SweepState.STOPPING)}
        conductor.move(*steps.get(state, (state,)))
    answer = problem(service.http.delete(sweep["links"]["self"]), 409)
    assert answer["state"] == state
    assert answer["allowed"] == ["cancel", "stop"]
    assert "delete is not possible. Possible now: cancel, stop." in answer["detail"]
    assert service.http.get(sweep["links"]["self"]).json()["state"] == state


@pytest.mark.parametrize("sweep_id", [NO_SWEEP, "1", "swp_%00", "trl_01ARZ3NDEKTSV4RRFFQ69G5FAV"])
def test_a_sweep_that_does_not_exist_cannot_be_deleted(service: Service, sweep_id: str) -> None:
    response = service.http.delete(f"/api/v1/sweeps/{sweep_id}")
    assert response.status_code == 404


def test_deleting_takes_no_wishes(service: Service) -> None:
    sweep = service.submit()
    service.http.post(sweep["links"]["cancel"])
    problem(service.http.delete(f"{sweep['links']['self']}?force=true"), 422)
    problem(service.http.request("DELETE", sweep["links"]["self"], json={"force": True}), 422)
    assert service.http.get(sweep["links"]["self"]).status_code == 200
    assert service.http.request("DELETE", sweep["links"]["self"], json={}).status_code == 204


def test_the_client_deletes_and_says_why_not(service: Service) -> None:
    with SweepClient(service.url) as client:
        sweep_id = client.submit(SPEC)["id"]
        with pytest.raises(ConflictError) as caught:
            client.delete(sweep_id)
        assert caught.value.allowed == ["cancel", "stop"]
        client.cancel(sweep_id)
        client.delete(sweep_id)
        for call in (client.get, client.delete):
            with pytest.raises(MissingError):
                call(sweep_id)
