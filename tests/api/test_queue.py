"""The queue over REST: a sweep's place in it, and its priority."""

from __future__ import annotations

from typing import Any

import pytest
from harness import Conductor, Service, pointers, problem

from sweep_service.domain.states import SweepState


def position(service: Service, sweep: dict[str, Any]) -> int | None:
    """Its place in the queue, which it must have in a list too."""
    shown = service.http.get(sweep["links"]["self"]).json()["position"]
    listed = service.http.get("/api/v1/sweeps", params={"page_size": 200}).json()["sweeps"]
    assert [one["position"] for one in listed if one["id"] == sweep["id"]] == [shown]
    return shown


def test_sweeps_wait_in_the_order_of_their_priorities(service: Service) -> None:
    first, urgent, second, idle = (service.submit(priority=priority) for priority in (50, 100, 50, -100))
    assert urgent["position"] == 1
    places = [position(service, sweep) for sweep in (urgent, first, second, idle)]
    assert places[:3] == [1, 2, 3]
    assert places[3] is not None
    assert places[3] > 3
    (listed,) = [s for s in service.http.get("/api/v1/sweeps").json()["sweeps"] if s["id"] == idle["id"]]
    assert listed["priority"] == idle["spec"]["priority"] == -100


def test_a_patch_of_the_priority_lets_a_sweep_overtake_others(service: Service) -> None:
    ahead, behind = service.submit(priority=90), service.submit()
    before = position(service, behind)
    patched = service.http.patch(behind["links"]["self"], json={"priority": 91})
    assert patched.status_code == 200, patched.text
    assert patched.json()["revision"] == 1
    after, other = position(service, behind), position(service, ahead)
    assert after == patched.json()["position"]
    assert before is not None
    assert after is not None
    assert other is not None
    assert after < other < before
    back = service.http.patch(behind["links"]["self"], json={"priority": None}).json()
    assert (back["spec"]["priority"], back["position"]) == (0, before)


def test_what_does_not_wait_has_no_position(service: Service) -> None:
    sweep = service.submit(priority=99)
    conductor = Conductor(service.store, sweep["id"])
    assert position(service, sweep) is None
    conductor.move(SweepState.RUNNING, SweepState.FAILED)
    assert position(service, sweep) is None


@pytest.mark.parametrize("wrong", [101, -101, 0.5, "high", True])
def test_a_priority_out_of_bounds_is_refused(service: Service, wrong: Any) -> None:
    spec = service.submit()["spec"]
    document = problem(service.http.post("/api/v1/sweeps", json={**spec, "priority": wrong}), 422)
    assert pointers(document) == {"/priority"}
