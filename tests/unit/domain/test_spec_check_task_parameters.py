"""Parameters that each task has for itself: weight/income."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from spec_documents import CATALOG as TOYS
from spec_documents import changed

from sweep_service.domain.errors import Finding, InvalidSpecError
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.services.spec_schema import spec_schema
from trainables.catalog import load_catalog

CATALOG = {**TOYS, "tabular": load_catalog()["tabular"]}
WEIGHT = {"type": "float", "low": 0.01, "high": 100.0, "log": True}


def of_toy(params: dict[str, Any] | None = None, space: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    document = changed(
        ("/space", {"lr": {"type": "float", "low": 0.001, "high": 0.1}, **(space or {})}),
        ("/params", {"balancer": "static", **(params or {})}),
    )
    return {**document, **more}


def of_table(params: dict[str, Any], space: dict[str, Any]) -> dict[str, Any]:
    given = {"data": "customers.csv", "tasks": {"visits": {"kind": "count"}}, "balancer": "static", **params}
    lr = {"type": "float", "low": 0.001, "high": 0.1}
    budget = {"trials": 4}
    return {"name": "own", "trainable": "tabular", "params": given, "space": {"lr": lr, **space}, "budget": budget}


def only_finding_of(document: Any) -> Finding:
    with pytest.raises(InvalidSpecError) as raised:
        check_spec(document, CATALOG)
    (finding,) = raised.value.findings
    return finding


def test_they_are_fixed_and_searched_like_others_and_survive_being_stored() -> None:
    space = {"weight/weeks": WEIGHT}
    document = of_toy({"weight/income": 2, "initial_loss/income": 0.7}, space, initial=[{"weight/weeks": 3.0}])
    spec = check_spec(document, CATALOG)
    assert spec.params["initial_loss/income"] == 0.7
    assert spec.initial == ({"weight/weeks": 3.0},)
    assert SweepSpec.model_validate(spec.canonical()) == spec == SweepSpec.trusted(spec.canonical())
    assert check_spec(of_table({}, {"weight/visits": WEIGHT}), CATALOG).space["weight/visits"]


@pytest.mark.parametrize(
    ("params", "space", "pointer", "code", "hint"),
    [
        ({"weight/incom": 2.0}, {}, "/params/weight~1incom", "unknown_parameter", "'weight/income'"),
        ({"weight": 2.0}, {}, "/params/weight", "unknown_parameter", "'weight/"),
        ({"wieght/income": 2.0}, {}, "/params/wieght~1income", "unknown_parameter", "'weight/income'"),
        ({"weight/income": 0.0}, {}, "/params/weight~1income", "invalid_value", "above 0"),
        ({"weight/income": "2"}, {}, "/params/weight~1income", "invalid_value", "a number"),
        ({"initial_loss/weeks": -1.0}, {}, "/params/initial_loss~1weeks", "invalid_value", "at least 0"),
        ({"a/b/c": 1}, {}, "/params/a~1b~1c", "string_pattern_mismatch", "ends in / and its name"),
        ({}, {"weight/x": WEIGHT}, "/space/weight~1x", "unknown_parameter", "weight/"),
        ({}, {"initial_loss/weeks": WEIGHT}, "/space/initial_loss~1weeks", "not_searchable", "weight/weeks"),
        ({}, {"weight/weeks": {**WEIGHT, "low": -1.0, "log": False}}, "/space/weight~1weeks/low", "invalid_value", "0"),
        ({}, {"weight/weeks": {**WEIGHT, "hi": 1}}, "/space/weight~1weeks/hi", "unknown_key", "hi"),
        ({"weight/weeks": 1.0}, {"weight/weeks": WEIGHT}, "/space/weight~1weeks", "fixed_and_searched", "one of the"),
        ({"balancer": "gradnorm"}, {"weight/weeks": WEIGHT}, "/space/weight~1weeks", "unused_parameter", "gradnorm"),
    ],
)
def test_what_is_wrong_is_told_at_the_very_name(
    params: dict[str, Any], space: dict[str, Any], pointer: str, code: str, hint: str
) -> None:
    finding = only_finding_of(of_toy(params, space))
    assert (finding.pointer, finding.code) == (pointer, code)
    assert hint in finding.detail


def test_the_tasks_are_those_of_the_specs_other_parameters() -> None:
    document = of_toy({}, {"weight/t3": WEIGHT}, trainable="several")
    assert only_finding_of(document).pointer == "/space/weight~1t3"
    document["params"]["num_tasks"] = 3
    assert check_spec(document, CATALOG)
    finding = only_finding_of(of_table({"weight/visit": 1.0}, {}))
    assert "'weight/visits'" in finding.detail


def test_where_the_tasks_themselves_are_wrong_nothing_is_said_of_their_parameters() -> None:
    assert only_finding_of(of_table({"tasks": {"visits": {"kind": "x"}}, "weight/y": 1.0}, {})).code == "invalid_value"
    assert only_finding_of(of_table({"tasks": 3, "weight/y": 1.0}, {})).pointer == "/params/tasks"


def test_where_the_balancer_is_searched_a_weight_is_searched_for_its_reader_alone() -> None:
    balancer = {"type": "categorical", "choices": ["gradnorm", "static"]}
    spec = check_spec(
        changed(("/space", {"balancer": balancer, "weight/weeks": WEIGHT}), ("/baselines", []), ("/confirm", None)),
        CATALOG,
    )
    assert spec.space["weight/weeks"].when == {"balancer": ("static",)}


def test_the_json_schema_knows_them() -> None:
    validator = jsonschema.Draft202012Validator(spec_schema(CATALOG))
    assert validator.is_valid(of_toy({"weight/income": 2.0}, {"weight/weeks": WEIGHT}))
    assert not validator.is_valid(of_toy({"weight/x": 2.0}))
    assert not validator.is_valid(of_toy({"weight/income": 0}))
    assert not validator.is_valid(of_toy({}, {"initial_loss/weeks": WEIGHT}))
    assert validator.is_valid(of_table({"weight/visits": 2.0}, {"weight/any": WEIGHT}))
    assert not validator.is_valid(of_table({"weight/visits": "2"}, {}))
    assert not validator.is_valid(of_table({}, {"initial_loss/visits": WEIGHT}))
