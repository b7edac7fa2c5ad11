"""POST /api/v1/sweeps with search.from_sweep: what is adopted, what is told of it, and what is refused."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from harness import SPEC, Conductor, Service, finish_sweep, problem

from sweep_service.domain.states import SweepState, TrialEnding
from sweep_service.domain.trial import Role


def earlier(service: Service, *, num: int = 3, **changes: Any) -> str:
    """A sweep that still runs, with so many completed search trials, an early-stopped one, one that failed, and one of
    the baseline."""
    sweep_id = service.submit(**changes)["id"]
    conductor = Conductor(service.store, sweep_id)
    conductor.move(SweepState.RUNNING)
    for index in range(num):
        trial = conductor.add_trial(alpha=0.5 + index, weight_lr=0.01)
        conductor.run(trial, objective=0.5 - 0.1 * index, is_best=True)
    conductor.run(conductor.add_trial(alpha=0.1, weight_lr=0.01), TrialEnding.PRUNED, objective=0.9)
    conductor.run(conductor.add_trial(alpha=0.2, weight_lr=0.01), TrialEnding.ERROR)
    conductor.run(conductor.add_trial(Role.BASELINE, "equal"), objective=0.6)
    return sweep_id


def document(sweep_id: str, **changes: Any) -> dict[str, Any]:
    return {**SPEC, **changes, "search": {"sampler": "tpe", "from_sweep": sweep_id, **changes.get("search", {})}}


def post(service: Service, body: dict[str, Any], query: str = "", **headers: str) -> httpx.Response:
    return service.http.post(f"/api/v1/sweeps{query}", json=body, headers=headers)


def test_a_sweep_adopts_what_it_can_when_it_is_submitted_and_says_so(service: Service) -> None:
    source = earlier(service)
    answer = post(service, document(source))
    assert answer.status_code == 201, answer.text
    sweep = answer.json()
    assert sweep["adopted"] == 5
    assert service.http.get(sweep["links"]["self"]).json() == sweep
    assert (sweep["progress"]["used_trials"], sweep["leaders"], sweep["best_trial_id"]) == (0, [], None)
    stored = service.store.get_sweep(sweep["id"]).adopted
    assert [(one.role, one.point.get("alpha"), one.value) for one in stored] == [
        (Role.SEARCH, 0.5, 0.5),
        (Role.SEARCH, 1.5, 0.4),
        (Role.SEARCH, 2.5, 0.3),
        (Role.SEARCH, 0.1, 0.9),
        (Role.BASELINE, None, 0.6),
    ]
    first, notice = service.http.get(sweep["links"]["events"]).json()["events"]
    assert (first["kind"], notice["kind"]) == ("sweep.submitted", "sweep.notice")
    assert notice["message"] == f"The samplers begin with trials of {source}. search: 4 of 4. equal: 1 of 1."


def test_a_preview_tells_what_would_be_adopted_and_why_the_others_would_not(service: Service) -> None:
    source, before = earlier(service), service.num_sweeps()
    space = {**SPEC["space"], "alpha": {"type": "float", "low": 1.0, "high": 3.0}}
    answer = post(service, document(source, space=space), "?validate_only=true")
    assert answer.status_code == 200, answer.text
    assert answer.json()["adoption"] == {
        "from_sweep": source,
        "lines": [
            {
                "role": "search",
                "balancer": "gradnorm",
                "considered": 4,
                "adopted": 2,
                "left_out": [
                    {"reason": "params.alpha was 0.5, here it is searched from 1 to 3", "trials": 1},
                    {"reason": "params.alpha was 0.1, here it is searched from 1 to 3", "trials": 1},
                ],
            },
            {"role": "baseline", "balancer": "equal", "considered": 1, "adopted": 1, "left_out": []},
        ],
    }
    assert service.num_sweeps() == before
    plain = post(service, dict(SPEC), "?validate_only=true").json()
    assert plain["adoption"] is None


def test_what_was_adopted_stays_when_the_earlier_sweep_goes_on(service: Service) -> None:
    source = service.submit()["id"]
    conductor = Conductor(service.store, source)
    conductor.move(SweepState.RUNNING)
    conductor.run(conductor.add_trial(alpha=1.0, weight_lr=0.01), objective=0.5)
    sweep = post(service, document(source)).json()
    conductor.run(conductor.add_trial(alpha=2.0, weight_lr=0.01), objective=0.1)
    assert len(service.store.get_sweep(sweep["id"]).adopted) == sweep["adopted"] == 1


def test_it_stays_and_is_not_adopted_again_when_the_earlier_sweep_is_deleted(service: Service) -> None:
    source, key = service.submit()["id"], uuid.uuid4().hex
    finish_sweep(service.store, source)
    body = document(source)
    first = post(service, body, **{"Idempotency-Key": key})
    assert first.json()["adopted"] == 3
    assert service.http.delete(f"/api/v1/sweeps/{source}").status_code == 204
    again = post(service, body, **{"Idempotency-Key": key})
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json() == first.json()
    assert len(service.http.get(first.json()["links"]["events"]).json()["events"]) == 2
    (finding,) = problem(post(service, body), 422)["errors"]
    assert finding["code"] == "unknown_sweep"


@pytest.mark.parametrize("sweep_id", ["swp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "the other one", "swp_"])
@pytest.mark.parametrize("query", ["", "?validate_only=true"])
def test_an_unknown_sweep_is_refused_at_its_field(service: Service, sweep_id: str, query: str) -> None:
    (finding,) = problem(post(service, document(sweep_id), query), 422)["errors"]
    assert (finding["pointer"], finding["code"]) == ("/search/from_sweep", "unknown_sweep")


@pytest.mark.parametrize(
    ("changes", "code", "hint"),
    [
        ({"params": {"lr": 0.5}}, "nothing_to_adopt", "4: params.lr was 0.001, here 0.5"),
        (
            {"objective": {"metric": "val/loss/left"}},
            "other_objective",
            "minimize val/normalized_loss, this one is to minimize val/loss/left",
        ),
        (
            {"objective": {"metric": "val/normalized_loss", "direction": "maximize"}},
            "other_objective",
            "to maximize val/normalized_loss",
        ),
        ({"search": {"sampler": "random"}}, "not_for_sampler", "random learns nothing"),
        ({"search": {"sampler": "qmc"}}, "not_for_sampler", "qmc learns nothing"),
    ],
)
def test_what_cannot_be_adopted_or_used_is_refused_with_the_reason(
    service: Service, changes: dict[str, Any], code: str, hint: str
) -> None:
    source, before = earlier(service), service.num_sweeps()
    (finding,) = problem(post(service, document(source, **changes)), 422)["errors"]
    assert (finding["pointer"], finding["code"]) == ("/search/from_sweep", code)
    assert hint in finding["detail"]
    assert service.num_sweeps() == before


def test_a_sweep_without_an_ended_trial_gives_nothing(service: Service) -> None:
    source = service.submit()["id"]
    (finding,) = problem(post(service, document(source)), 422)["errors"]
    assert finding["code"] == "nothing_to_adopt"
    assert "search: 0 of 0" in finding["detail"]
