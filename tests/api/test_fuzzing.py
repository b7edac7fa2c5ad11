"""Requests that nobody would think of, made from the API's own description, over a real server and SQLite store."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
import schemathesis
from harness import SPEC, TOY, Conductor, Service, finish_sweep, serve
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
)

from api.app import create_app
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import open_sql_store

CASES_PER_OPERATION = 200
LEAST_CASES = 2000
SUBMIT = "POST /api/v1/sweeps"

_SCHEMA = schemathesis.openapi.from_dict(create_app(Settings(), MemorySweepStore()).openapi())
OPERATIONS: list[APIOperation] = [found.ok() for found in _SCHEMA.get_all_operations()]
ALWAYS = [not_a_server_error, content_type_conformance, response_headers_conformance, response_schema_conformance]

tried: Counter[tuple[str, int]] = Counter()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    url = f"sqlite:///{tmp_path_factory.mktemp('fuzzing') / 'sweeps.db'}"
    migrate(url)
    store = open_sql_store(url)
    store.publish_catalog([TOY])
    with serve(create_app(Settings(home=Path("unused")), store), store) as running:
        yield running
    store.close()


@pytest.fixture(scope="module")
def existing(service: Service) -> dict[str, Iterator[str]]:
    """Ids of what is there, by the name of the parameter: sweeps in many states, more than are deleted."""
    conductor = Conductor(service.store, service.submit()["id"])
    lost = conductor.start(conductor.add_trial(alpha=1.0))
    conductor.report(lost, 10, val_loss=math.nan, weight_left=0.5)
    conductor.lose(lost)
    sweeps = [service.submit()["id"] for _ in range(CASES_PER_OPERATION)]
    for sweep_id in sweeps[:3]:
        finish_sweep(service.store, sweep_id)
    for sweep_id in sweeps[3:-50]:
        service.http.post(f"/api/v1/sweeps/{sweep_id}/cancel")
    random.Random(0).shuffle(sweeps)
    keys = [service.http.post("/api/v1/keys", json={"name": f"key-{i}", "role": "viewer"}).json()["id"] for i in "ab"]
    return {
        "sweep_id": cycle([conductor.sweep_id, *sweeps]),
        "trial_id": cycle([lost.trial_id]),
        "key_id": cycle(keys),
    }


def check(case: Case, response: Response, *, is_as_generated: bool) -> None:
    """Raises unless the answer is one that the description has, in every respect."""
    documented = case.operation.definition.raw["responses"]
    assert str(response.status_code) in documented, f"{case.as_curl_command()}: {response.status_code}"
    case.validate_response(response, checks=[*ALWAYS, negative_data_rejection] if is_as_generated else ALWAYS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_whatever_is_asked_the_answer_is_one_that_is_described(
    operation: APIOperation, service: Service, existing: dict[str, Iterator[str]]
) -> None:
    @settings(
        max_examples=CASES_PER_OPERATION,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE),
        is_as_generated=st.booleans(),
    )
    def ask(case: Case, is_as_generated: bool) -> None:
        names = set() if is_as_generated else existing.keys() & (case.path_parameters or {}).keys()
        case.path_parameters = {**(case.path_parameters or {}), **{name: next(existing[name]) for name in names}}
        if not is_as_generated and operation.label == SUBMIT and isinstance(case.body, dict):
            case.body = {**SPEC, **dict(list(case.body.items())[-1:])}  # right but for one thing, or right
        response = case.call(base_url=service.url)
        if response.status_code == 400 and response.content == b"Invalid HTTP request received.":
            return  # of the server itself: the bytes were no request
        tried[operation.label, response.status_code] += 1
        check(case, response, is_as_generated=is_as_generated)

    ask()


def test_enough_was_asked_and_enough_of_it_was_answered() -> None:
    if len({label for label, _ in tried}) < len(OPERATIONS):
        pytest.skip("only some operations were tried")
    assert tried.total() >= LEAST_CASES
    well = {label for label, status in tried if status < 300}
    assert well == {operation.label for operation in OPERATIONS}, "an operation that only ever refuses is not tried"
