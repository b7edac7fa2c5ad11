"""A spec may describe the tasks itself: what is wrong with them is told at the very field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_documents import CATALOG as TOYS
from spec_documents import VALID, json_values

from sweep_service.domain.errors import Finding, InvalidSpecError
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from trainables.catalog import TRAINING_PARAMETERS, Parameter, Trainable, load_catalog

CATALOG = {**TOYS, "tabular": load_catalog()["tabular"]}

TASKS: dict[str, Any] = {
    "income": {"column": "income in $", "kind": "regression"},
    "churned": {"kind": "binary", "positive": "yes"},
    "visits": {"kind": "count"},
    "plan": {"kind": "multiclass"},
}


def spec_of(objective: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    given = {"data": "customers.csv", "tasks": TASKS, **params}
    return {
        "name": "own",
        "trainable": "tabular",
        "params": {name: value for name, value in given.items() if value is not None},
        "space": {"alpha": VALID["space"]["alpha"]},
        "budget": {"trials": 4},
        **({} if objective is None else {"objective": objective}),
    }


def findings_of(document: Any) -> tuple[Finding, ...]:
    with pytest.raises(InvalidSpecError) as raised:
        check_spec(document, CATALOG)
    return raised.value.findings


def test_a_spec_that_describes_its_tasks_is_taken_and_survives_its_canonical_form() -> None:
    spec = check_spec(spec_of(drop=["customer"], split="column", split_column="part", categorical=[]), CATALOG)
    assert spec.params["tasks"] == TASKS
    assert SweepSpec.model_validate(spec.canonical()) == spec
    assert SweepSpec.model_validate_json(spec.model_dump_json()) == spec
    assert SweepSpec.trusted(spec.canonical()) == spec


def test_the_example_of_the_page_on_own_data_is_right() -> None:
    page = (Path(__file__).parents[3] / "docs" / "own-data.md").read_text()
    document = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    assert check_spec(document, CATALOG).params["tasks"]["revenue"] == {
        "kind": "regression",
        "column": "yearly revenue",
    }


@pytest.mark.parametrize(
    ("tasks", "pointer", "code", "detail"),
    [
        ({}, "", "invalid_value", "at least one task"),
        ([], "", "invalid_value", "object"),
        ("income", "", "invalid_value", "object"),
        (["income"], "", "invalid_value", "object"),
        ({f"t{i}": {"kind": "count"} for i in range(101)}, "", "too_long", "at most 100"),
        ({"income": None}, "/income", "not_an_object", "kind"),
        ({"income": "binary"}, "/income", "not_an_object", "kind"),
        ({"income": {}}, "/income/kind", "missing", "binary, multiclass, regression, count"),
        ({"income": {"kind": "bianry"}}, "/income/kind", "invalid_value", "binary, multiclass"),
        ({"income": {"kind": None}}, "/income/kind", "invalid_value", "binary, multiclass"),
        ({"income": {"kind": ["binary"]}}, "/income/kind", "invalid_value", "binary, multiclass"),
        ({"income": {"kind": {"a": 1}}}, "/income/kind", "invalid_value", "binary, multiclass"),
        ({"income": {"kind": "count", "colum": "x"}}, "/income/colum", "unknown_key", "kind, column, positive"),
        ({"income": {"kind": "count", "column": 7}}, "/income/column", "invalid_value", "text"),
        ({"income": {"kind": "count", "column": ""}}, "/income/column", "invalid_value", "text"),
        ({"income": {"kind": "count", "column": "a\x00"}}, "/income/column", "invalid_value", "text"),
        ({"income": {"kind": "count", "column": "\ud800"}}, "/income/column", "invalid_value", "text"),
        ({"income": {"kind": "binary", "positive": 1}}, "/income/positive", "invalid_value", "text"),
        ({"income": {"kind": "count", "positive": "1"}}, "/income/positive", "unused_parameter", "binary"),
        ({"in/come": {"kind": "count"}}, "/in~1come", "invalid_name", "letters"),
        ({"9": {"kind": "count"}}, "/9", "invalid_name", "digit"),
        ({"": {"kind": "count"}}, "/", "invalid_name", "letters"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_wrong_task_is_refused_at_its_field(tasks: Any, pointer: str, code: str, detail: str) -> None:
    (finding,) = findings_of(spec_of(tasks=tasks))
    assert (finding.pointer, finding.code) == ("/params/tasks" + pointer, code)
    assert detail in finding.detail


_task_like = st.dictionaries(st.sampled_from(["kind", "column", "positive", "x"]), json_values | st.just("binary"))


@settings(max_examples=1000, deadline=None)
@given(tasks=json_values | st.dictionaries(st.sampled_from(["a", "b c", "", "a/b"]), json_values | _task_like))
def test_any_description_of_tasks_is_right_or_told_where_it_is_wrong(tasks: Any) -> None:
    document = spec_of(tasks={} if tasks is None else tasks)
    try:
        spec = check_spec(document, CATALOG)
    except InvalidSpecError as error:
        places = [(f.pointer, f.code) for f in error.findings]
        assert len(set(places)) == len(places)
        assert all(pointer.startswith("/params/tasks") for pointer, _ in places)
    else:
        assert SweepSpec.model_validate_json(json.dumps(spec.canonical())) == spec


def test_all_that_is_wrong_with_the_tasks_is_told_at_once() -> None:
    tasks = {"income": {"kind": "x", "column": 1}, "visits": {"kinds": "count"}, "plan": {"kind": "multiclass"}}
    assert {(f.pointer, f.code) for f in findings_of(spec_of(tasks=tasks))} == {
        ("/params/tasks/income/kind", "invalid_value"),
        ("/params/tasks/income/column", "invalid_value"),
        ("/params/tasks/visits/kinds", "unknown_key"),
        ("/params/tasks/visits/kind", "missing"),
    }


@pytest.mark.parametrize(
    ("params", "pointer", "detail"),
    [
        ({"data": ""}, "/params/data", "a text on one line"),
        ({"data": 7}, "/params/data", "a text on one line"),
        ({"data": "a\nb"}, "/params/data", "a text on one line"),
        ({"data": "\ud800"}, "/params/data", "a text on one line"),
        ({"data": {"path": "x"}}, "/params/data", "a text on one line"),
        ({"drop": "customer"}, "/params/drop", "a list of texts"),
        ({"drop": [1]}, "/params/drop", "a list of texts"),
        ({"drop": [""]}, "/params/drop", "a list of texts"),
        ({"drop": ["a", 1]}, "/params/drop", "whole numbers"),
        ({"lr": {"low": 0}}, "/params/lr", "a number"),
        ({"lr": {"a": {"b": {"c": {}}}}}, "/params/lr", "two levels"),
        ({"tasks": {"a": {"kind": {"b": {"c": 1}}}}}, "/params/tasks", "two levels"),
        ({"tasks": {"a": {"kind": float("nan")}}}, "/params/tasks", "finite"),
        ({"tasks": {str(i): {} for i in range(1001)}}, "/params/tasks", "1000"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_wrong_text_list_or_object_is_refused_at_its_field(params: Any, pointer: str, detail: str) -> None:
    (finding,) = findings_of(spec_of(**params))
    assert (finding.pointer, finding.code) == (pointer, "invalid_value")
    assert detail in finding.detail


def test_a_parameter_without_a_default_must_be_given() -> None:
    document = spec_of(data=None, tasks=None)
    assert {(f.pointer, f.code) for f in findings_of(document)} == {
        ("/params/data", "missing"),
        ("/params/tasks", "missing"),
    }
    del document["params"]
    assert {f.pointer for f in findings_of(document)} == {"/params/data", "/params/tasks"}
    assert [f.pointer for f in findings_of(document | {"params": []})] == ["/params"]


def test_the_objective_must_be_a_metric_of_the_tasks_that_the_spec_describes() -> None:
    for metric in ("val/auc/churned", "val/mae/visits", "val/accuracy/plan", "val/loss/income", "val/normalized_loss"):
        document = spec_of(objective={"metric": metric, "direction": "minimize"})
        assert check_spec(document, CATALOG).objective.metric == metric
    for metric in ("val/auc/visits", "val/loss/outcome", "val/auc/plan"):
        (finding,) = findings_of(spec_of(objective={"metric": metric, "direction": "minimize"}))
        assert (finding.pointer, finding.code) == ("/objective/metric", "unknown_metric")
    wrong = spec_of(objective={"metric": "val/auc/x", "direction": "maximize"}, tasks={"x": {"kind": "y"}})
    assert [f.pointer for f in findings_of(wrong)] == ["/params/tasks/x/kind"]


def test_neither_data_nor_tasks_can_be_searched() -> None:
    document = spec_of()
    document["space"] = {"data": {"type": "categorical", "choices": ["a.csv", "b.csv"]}}
    assert ("/space/data", "not_searchable") in {(f.pointer, f.code) for f in findings_of(document)}


def test_a_trainable_says_where_its_tasks_come_from() -> None:
    count = Parameter(name="n", type="float", default=1.0, description="")
    for tasks_from in (None, "n", "absent"):
        with pytest.raises(ValueError, match="task"):
            Trainable(
                name="x",
                summary="",
                factory="a:b",
                tasks=(),
                tasks_from=tasks_from,
                parameters=(count, *TRAINING_PARAMETERS),
                problem_parameters=("n",),
            )
