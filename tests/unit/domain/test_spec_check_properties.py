"""Whatever document is given: a spec, or an InvalidSpecError that says where it is wrong; never anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from spec_documents import CATALOG, VALID, changed, json_values, nearly_valid, rightly_shaped

from sweep_service.domain.branches import draw_uniform
from sweep_service.domain.errors import Finding, InvalidSpecError
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec, value_fault
from sweep_service.domain.spec_shape import MAX_FINDINGS

FUZZ = settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def _check(document: Any) -> tuple[SweepSpec | None, Sequence[Finding]]:
    try:
        return check_spec(document, CATALOG), ()
    except InvalidSpecError as error:
        return None, error.findings


def _resolve(document: Any, pointer: str) -> None:
    """Raises unless all of the pointer but its last part, which may be missing, is a place in the document."""
    parts = [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
    for part in parts[:-1]:
        document = document[part] if isinstance(document, Mapping) else document[int(part)]
    assert not parts or isinstance(document, Mapping | list)


@FUZZ
@given(document=nearly_valid() | json_values)
@example(document=VALID)
@example(document=changed(("/params/steps", 10**4000)))
@example(document=changed(("/space/alpha/high", 10**4000)))
@example(document=changed(("/space/batch_size", {"type": "int", "low": 1, "high": 10**400, "log": True})))
@example(document=changed(("/params/x", "\ud800")))
@example(document=changed(("/space/dtype", {"type": "categorical", "choices": ["float32", "\ud800"]})))
@example(document=changed(("/trainable", "\ud800")))
def test_any_document_gives_a_spec_or_findings_that_point_into_it(document: Any) -> None:
    spec, findings = _check(document)
    if spec is None:
        assert 1 <= len(findings) <= MAX_FINDINGS
        assert len({(f.pointer, f.code) for f in findings}) == len(findings)
        for finding in findings:
            assert finding.detail.strip()
            assert finding.code == finding.code.lower()
            _resolve(document, finding.pointer)
        return
    canonical = spec.canonical()
    assert SweepSpec.model_validate(json.loads(json.dumps(canonical))) == spec
    assert check_spec(canonical, CATALOG) == spec


@FUZZ
@given(document=nearly_valid(), seed=st.integers(0, 2**31))
def test_whatever_is_drawn_from_an_accepted_space_is_a_value_that_its_parameter_takes(document: Any, seed: int) -> None:
    spec, _ = _check(document)
    for name, value in draw_uniform(spec.space, seed=seed).items() if spec else ():
        parameter = CATALOG["toy"].parameter(name)
        assert parameter is not None
        assert value_fault(parameter, value) is None
        assert spec is not None
        assert spec.space[name].contains(value)


@settings(FUZZ, max_examples=500)
@given(document=rightly_shaped)
@example(document=VALID)
def test_a_spec_that_is_read_back_unchecked_is_the_one_that_was_checked(document: Any) -> None:
    spec = SweepSpec.model_validate(document)
    read_back = SweepSpec.trusted(json.loads(json.dumps(spec.canonical())))
    assert read_back == spec
    assert repr(read_back) == repr(spec), "1, 1.0 and True are equal, but not the same"
    assert read_back.canonical() == spec.canonical()
