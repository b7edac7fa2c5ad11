"""Changes to the spec of a sweep that has been submitted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep_service.domain.amendment import amended_spec, changes_between, told
from sweep_service.domain.errors import InvalidSpecError
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from trainables.catalog import load_catalog

CATALOG = load_catalog()
SPEC = check_spec(
    {
        "name": "census",
        "trainable": "census_income",
        "params": {"steps": 300},
        "space": {
            "alpha": {"type": "float", "low": 0.0, "high": 3.0},
            "balancer": {"type": "categorical", "choices": ["gradnorm", "uncertainty"]},
        },
        "budget": {"trials": 24, "wall_time": "2h"},
        "resources": {"cpus": 2, "parallel": 2},
        "early_stopping": {"pruner": "asha", "reduction_factor": 4},
        "initial": [{"alpha": 1.0, "balancer": "gradnorm"}],
    },
    CATALOG,
)


def amended(patch: Any) -> SweepSpec:
    return amended_spec(SPEC, patch, CATALOG)


def findings(patch: Any) -> set[tuple[str, str]]:
    with pytest.raises(InvalidSpecError) as raised:
        amended(patch)
    assert all(finding.detail.endswith((".", "?")) for finding in raised.value.findings)
    return {(finding.pointer, finding.code) for finding in raised.value.findings}


def test_what_a_patch_names_is_set_and_the_rest_stays() -> None:
    spec = amended({"budget": {"trials": 32, "target": 0.3}, "resources": {"parallel": 4}})
    assert (spec.budget.trials, spec.budget.target, spec.budget.wall_time) == (32, 0.3, "2h")
    assert (spec.resources.parallel, spec.resources.cpus) == (4, 2)
    unchanged = {"budget": SPEC.budget, "resources": SPEC.resources}
    assert spec.model_copy(update=unchanged) == SPEC


def test_null_removes() -> None:
    assert amended({"budget": {"wall_time": None}}).budget.wall_time is None
    assert amended({"early_stopping": None}).early_stopping is None
    rule = amended({"early_stopping": {"pruner": "median", "reduction_factor": None}}).early_stopping
    assert rule is not None
    assert (rule.pruner, rule.reduction_factor) == ("median", None)


def test_a_priority_is_set_and_null_takes_it_away() -> None:
    urgent = amended({"priority": 10})
    assert urgent.model_copy(update={"priority": 0}) == SPEC
    assert told(changes_between(SPEC, urgent)) == "priority: 0 → 10."
    assert amended_spec(urgent, {"priority": None}, CATALOG) == SPEC


@pytest.mark.parametrize(
    ("patch", "found"),
    [
        ({"priority": 101}, {("/priority", "less_than_equal")}),
        ({"priority": -101}, {("/priority", "greater_than_equal")}),
        ({"priority": 1.5}, {("/priority", "int_type")}),
        ({"priority": {"of": 1}}, {("/priority", "int_type")}),
        ({}, {("", "empty")}),
        (["budget"], {("", "not_an_object")}),
        (None, {("", "not_an_object")}),
        ({"space": {}}, {("/space", "not_amendable")}),
        ({"params": {"steps": 900}, "name": "other"}, {("/params", "not_amendable"), ("/name", "not_amendable")}),
        ({"bugdet": {"trials": 32}}, {("/bugdet", "unknown_key")}),
        ({"resources": {"gpus": 1, "parallel": 3}}, {("/resources/gpus", "not_amendable")}),
        ({"resources": {"paralel": 3}}, {("/resources/paralel", "unknown_key")}),
        ({"resources": None}, {("/resources", "not_an_object")}),
        ({"budget": 32}, {("/budget", "not_an_object")}),
        ({"budget": None}, {("/budget", "not_an_object")}),
        ({"budget": {"trials": None}}, {("/budget/trials", "missing")}),
        ({"budget": {"trails": 32}}, {("/budget/trails", "unknown_key")}),
        (
            {"budget": {"trials": 0}, "resources": {"parallel": "two"}},
            {("/budget/trials", "greater_than_equal"), ("/resources/parallel", "int_type")},
        ),
        ({"budget": {"gpu_hours": 1.0}}, {("/budget/gpu_hours", "never_reached")}),
        ({"early_stopping": {"min_steps": 300}}, {("/early_stopping/min_steps", "above_steps")}),
    ],
)
def test_what_is_wrong_is_named_with_a_way_out(patch: Any, found: set[tuple[str, str]]) -> None:
    assert findings(patch) == found


def test_a_stored_spec_passes_its_own_check_unchanged() -> None:
    assert check_spec(SPEC.canonical(), CATALOG) == SPEC
    stored = SweepSpec.trusted(SPEC.canonical())
    assert amended_spec(stored, {"resources": {"parallel": 2}}, CATALOG) == stored
    assert changes_between(stored, amended_spec(stored, {"budget": {"trials": 24}}, CATALOG)) == {}


def test_a_spec_of_an_earlier_version_is_changed_in_nothing_else() -> None:
    silent = SPEC.search.model_copy(update={"balancers": None})  # from before there was a choice
    stored = SPEC.model_copy(update={"search": silent})
    changed = amended_spec(stored, {"budget": {"trials": 32}}, CATALOG)
    assert changed.search == silent
    assert changed.budget.trials == 32


def test_changes_are_told_by_their_fields() -> None:
    changes = changes_between(
        SPEC, amended({"resources": {"parallel": 4}, "budget": {"trials": 32, "wall_time": None}})
    )
    assert changes == {"/budget/trials": (24, 32), "/budget/wall_time": ("2h", None), "/resources/parallel": (2, 4)}
    assert told(changes) == "budget.trials: 24 → 32; budget.wall_time: 2h → none; resources.parallel: 2 → 4."
    assert told({}) == ""


bounds = st.fixed_dictionaries(
    {"trials": st.integers(2, 100)},
    optional={
        "wall_time": st.sampled_from(["90s", "2h"]) | st.none(),
        "target": st.floats(-5, 5) | st.none(),
        "no_improvement": st.integers(1, 50) | st.none(),
    },
)


@given(bounds, st.integers(1, 9))
def test_a_patch_once_more_changes_nothing(budget: dict[str, Any], parallel: int) -> None:
    patch = {"budget": budget, "resources": {"parallel": parallel}}
    once = amended(patch)
    assert amended_spec(once, patch, CATALOG) == once
    for name, value in budget.items():
        assert getattr(once.budget, name) == value
    assert set(changes_between(SPEC, once)) <= {f"/budget/{name}" for name in budget} | {"/resources/parallel"}
