"""Sweeps of several users on one cluster, with real workers: who comes first, and who gets how many packs."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from stack_control import RunningStack, await_that, events_of, faulty_spec

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def attempts_of(stack: RunningStack, sweep_id: str) -> list[dict[str, Any]]:
    return [
        attempt for trial in stack.client.trials(sweep_id) for attempt in stack.client.trial(trial["id"])["attempts"]
    ]


def limited_spec(name: str, **changes: Any) -> dict[str, Any]:
    """Packs of one trial, two at once if it could; the limit of the stack leaves one to all sweeps of its label."""
    return faulty_spec(
        name,
        labels={"only": "one"},
        params={"delay_ms": 20, "steps": 100, "report_every": 10},
        resources={"cpus": 1, "parallel": 2, "lanes": 1},
        **changes,
    )


def test_sweeps_under_a_limit_of_one_pack_never_run_two_and_the_urgent_one_goes_first(stack: RunningStack) -> None:
    # Of several seconds: it still trains when the urgent one has got a conductor, on a slow machine too.
    first = stack.client.submit(limited_spec("first", budget={"trials": 6}))["id"]
    await_that(lambda: attempts_of(stack, first), what="its first pack")
    behind = stack.client.submit(limited_spec("behind", budget={"trials": 1}))["id"]
    urgent = stack.client.submit(limited_spec("urgent", budget={"trials": 2}, priority=1))["id"]
    await_that(lambda: stack.client.get(behind)["reason"] == "limited", within_s=120, what="the limit to be told")
    assert "1 pack at once for the label only:one" in stack.client.get(behind)["message"]
    ended = {sweep_id: stack.client.wait(sweep_id, timeout=300) for sweep_id in (urgent, first, behind)}
    assert {sweep["state"] for sweep in ended.values()} == {"completed"}
    assert ended[urgent]["ended_at"] < ended[first]["ended_at"]
    assert any("Held back" in event["message"] for event in events_of(stack, first, "sweep.notice"))

    attempts = {sweep_id: attempts_of(stack, sweep_id) for sweep_id in ended}
    assert "preempted" in {attempt["state"] for attempt in attempts[first]}
    assert {attempt["state"] for attempt in attempts[urgent]} == {"finished"}
    spans = sorted((a["started_at"], a["ended_at"]) for found in attempts.values() for a in found)
    for (_, end), (start, _) in combinations(spans, 2):
        assert end <= start
