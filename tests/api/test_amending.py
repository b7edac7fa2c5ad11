"""Changing a sweep over REST: its budget, its packs, its early stopping; and trying failed trials again."""

from __future__ import annotations

from typing import Any

import pytest
from harness import SPEC, Conductor, Service, finish_sweep, pointers, problem

from sweep_service.domain.errors import SpecChangedError
from sweep_service.domain.states import SweepState, TrialEnding

MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}


def events(service: Service, sweep: dict[str, Any]) -> list[dict[str, Any]]:
    return service.http.get(sweep["links"]["events"]).json()["events"]


@pytest.mark.parametrize("headers", [MERGE_PATCH, {"Content-Type": "application/json"}], ids=["merge-patch", "json"])
def test_what_a_patch_names_is_changed_and_asking_again_changes_nothing(
    service: Service, headers: dict[str, str]
) -> None:
    sweep = service.submit()
    here = sweep["links"]["self"]
    body = '{"budget": {"trials": 9, "wall_time": "2h"}, "resources": {"parallel": 3}}'
    first = service.http.patch(here, content=body, headers=headers)
    assert first.status_code == 200, first.text
    spec, old = first.json()["spec"], sweep["spec"]
    assert (spec["budget"]["trials"], spec["budget"]["wall_time"], spec["resources"]["parallel"]) == (9, "2h", 3)
    assert {name: value for name, value in spec.items() if name not in ("budget", "resources")} == {
        name: value for name, value in old.items() if name not in ("budget", "resources")
    }
    assert (first.json()["revision"], first.json()["state"]) == (1, "queued")
    assert first.json()["progress"]["budget_trials"] == 9
    assert service.http.patch(here, content=body, headers=headers).json() == first.json()
    (told,) = [event for event in events(service, sweep) if event["kind"] == "sweep.amended"]
    assert told["data"]["changes"]["/budget/trials"] == [SPEC["budget"]["trials"], 9]
    removed = service.http.patch(here, json={"budget": {"wall_time": None}})
    assert removed.json()["spec"]["budget"]["wall_time"] is None


def test_everything_that_is_wrong_is_named_and_nothing_is_changed(service: Service) -> None:
    sweep = service.submit()
    here = sweep["links"]["self"]
    answer = problem(service.http.patch(here, json={"budget": {"trials": 0}, "resources": {"parallel": "many"}}), 422)
    assert pointers(answer) == {"/budget/trials", "/resources/parallel"}
    assert answer["detail"] == "Nothing was changed: 2 errors in the patch."
    fixed = problem(service.http.patch(here, json={"space": {}, "labels": {"a": "b"}}), 422)
    assert pointers(fixed) == {"/space", "/labels"}
    assert all("submit another sweep" in item["detail"] for item in fixed["errors"])
    assert pointers(problem(service.http.patch(here, json={}), 422)) == {""}
    problem(service.http.patch(here, content="{", headers=MERGE_PATCH), 400)
    problem(service.http.patch(here, content="trials=3", headers={"Content-Type": "text/plain"}), 415)
    problem(service.http.patch(f"{here}?dry_run=1", json={"budget": {"trials": 9}}), 422)
    assert service.http.get(here).json() == sweep


def test_only_a_patch_may_be_said_to_be_a_patch(service: Service) -> None:
    problem(service.http.post("/api/v1/sweeps", content="{}", headers=MERGE_PATCH), 415)


def test_a_sweep_that_does_not_exist_cannot_be_changed(service: Service) -> None:
    for sweep_id in ("swp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "nonsense"):
        problem(service.http.patch(f"/api/v1/sweeps/{sweep_id}", json={"budget": {"trials": 9}}), 404)
        problem(service.http.post(f"/api/v1/sweeps/{sweep_id}/retry"), 404)


@pytest.mark.parametrize("moves", [(SweepState.STOPPING,), (SweepState.CANCELLING, SweepState.CANCELLED)], ids=str)
def test_what_is_ending_or_cancelled_is_refused_whatever_the_patch_says(
    service: Service, moves: tuple[SweepState, ...]
) -> None:
    sweep = service.submit()
    Conductor(service.store, sweep["id"]).move(SweepState.RUNNING, *moves)
    for patch in ({"budget": {"trials": 9}}, {"nonsense": 1}):
        answer = problem(service.http.patch(sweep["links"]["self"], json=patch), 409)
        assert answer["state"] == moves[-1]
        assert "retry" not in answer["allowed"]
    problem(service.http.post(sweep["links"]["retry"]), 409)


def run(
    service: Service, sweep: dict[str, Any], *, trials: int, ending: TrialEnding = TrialEnding.COMPLETED
) -> Conductor:
    """Its conductor, with so many trials of the search, each ended like that."""
    conductor = Conductor(service.store, sweep["id"])
    conductor.move(SweepState.RUNNING)
    for trial in conductor.add_trials(trials):
        conductor.run(trial, ending)
    return conductor


def test_a_sweep_that_has_ended_goes_on_with_a_larger_budget_and_not_with_one_that_is_used(service: Service) -> None:
    sweep = service.submit(baselines=[], confirm=None)
    here = sweep["links"]["self"]
    run(service, sweep, trials=4).move(SweepState.COMPLETED)
    for trials in (2, 4):
        answer = problem(service.http.patch(here, json={"budget": {"trials": trials}}), 422)
        assert pointers(answer) == {"/budget/trials"}
        assert answer["errors"][0]["code"] == "nothing_left"
    assert service.http.get(here).json()["state"] == "completed"
    reopened = service.http.patch(here, json={"budget": {"trials": 5}}).json()
    assert (reopened["state"], reopened["reason"], reopened["ended_at"]) == ("queued", "user", None)
    assert reopened["results"] is None
    assert [event["kind"] for event in events(service, sweep)][-2:] == ["sweep.amended", "sweep.moved"]


def test_a_stopped_sweep_goes_on_under_the_budget_that_it_has(service: Service) -> None:
    sweep = service.submit(baselines=[], confirm=None)
    run(service, sweep, trials=2).move(SweepState.STOPPING, SweepState.STOPPED)
    answer = service.http.patch(sweep["links"]["self"], json={"budget": {"trials": 4}})
    assert answer.json()["state"] == "queued"
    assert answer.json()["spec"] == sweep["spec"]


def test_a_sweep_whose_trials_have_only_failed_needs_a_retry_and_no_larger_budget(service: Service) -> None:
    sweep = service.submit(budget={"trials": 5}, baselines=[], confirm=None)
    run(service, sweep, trials=5, ending=TrialEnding.ERROR).move(SweepState.FAILED)
    answer = problem(service.http.patch(sweep["links"]["self"], json={"budget": {"trials": 8}}), 422)
    assert pointers(answer) == {"/budget"}
    assert "retry" in answer["errors"][0]["detail"]
    retried = service.http.post(sweep["links"]["retry"])
    assert (retried.status_code, retried.json()["state"], retried.json()["revision"]) == (200, "queued", 1)
    assert retried.json()["progress"]["trials"]["search"] == {"pending": 5}
    assert service.http.post(sweep["links"]["retry"]).json() == retried.json()
    changed = service.http.patch(sweep["links"]["self"], json={"budget": {"trials": 8}})
    assert changed.json()["revision"] == 2


def test_where_nothing_has_failed_a_retry_changes_nothing(service: Service) -> None:
    sweep = service.submit()
    finish_sweep(service.store, sweep["id"])
    before = service.http.get(sweep["links"]["self"]).json()
    assert service.http.post(sweep["links"]["retry"]).json() == before


def test_changes_of_others_in_between_are_not_lost(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = service.submit()
    amend_sweep = service.store.amend_sweep
    num_others = 0

    def overtaken(sweep_id: str, spec: Any, *, revision: int, by: Any) -> Any:
        nonlocal num_others
        if num_others < 2:
            num_others += 1
            budget = {**sweep["spec"]["budget"], "target": float(num_others)}
            other = spec.model_copy(update={"budget": type(spec.budget).model_validate(budget)})
            amend_sweep(sweep_id, other, revision=revision)
        return amend_sweep(sweep_id, spec, revision=revision, by=by)

    monkeypatch.setattr(service.store, "amend_sweep", overtaken)
    answer = service.http.patch(sweep["links"]["self"], json={"budget": {"trials": 9}})
    assert (answer.json()["spec"]["budget"]["trials"], answer.json()["spec"]["budget"]["target"]) == (9, 2.0)
    assert answer.json()["revision"] == 3


def test_who_is_overtaken_again_and_again_is_told(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = service.submit()

    def refuse(*_args: object, **_options: object) -> None:
        raise SpecChangedError("another revision")

    monkeypatch.setattr(service.store, "amend_sweep", refuse)
    answer = problem(service.http.patch(sweep["links"]["self"], json={"budget": {"trials": 9}}), 409)
    assert answer["type"].endswith("changed-meanwhile")


def test_a_stream_goes_on_past_an_end_that_was_not_the_last(service: Service) -> None:
    sweep = service.submit(baselines=[], confirm=None)
    run(service, sweep, trials=4).move(SweepState.COMPLETED)
    service.http.patch(sweep["links"]["self"], json={"budget": {"trials": 5}})
    again = Conductor(service.store, sweep["id"])
    seen: list[str] = []
    with service.http.stream("GET", sweep["links"]["events"], headers={"Accept": "text/event-stream"}) as stream:
        for line in stream.iter_lines():
            if "sweep.moved" in line:
                seen.append(line)
            if len(seen) == 5:  # queued, starting, running, completed are not all
                again.move(SweepState.RUNNING, SweepState.FAILED)
                seen.append("told to end")
    assert '"failed"' in seen[-1]
