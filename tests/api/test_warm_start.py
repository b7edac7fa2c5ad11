"""A sweep that begins with what another one has shown, from HTTP to the store."""

from __future__ import annotations

from typing import Any

import pytest
from harness import SPEC, Conductor, Service, finish_sweep, pointers, problem

from sweep_service.domain.states import SweepState, TrialEnding
from sweep_service.domain.trial import Role


def after(source_id: str, **changes: Any) -> dict[str, Any]:
    return {"search": {"sampler": "tpe", "from_sweep": source_id}, **changes}


@pytest.fixture
def source_id(service: Service) -> str:
    """A sweep with two search trials (alpha 1.0 and 2.0), an early-stopped and a failed one, and a baseline."""
    sweep_id = service.submit()["id"]
    conductor = finish_sweep_with_more(service, sweep_id)
    assert conductor.sweep_id == sweep_id
    return sweep_id


def finish_sweep_with_more(service: Service, sweep_id: str) -> Conductor:
    conductor = Conductor(service.store, sweep_id)
    conductor.move(SweepState.RUNNING)
    for alpha, objective in ((1.0, 0.6), (2.0, 0.4)):
        conductor.run(conductor.add_trial(alpha=alpha, weight_lr=0.01), objective=objective)
    stopped = conductor.add_trial(alpha=0.5, weight_lr=0.02)
    conductor.run(stopped, TrialEnding.PRUNED, objective=0.9)
    conductor.run(conductor.add_trial(alpha=2.5, weight_lr=0.02), TrialEnding.ERROR, message="boom")
    conductor.run(conductor.add_trial(Role.BASELINE, "equal"), objective=0.5)
    return conductor


def test_what_has_a_result_is_adopted_and_said_in_an_event(service: Service, source_id: str) -> None:
    sweep = service.submit(**after(source_id))
    assert sweep["adopted"] == 3
    assert sweep["progress"]["used_trials"] == 0, "they are none of its trials"
    assert service.http.get(sweep["links"]["trials"]).json()["trials"] == []
    messages = [event["message"] for event in service.http.get(sweep["links"]["events"]).json()["events"]]
    assert any(f"begin with trials of {source_id}" in message and "search: 3 of 3" in message for message in messages)
    stored = service.store.get_sweep(sweep["id"]).adopted
    assert [(one.point["alpha"], one.value) for one in stored] == [(1.0, 0.6), (2.0, 0.4), (0.5, 0.9)]


def test_a_preview_says_what_would_be_adopted_and_why_other_trials_would_not(service: Service, source_id: str) -> None:
    narrow = {**SPEC["space"], "alpha": {"type": "float", "low": 0.8, "high": 3.0}}
    answer = service.http.post(
        "/api/v1/sweeps", params={"validate_only": "true"}, json={**SPEC, **after(source_id, space=narrow)}
    )
    assert answer.status_code == 200
    search = answer.json()["adoption"]["lines"][0]
    assert (search["considered"], search["adopted"]) == (3, 2)
    (left_out,) = search["left_out"]
    assert left_out["trials"] == 1
    assert left_out["reason"] == "params.alpha was 0.5, here it is searched from 0.8 to 3"


def test_a_parameter_that_is_new_in_the_space_takes_what_the_trials_had(service: Service, source_id: str) -> None:
    wider = {**SPEC["space"], "lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}}
    sweep = service.submit(**after(source_id, space=wider))
    assert {one.point["lr"] for one in service.store.get_sweep(sweep["id"]).adopted} == {1e-3}, "the default"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"params": {"steps": 77}}, "params.steps was 1500, here 77"),
        ({"params": {"width": 16}}, "params.width was 8, here 16"),
        ({"objective": {"metric": "val/loss/left", "direction": "minimize"}}, "cannot be compared"),
    ],
)
def test_a_sweep_whose_trials_do_not_fit_is_refused_with_the_reason(
    service: Service, source_id: str, changes: dict[str, Any], told: str
) -> None:
    before = service.num_sweeps()
    answer = problem(service.http.post("/api/v1/sweeps", json={**SPEC, **after(source_id, **changes)}), 422)
    assert pointers(answer) == {"/search/from_sweep"}
    assert told in answer["errors"][0]["detail"]
    assert service.num_sweeps() == before


@pytest.mark.parametrize("source", ["swp_01J9Z3NDEKTSV4RRFFQ69G5FAV", "swp_nonsense", ""])
def test_a_sweep_that_is_not_there_is_refused(service: Service, source: str) -> None:
    answer = problem(service.http.post("/api/v1/sweeps", json={**SPEC, **after(source)}), 422)
    assert pointers(answer) == {"/search/from_sweep"}


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_a_sampler_that_learns_nothing_has_no_use_for_it(service: Service, source_id: str, sampler: str) -> None:
    document = {**SPEC, "search": {"sampler": sampler, "from_sweep": source_id}}
    answer = problem(service.http.post("/api/v1/sweeps", json=document), 422)
    assert "/search/from_sweep" in pointers(answer)


def test_several_objectives_and_an_earlier_sweep_exclude_each_other(service: Service, source_id: str) -> None:
    both = [{"metric": "val/loss/left"}, {"metric": "val/loss/right"}]
    answer = problem(service.http.post("/api/v1/sweeps", json={**SPEC, **after(source_id, objectives=both)}), 422)
    assert pointers(answer) == {"/search/from_sweep"}


def test_what_was_adopted_stays_when_the_earlier_sweep_goes_on(service: Service) -> None:
    source_id = service.submit()["id"]
    conductor = Conductor(service.store, source_id)
    conductor.move(SweepState.RUNNING)
    conductor.run(conductor.add_trial(alpha=1.0, weight_lr=0.01), objective=0.5)
    sweep = service.submit(**after(source_id))
    conductor.run(conductor.add_trial(alpha=2.0, weight_lr=0.01), objective=0.1)
    assert len(service.store.get_sweep(sweep["id"]).adopted) == sweep["adopted"] == 1


def test_it_stays_and_is_not_adopted_again_when_the_earlier_sweep_is_deleted(service: Service) -> None:
    source_id = service.submit()["id"]
    finish_sweep(service.store, source_id)
    document, headers = {**SPEC, **after(source_id)}, {"Idempotency-Key": f"gone-{source_id}"}
    first = service.http.post("/api/v1/sweeps", json=document, headers=headers).json()
    assert service.http.delete(f"/api/v1/sweeps/{source_id}").status_code == 204
    assert service.http.get(first["links"]["self"]).json()["adopted"] == first["adopted"] == 2
    again = service.http.post("/api/v1/sweeps", json=document, headers=headers)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json() == first
    assert len(service.http.get(first["links"]["events"]).json()["events"]) == 2
    problem(service.http.post("/api/v1/sweeps", json=document), 422)


def test_a_repetition_under_its_key_adopts_nothing_anew(service: Service, source_id: str) -> None:
    document, headers = {**SPEC, **after(source_id)}, {"Idempotency-Key": f"warm-{source_id}"}
    first = service.http.post("/api/v1/sweeps", json=document, headers=headers)
    again = service.http.post("/api/v1/sweeps", json=document, headers=headers)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert again.json()["adopted"] == first.json()["adopted"] == 3
