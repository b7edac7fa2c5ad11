"""The API's description of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import SPEC, Service

from api.app import create_app
from api.schemas.problems import ProblemDocument
from api.schemas.sweeps import EXAMPLE_SPEC
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore
from trainables.catalog import builtin_trainables


@pytest.fixture
def document(service: Service) -> dict[str, Any]:
    return service.http.get("/api/v1/openapi.json").json()


def references(value: Any) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(item) for item in value.values()))
    return set().union(*(references(item) for item in value)) if isinstance(value, list) else set()


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_every_operation_has_an_id_of_its_own(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operation in operations(document)]
    assert len(ids) == len(set(ids)) == 27
    assert "submit_sweep" in ids


def test_every_refusal_of_every_operation_is_a_problem(document: dict[str, Any]) -> None:
    for operation in operations(document):
        refusals = {code: r for code, r in operation["responses"].items() if not code.startswith("2")}
        assert "default" in refusals
        for response in refusals.values():
            assert list(response["content"]) == ["application/problem+json"]


def test_everything_that_is_referred_to_is_there(document: dict[str, Any]) -> None:
    found = references(document)
    assert "#/components/schemas/SweepSpec" in found
    assert "#/components/schemas/Problem" in found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_the_schema_of_a_submitted_spec_is_that_of_the_model(document: dict[str, Any]) -> None:
    described = document["components"]["schemas"]["SweepSpec"]
    assert set(described["properties"]) == set(SweepSpec.model_fields)
    assert set(described["required"]) == {"name", "trainable", "space", "budget"} <= set(SPEC)
    assert described["additionalProperties"] is False


def test_the_frameworks_own_errors_are_not_described(document: dict[str, Any]) -> None:
    assert not {"HTTPValidationError", "ValidationError"} & set(document["components"]["schemas"])


def test_the_description_is_the_one_that_is_kept_in_the_repository() -> None:
    kept = json.loads((Path(__file__).parent / "openapi.json").read_text(encoding="utf-8"))
    described = create_app(Settings(), MemorySweepStore()).openapi()
    assert json.loads(json.dumps(described)) == kept, "If that change is meant, run: make openapi"


def test_the_example_of_a_spec_can_be_submitted() -> None:
    catalog = {trainable.name: trainable for trainable in builtin_trainables()}
    assert check_spec(EXAMPLE_SPEC, catalog).name == EXAMPLE_SPEC["name"]


def test_every_parameter_is_described_and_every_refusal_has_an_example(document: dict[str, Any]) -> None:
    for operation in operations(document):
        assert operation["description"]
        for parameter in operation.get("parameters", ()):
            assert parameter.get("description") or parameter["schema"].get("description"), parameter["name"]
        for code, response in operation["responses"].items():
            if code.isdecimal() and int(code) >= 400:
                example = response["content"]["application/problem+json"]["example"]
                assert example["status"] == int(code)
                ProblemDocument.model_validate(example)
