"""Single trials: their attempts, and their curves while they grow."""

from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from harness import Conductor, Service, problem

from sweep_service.domain.trial import Attempt

NO_TRIAL = "trl_01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture
def conductor(service: Service) -> Conductor:
    return Conductor(service.store, service.submit()["id"])


def running(conductor: Conductor) -> tuple[str, Attempt]:
    """The path of a trial that runs, and its attempt."""
    attempt = conductor.start(conductor.add_trial(alpha=1.0))
    return f"/api/v1/trials/{attempt.trial_id}", attempt


def read_on(service: Service, path: str, **params: Any) -> list[dict[str, Any]]:
    """All points, page by page."""
    points: list[dict[str, Any]] = []
    after, more = 0, True
    while more:
        page = service.http.get(f"{path}/metrics", params={**params, "after": after}).json()
        points += page["points"]
        after, more = page["next_after"], page["has_more"]
    return points


def test_a_trial_is_shown_with_every_attempt_at_it(service: Service, conductor: Conductor) -> None:
    trial = conductor.add_trial(alpha=1.0)
    conductor.lose(conductor.start(trial))
    second = conductor.start(trial, number=1, pack="ab12c_00001")
    shown = service.http.get(f"/api/v1/trials/{trial.id}").json()
    assert [(a["number"], a["state"], a["pack"], a["message"]) for a in shown["attempts"]] == [
        (0, "lost", "", "its worker died"),
        (1, "running", "ab12c_00001", ""),
    ]
    assert shown["attempts"][1]["id"] == second.id
    assert shown["attempts"][0]["ended_at"] is not None
    assert shown["attempts"][1]["ended_at"] is None
    (listed,) = service.http.get(f"/api/v1/sweeps/{conductor.sweep_id}/trials").json()["trials"]
    assert {key: shown[key] for key in listed} == listed
    assert service.http.get(shown["links"]["self"]).json() == shown
    assert service.http.get(shown["links"]["sweep"]).json()["id"] == conductor.sweep_id
    assert service.http.get(shown["links"]["metrics"]).json()["points"] == []


@pytest.mark.parametrize("suffix", ["", "/metrics"])
@pytest.mark.parametrize("trial_id", [NO_TRIAL, "1", "trl_", "swp_01ARZ3NDEKTSV4RRFFQ69G5FAV", "trl_%00", "%ED%A0%80"])
def test_a_trial_that_does_not_exist_is_not_found(service: Service, trial_id: str, suffix: str) -> None:
    response = service.http.get(f"/api/v1/trials/{trial_id}{suffix}")
    assert response.status_code == 404
    assert response.json()["type"] == "urn:sweep-service:problem:not-found"


def test_the_curves_of_a_trial_are_all_of_its_reports(service: Service, conductor: Conductor) -> None:
    path, attempt = running(conductor)
    _, other = running(conductor)
    for step in range(10, 130, 10):
        conductor.report(attempt, step, train_loss=1 / step, weight_left=0.5)
        conductor.report(other, step, train_loss=9.0)
    for size in (1, 5, 12, 13):
        points = read_on(service, path, page_size=size)
        assert [point["step"] for point in points] == list(range(10, 130, 10))
        assert [point["metrics"]["train/loss"] for point in points] == [1 / step for step in range(10, 130, 10)]
    assert points[0]["attempt_id"] == attempt.id


def test_only_the_metrics_that_are_asked_for_are_shown(service: Service, conductor: Conductor) -> None:
    path, attempt = running(conductor)
    conductor.report(attempt, 10, train_loss=1.0, weight_left=0.5)
    conductor.report(attempt, 20, weight_left=0.25, weight_right=0.75)
    conductor.report(attempt, 30, train_loss=0.5)
    assert [p["metrics"] for p in read_on(service, path, key="weight/left")] == [
        {"weight/left": 0.5},
        {"weight/left": 0.25},
    ]
    both = read_on(service, path, key=["weight/right", "train/loss"], page_size=1)
    assert [(p["step"], p["metrics"]) for p in both] == [
        (10, {"train/loss": 1.0}),
        (20, {"weight/right": 0.75}),
        (30, {"train/loss": 0.5}),
    ]
    assert read_on(service, path, key="nobody/reports/it", page_size=1) == []


def test_a_number_that_json_lacks_is_null(service: Service, conductor: Conductor) -> None:
    path, attempt = running(conductor)
    conductor.report(attempt, 10, a=math.nan, b=math.inf, c=-math.inf, d=1.0)
    (point,) = read_on(service, path)
    assert point["metrics"] == {"a": None, "b": None, "c": None, "d": 1.0}
    assert service.http.get(path).json()["metrics"] == point["metrics"]


def test_no_report_is_missed_nor_comes_twice_while_reports_arrive(service: Service, conductor: Conductor) -> None:
    path, attempt = running(conductor)
    _, other = running(conductor)
    steps = range(1, 201)

    def train() -> None:
        for step in steps:
            conductor.report(attempt, step, loss=float(step))
            conductor.report(other, step, loss=0.0)

    trainer = threading.Thread(target=train)
    trainer.start()
    seen: list[int] = []
    after = 0
    while len(seen) < len(steps):
        page = service.http.get(f"{path}/metrics", params={"after": after, "page_size": 7}).json()
        seen += [point["step"] for point in page["points"]]
        after = page["next_after"]
    trainer.join()
    assert seen == list(steps)
    assert service.http.get(f"{path}/metrics", params={"after": after}).json()["points"] == []


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("after=-1", "after"),
        ("page_size=0", "page_size"),
        ("page_size=1&page_size=2", "page_size"),
        ("key=", "key"),
        ("key=a&key=" + "b" * 501, "key"),
        ("keys=a", "keys"),
        ("&".join(["key=a"] * 101), "key"),
    ],
)
def test_a_wrong_query_of_curves_is_refused_by_name(
    service: Service, conductor: Conductor, query: str, parameter: str
) -> None:
    path, _ = running(conductor)
    answer = problem(service.http.get(f"{path}/metrics?{query}"), 422)
    assert [item["parameter"] for item in answer["errors"]] == [parameter]
