"""POST /api/v1/sweeps: what is queued, and everything that is not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from harness import SPEC, TOY, Service, pointers, problem, serve
from jsonschema import Draft202012Validator

from api.app import create_app
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore

JSON = {"Content-Type": "application/json"}


def changed(path: str, value: Any) -> dict[str, Any]:
    """SPEC with the value at that JSON pointer."""
    document: Any = copy.deepcopy(dict(SPEC))
    *parents, last = path.strip("/").split("/")
    place = document
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    return document


def test_a_valid_spec_is_created_queued_and_found_at_its_location(service: Service) -> None:
    response = service.http.post("/api/v1/sweeps", json=dict(SPEC))
    assert response.status_code == 201
    sweep = response.json()
    assert sweep["state"] == "queued"
    bounds = {"wall_time": None, "gpu_hours": None, "target": None, "no_improvement": None}
    assert sweep["spec"]["budget"] == {"trials": 4, **bounds}
    search = {"sampler": "tpe", "seed": 0, "from_sweep": None, "balancers": None}
    assert sweep["spec"]["search"] == search, "defaults are filled in"
    assert response.headers["location"] == f"/api/v1/sweeps/{sweep['id']}" == sweep["links"]["self"]
    assert service.http.get(response.headers["location"]).json() == sweep
    assert service.store.get_sweep(sweep["id"]).spec.name == "small"


def test_every_link_of_a_sweep_that_can_be_read_answers(service: Service) -> None:
    links = service.submit()["links"]
    for name in ("self", "trials", "best", "events"):
        assert service.http.get(links[name]).status_code == 200, name


def test_a_submitted_sweep_has_its_first_event(service: Service) -> None:
    sweep = service.submit()
    page = service.http.get(sweep["links"]["events"]).json()
    assert [(event["seq"], event["kind"]) for event in page["events"]] == [(1, "sweep.submitted")]


def test_samples_of_a_space_with_conditions_have_defaults_for_what_is_not_drawn(service: Service) -> None:
    space = {**SPEC["space"], "balancer": {"type": "categorical", "choices": ["gradnorm", "equal"]}}
    document = {**SPEC, "space": space, "baselines": ["single_task"]}
    answer = service.http.post("/api/v1/sweeps?validate_only=true", json=document)
    assert answer.status_code == 200, answer.text
    samples = answer.json()["samples"]
    assert {sample["params"]["balancer"] for sample in samples} == {"gradnorm", "equal"}
    for sample in samples:
        assert ("alpha" in sample["searched"]) == (sample["searched"]["balancer"] == "gradnorm")
        assert sample["params"]["alpha"] == sample["searched"].get("alpha", 1.5)
    assert answer.json()["spec"]["space"]["alpha"]["when"] == {"balancer": ["gradnorm"]}
    assert answer.json()["spec"]["search"]["balancers"] == "equal_effort"
    trials = document["budget"]["trials"]
    assert answer.json()["shares"] == {"gradnorm": trials - 1, "equal": 1}
    plain = service.http.post("/api/v1/sweeps?validate_only=true", json=SPEC)
    assert plain.json()["shares"] is None


BAD_SPECS = {
    "unknown key": (changed("/budgett", 1), {"/budgett"}),
    "unknown nested key": (changed("/budget", {"trials": 2, "trails": 3}), {"/budget/trails"}),
    "low above high": (changed("/space/alpha", {"type": "float", "low": 3.0, "high": 0.0}), {"/space/alpha"}),
    "log from zero": (
        changed("/space/alpha", {"type": "float", "low": 0.0, "high": 1.0, "log": True}),
        {"/space/alpha"},
    ),
    "log and step": (
        changed("/space/alpha", {"type": "float", "low": 0.1, "high": 1.0, "log": True, "step": 0.1}),
        {"/space/alpha"},
    ),
    "unknown trainable": (changed("/trainable", "toi"), {"/trainable"}),
    "unknown metric": (changed("/objective", {"metric": "val/f1/left"}), {"/objective/metric"}),
    "no direction for a score": (changed("/objective", {"metric": "val/auc/right"}), {"/objective/direction"}),
    "several objectives and a pruner": (
        {**SPEC, "objectives": [{"metric": "val/loss/left"}, {"metric": "val/loss/right"}], "early_stopping": {}},
        {"/early_stopping"},
    ),
    "GPU-hours without GPUs": (changed("/budget/gpu_hours", 8), {"/budget/gpu_hours"}),
    "unknown parameter": (changed("/params", {"widht": 3}), {"/params/widht"}),
    "unknown searched parameter": (
        changed("/space/gamma", {"type": "float", "low": 0.0, "high": 1.0}),
        {"/space/gamma"},
    ),
    "parameter out of bounds": (changed("/params", {"width": 0}), {"/params/width"}),
    "text for a number": (changed("/budget", {"trials": "4"}), {"/budget/trials"}),
    "true for a number": (changed("/budget", {"trials": True}), {"/budget/trials"}),
    "number for a text": (changed("/name", 3), {"/name"}),
    "empty name": (changed("/name", ""), {"/name"}),
    "control character in the name": (changed("/name", "a\u0007b"), {"/name"}),
    "no space": (changed("/space", {}), {"/space"}),
    "null for an object": (changed("/budget", None), {"/budget"}),
    "list for an object": (changed("/space", []), {"/space"}),
    "enormous whole number": (changed("/budget", {"trials": 10**400}), {"/budget/trials"}),
    "unknown sampler": (changed("/search", {"sampler": "guess"}), {"/search/sampler"}),
    "unknown baseline": (changed("/baselines", ["equl"]), {"/baselines/0"}),
    "confirm without baselines": (changed("/baselines", []), {"/confirm"}),
    "awkward key": (changed("/params", {"a/b~c": 1}), {"/params/a~1b~0c"}),
}


@pytest.mark.parametrize("case", BAD_SPECS)
def test_a_spec_that_cannot_be_run_is_refused_with_its_pointer_and_nothing_is_queued(
    service: Service, case: str
) -> None:
    document, expected = BAD_SPECS[case]
    before = service.num_sweeps()
    answer = problem(service.http.post("/api/v1/sweeps", json=document), 422)
    assert answer["type"] == "urn:sweep-service:problem:invalid-spec"
    assert pointers(answer) == expected
    assert service.num_sweeps() == before


def test_all_that_is_wrong_is_said_at_once(service: Service) -> None:
    document = changed("/space/alpha", {"type": "float", "low": 3.0, "high": 0.0})
    document |= {"nmae": "x", "budget": {}, "retries": -1}
    answer = problem(service.http.post("/api/v1/sweeps", json=document), 422)
    assert pointers(answer) == {"/space/alpha", "/nmae", "/budget/trials", "/retries"}


def test_a_query_parameter_that_is_not_known_is_refused_rather_than_ignored(service: Service) -> None:
    before = service.num_sweeps()
    answer = problem(service.http.post("/api/v1/sweeps?validate_only=true&dry=1&wet=2", json=dict(SPEC)), 422)
    assert [item["parameter"] for item in answer["errors"]] == ["dry", "wet"]
    assert service.num_sweeps() == before


# --- only checking ----------------------------------------------------------------------------------------------------


def test_a_spec_that_is_only_checked_comes_back_whole_and_nothing_is_queued(service: Service) -> None:
    before = service.num_sweeps()
    response = service.http.post("/api/v1/sweeps?validate_only=true", json=dict(SPEC))
    assert response.status_code == 200
    answer = response.json()
    assert answer["spec"] == service.submit()["spec"], "every default is filled in as it would be"
    assert service.num_sweeps() == before + 1
    assert answer["samples_from"] == "uniform_draws"
    assert len(answer["samples"]) == 5
    for sample in answer["samples"]:
        assert set(sample["searched"]) == {"alpha", "weight_lr"}
        assert 0 <= sample["searched"]["alpha"] <= 3
        assert 1e-4 <= sample["searched"]["weight_lr"] <= 0.1
        assert sample["params"] == {**TOY.defaults(), **sample["searched"]}
    assert len({sample["searched"]["alpha"] for sample in answer["samples"]}) == 5
    assert service.http.post("/api/v1/sweeps?validate_only=true", json=dict(SPEC)).json() == answer


@pytest.mark.parametrize("case", BAD_SPECS)
def test_checking_finds_what_submitting_would_find(service: Service, case: str) -> None:
    document, _ = BAD_SPECS[case]
    submitted = problem(service.http.post("/api/v1/sweeps", json=document), 422)
    assert problem(service.http.post("/api/v1/sweeps?validate_only=true", json=document), 422) == submitted


def test_a_spec_may_be_submitted_with_a_no_to_only_checking_it(service: Service) -> None:
    assert service.http.post("/api/v1/sweeps?validate_only=false", json=dict(SPEC)).status_code == 201


@pytest.mark.parametrize("query", ["validate_only=perhaps", "validate_only=", "validate_only=1&validate_only=0"])
def test_a_wish_that_is_neither_yes_nor_no_is_refused(service: Service, query: str) -> None:
    before = service.num_sweeps()
    answer = problem(service.http.post(f"/api/v1/sweeps?{query}", json=dict(SPEC)), 422)
    assert [item["parameter"] for item in answer["errors"]] == ["validate_only"]
    assert service.num_sweeps() == before


# --- the schema -------------------------------------------------------------------------------------------------------


@pytest.fixture
def schema(service: Service) -> Draft202012Validator:
    response = service.http.get("/api/v1/schemas/sweep")
    assert response.headers["content-type"] == "application/schema+json"
    Draft202012Validator.check_schema(response.json())
    return Draft202012Validator(response.json())


def test_the_schema_takes_what_the_service_takes(service: Service, schema: Draft202012Validator) -> None:
    full = {**SPEC, "params": {"width": 4, "lr": 0.5, "dtype": "float64"}, "objective": {"metric": "val/loss/left"}}
    two = {**SPEC, "objectives": [{"metric": "val/loss/left"}, {"metric": "val/loss/right"}]}
    for spec in (SPEC, full, two, service.submit(**full)["spec"], service.submit(**two)["spec"]):
        assert [error.message for error in schema.iter_errors(dict(spec))] == []


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/trainable", "toi"),
        ("/params", {"widht": 3}),
        ("/params", {"width": 0}),
        ("/params", {"width": 1.5}),
        ("/params", {"lr": 0}),
        ("/params", {"dtype": "float16"}),
        ("/space/steps", {"type": "int", "low": 1, "high": 2}),
        ("/objective", {"metric": "val/f1/left"}),
        ("/objectives", [{"metric": "val/loss/left"}, {"metric": "val/f1/left"}]),
        ("/budgett", 1),
    ],
)
def test_the_schema_knows_what_the_catalogue_knows(schema: Draft202012Validator, pointer: str, value: Any) -> None:
    assert schema.is_valid(dict(SPEC))
    assert not schema.is_valid(changed(pointer, value))


def test_before_anybody_has_published_the_catalogue_the_schema_leaves_it_out() -> None:
    store = MemorySweepStore()
    with serve(create_app(Settings(), store), store) as service:
        document = service.http.get("/api/v1/schemas/sweep").json()
    schema = Draft202012Validator(document)
    assert schema.is_valid({**SPEC, "trainable": "anything"})
    assert not schema.is_valid({**SPEC, "budgett": 1})


@pytest.mark.parametrize(
    ("changes", "trials"),
    [
        # A baseline that reads nothing of the space runs once, and a grid has no more trials than points.
        ({}, {"search": 4, "baseline": 1, "confirm": 6}),
        ({"baselines": [], "confirm": None}, {"search": 4, "baseline": 0, "confirm": 0}),
        (
            {"space": {"width": {"type": "int", "low": 1, "high": 99}}, "baselines": ["equal", "single_task"]},
            {"search": 4, "baseline": 8, "confirm": 9},
        ),
        (
            {"space": {"width": {"type": "int", "low": 1, "high": 3}}, "search": {"sampler": "grid"}},
            {"search": 3, "baseline": 3, "confirm": 6},
        ),
    ],
    ids=str,
)
def test_a_preview_says_how_many_trials_there_would_be(
    service: Service, changes: dict[str, Any], trials: dict[str, int]
) -> None:
    document = {name: value for name, value in {**SPEC, **changes}.items() if value is not None}
    assert service.http.post("/api/v1/sweeps?validate_only=true", json=document).json()["trials"] == trials
