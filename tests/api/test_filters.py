"""GET /api/v1/sweeps with filters and an order."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from harness import Conductor, Service, finish_sweep, problem

from sweep_service.domain.states import SweepState


@pytest.fixture
def mark(request: pytest.FixtureRequest) -> str:
    """A value of a label that only the sweeps of this test have."""
    return f"t{abs(hash(request.node.nodeid))}"


def find(service: Service, params: Any) -> list[str]:
    """The ids of the page."""
    response = service.http.get("/api/v1/sweeps", params=params)
    assert response.status_code == 200, response.text
    return [sweep["id"] for sweep in response.json()["sweeps"]]


def newest_first(*ids: str) -> list[str]:
    """Of two that were submitted within one millisecond, either may count as the newer one."""
    return sorted(ids, reverse=True)


def test_sweeps_are_found_by_state(service: Service, mark: str) -> None:
    done = service.submit(labels={"mark": mark})["id"]
    finish_sweep(service.store, done)
    running = service.submit(labels={"mark": mark})["id"]
    Conductor(service.store, running).move(SweepState.RUNNING)
    queued = service.submit(labels={"mark": mark})["id"]
    mine = ("label", f"mark:{mark}")
    assert find(service, [mine]) == newest_first(done, running, queued)
    assert find(service, [mine, ("state", "running")]) == [running]
    assert find(service, [mine, ("state", "queued"), ("state", "completed")]) == newest_first(done, queued)
    assert find(service, [mine, ("state", "paused")]) == []


def test_sweeps_are_found_by_all_labels_that_are_given(service: Service, mark: str) -> None:
    first = service.submit(labels={"mark": mark, "team": "ads"})["id"]
    second = service.submit(labels={"mark": mark, "team": "search"})["id"]
    assert find(service, {"label": f"mark:{mark}"}) == newest_first(first, second)
    assert find(service, {"label": [f"mark:{mark}", "team:ads"]}) == [first]
    assert find(service, {"label": [f"mark:{mark}", "team:ads", "team:search"]}) == []


def test_sweeps_are_found_by_project(service: Service, mark: str) -> None:
    sweep_id = service.submit(labels={"mark": mark})["id"]
    assert find(service, {"label": f"mark:{mark}", "project": "default"}) == [sweep_id]
    assert find(service, {"label": f"mark:{mark}", "project": "another"}) == []


def test_sweeps_are_found_by_the_time_of_submitting_in_any_zone(service: Service, mark: str) -> None:
    sweeps = [service.submit(labels={"mark": mark}) for _ in range(2)]
    first = datetime.fromisoformat(sweeps[0]["created_at"])
    mine = {"label": f"mark:{mark}"}
    assert find(service, {**mine, "created_after": sweeps[0]["created_at"]}) == [sweeps[1]["id"]]
    earlier = first - timedelta(milliseconds=1)
    for offset in (timedelta(0), timedelta(hours=5, minutes=30), timedelta(hours=-8)):
        text = earlier.astimezone(timezone(offset)).isoformat()
        assert find(service, {**mine, "created_after": text}) == newest_first(*(sweep["id"] for sweep in sweeps))


def test_sweeps_come_in_the_order_that_is_asked_for(service: Service, mark: str) -> None:
    ids = [service.submit(labels={"mark": mark})["id"] for _ in range(3)]
    assert find(service, {"label": f"mark:{mark}", "order_by": "created_at"}) == newest_first(*ids)[::-1]
    assert find(service, {"label": f"mark:{mark}", "order_by": "-created_at"}) == newest_first(*ids)


@pytest.mark.parametrize("order", ["created_at", "-created_at"])
def test_pages_of_a_filtered_list_are_complete_and_disjoint(service: Service, mark: str, order: str) -> None:
    ids = []
    for index in range(12):
        sweep = service.submit(labels={"mark": mark, "half": "left" if index % 2 else "right"})
        ids += [sweep["id"]] if index % 2 else []
    wish = {"label": [f"mark:{mark}", "half:left"], "order_by": order, "page_size": 4}
    page = service.http.get("/api/v1/sweeps", params=wish).json()
    rest = service.http.get("/api/v1/sweeps", params={**wish, "page_token": page["next_page_token"]}).json()
    assert [len(page["sweeps"]), len(rest["sweeps"])] == [4, 2]
    assert rest["next_page_token"] is None
    found = [sweep["id"] for sweep in page["sweeps"] + rest["sweeps"]]
    assert found == sorted(ids, reverse=order.startswith("-"))


def test_a_token_goes_with_the_filters_that_gave_it_in_whatever_order_they_are_written(
    service: Service, mark: str
) -> None:
    for _ in range(2):
        service.submit(labels={"mark": mark, "team": "ads"})
    labels = [f"mark:{mark}", "team:ads"]
    first = service.http.get("/api/v1/sweeps", params={"label": labels, "page_size": 1}).json()
    token = first["next_page_token"]
    same = {"label": labels[::-1], "page_token": token, "page_size": 7}
    assert len(find(service, same)) == 1
    for other in (
        {"label": labels[:1]},
        {},
        {"label": labels, "state": "queued"},
        {"label": labels, "order_by": "created_at"},
    ):
        answer = problem(service.http.get("/api/v1/sweeps", params={**other, "page_token": token}), 422)
        assert [item["parameter"] for item in answer["errors"]] == ["page_token"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("state=quiet", "state"),
        ("state=", "state"),
        ("state=queued&state=quiet", "state"),
        ("&".join(["state=queued"] * 21), "state"),
        ("label=team", "label"),
        ("label=team:", "label"),
        ("label=:ads", "label"),
        ("label=a:b:c", "label"),
        ("label=te%00am:ads", "label"),
        ("project=a%00b", "project"),
        ("project=" + "a" * 201, "project"),
        ("project=a&project=b", "project"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2026-03-01", "created_after"),
        ("created_after=1767225600", "created_after"),
        ("created_after=2026-03-01T12:00:00", "created_after"),
        ("created_after=2026-03-01T12:00:00+01:00", "created_after"),
        ("created_after=2026-02-30T12:00:00Z", "created_after"),
        ("created_after=2026-03-01T12:00:00%2B99:00", "created_after"),
        ("created_after=9999-12-31T23:59:59-01:00", "created_after"),
        ("created_after=0001-01-01T00:00:00%2B01:00", "created_after"),
        ("order_by=name", "order_by"),
        ("order_by=", "order_by"),
        ("states=queued", "states"),
    ],
)
def test_a_wrong_filter_is_refused_by_name(service: Service, query: str, parameter: str) -> None:
    answer = problem(service.http.get(f"/api/v1/sweeps?{query}"), 422)
    assert [item["parameter"] for item in answer["errors"]] == [parameter]


@pytest.mark.parametrize(
    "text", ["2026-03-01T12:00:00Z", "2026-03-01t12:00:00.5z", "2026-03-01T12:00:00.123456789+14:00"]
)
def test_a_time_may_be_written_in_any_way_of_the_standard(service: Service, text: str) -> None:
    assert service.http.get("/api/v1/sweeps", params={"created_after": text}).status_code == 200
