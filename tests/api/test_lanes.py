"""What a spec may say of trials that are trained together, and what is said before it is submitted."""

from __future__ import annotations

from typing import Any

import pytest
from harness import SPEC, Service, problem


@pytest.mark.parametrize(
    ("changes", "lanes", "reason"),
    [
        ({}, "auto", None),
        ({"resources": {"lanes": 12}}, 12, None),
        ({"resources": {"lanes": 1}}, 1, "resources.lanes is 1."),
        ({"params": {"micro_batches": 2}}, "auto", "params.micro_batches is not 1"),
        ({"params": {"autocast": "bfloat16"}}, "auto", "params.autocast is not none"),
    ],
    ids=str,
)
def test_a_spec_that_is_only_checked_is_told_whether_its_trials_are_trained_together(
    service: Service, changes: dict[str, Any], lanes: int | str, reason: str | None
) -> None:
    document = {**SPEC, **changes}
    fusion = service.http.post("/api/v1/sweeps?validate_only=true", json=document).json()["fusion"]
    assert (fusion["fused"], fusion["lanes"]) == (reason is None, lanes)
    assert (fusion["reason"] or "").startswith(reason or "")


@pytest.mark.parametrize("lanes", [0, -1, 1025, 2.5, "many", None, True], ids=str)
def test_lanes_are_auto_or_a_number(service: Service, lanes: object) -> None:
    answer = problem(service.http.post("/api/v1/sweeps", json={**SPEC, "resources": {"lanes": lanes}}), 422)
    (error,) = answer["errors"]
    assert error["pointer"] == "/resources/lanes"
