"""What a spec may say of several objectives, and of GPU-hours."""

from __future__ import annotations

from typing import Any

import pytest
from spec_documents import CATALOG, VALID, changed, without

from sweep_service.domain.errors import InvalidSpecError
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec

BOTH: list[dict[str, Any]] = [{"metric": "val/loss/weeks"}, {"metric": "val/auc/income", "direction": "maximize"}]


def several(*changes: tuple[str, Any]) -> dict[str, Any]:
    """The valid spec with two objectives and no early stopping, and with those changes."""
    return changed(("/objectives", [dict(one) for one in BOTH]), ("/early_stopping", None), *changes)


def found(document: dict[str, Any]) -> list[tuple[str, str]]:
    with pytest.raises(InvalidSpecError) as raised:
        check_spec(document, CATALOG)
    return [(finding.pointer, finding.code) for finding in raised.value.findings]


def test_objectives_are_taken_beside_the_one_that_picks_a_trial() -> None:
    spec = check_spec(several(), CATALOG)
    assert [(one.metric, one.direction) for one in spec.objectives] == [
        ("val/loss/weeks", "minimize"),
        ("val/auc/income", "maximize"),
    ]
    assert (spec.objective.metric, spec.objective.direction) == ("val/normalized_loss", "minimize")
    assert SweepSpec.model_validate(spec.canonical()) == SweepSpec.trusted(spec.canonical()) == spec


def test_a_spec_that_was_stored_before_there_were_objectives_has_none() -> None:
    old = check_spec(VALID, CATALOG).canonical()
    del old["objectives"]
    assert SweepSpec.trusted(old).objectives == ()


@pytest.mark.parametrize(
    ("objectives", "pointer", "code"),
    [
        (BOTH[:1], "", "invalid_value"),
        ([{"metric": "val/loss/weeks"}] * 6, "", "too_long"),
        ("val/loss/weeks", "", "not_a_list"),
        (None, "", "not_a_list"),
        ([BOTH[0], "val/auc/income"], "/1", "not_an_object"),
        ([BOTH[0], {"direction": "maximize"}], "/1/metric", "missing"),
        ([BOTH[0], {"metric": "val/auc/weeks", "direction": "maximize"}], "/1/metric", "unknown_metric"),
        ([BOTH[0], {"metric": "val/auc/income"}], "/1/direction", "missing"),
        ([BOTH[0], {"metric": "val/auc/income", "direction": "up"}], "/1/direction", "literal_error"),
        ([BOTH[0], {**BOTH[1], "weight": 2}], "/1/weight", "unknown_key"),
        ([*BOTH, BOTH[1]], "/2/metric", "duplicate"),
    ],
    ids=repr,
)
def test_objectives_that_cannot_be_driven_are_told_at_their_field(objectives: Any, pointer: str, code: str) -> None:
    assert found(several(("/objectives", objectives))) == [("/objectives" + pointer, code)]


def test_no_objectives_are_a_spec_of_one() -> None:
    assert check_spec(changed(("/objectives", [])), CATALOG).objectives == ()


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random", "qmc"])
def test_several_objectives_are_for_every_sampler_but_cmaes(sampler: str) -> None:
    assert check_spec(several(("/search/sampler", sampler)), CATALOG).search.sampler == sampler
    cmaes = several(("/search/sampler", "cmaes"))
    del cmaes["space"]["seed"]
    assert found(cmaes) == [("/search/sampler", "not_for_objectives")]


@pytest.mark.parametrize("early_stopping", [{}, {"pruner": "median"}, {"pruner": "asha", "min_steps": 5}])
def test_no_pruner_goes_with_several_objectives(early_stopping: dict[str, Any]) -> None:
    assert found(several(("/early_stopping", early_stopping))) == [("/early_stopping", "not_for_objectives")]
    assert check_spec(several(("/early_stopping", {"pruner": "none"})), CATALOG)


def test_gpu_hours_are_bounded_for_sweeps_that_use_gpus() -> None:
    assert check_spec(changed(("/budget/gpu_hours", 0.25)), CATALOG).budget.gpu_hours == 0.25
    without_gpus = [changed(("/budget/gpu_hours", 1), ("/resources/gpus", 0)), without("/resources")]
    without_gpus[1]["budget"]["gpu_hours"] = 1
    for document in without_gpus:
        assert found(document) == [("/budget/gpu_hours", "never_reached")]


@pytest.mark.parametrize("hours", [0, -1.0])
def test_gpu_hours_are_above_nothing(hours: float) -> None:
    assert found(changed(("/budget/gpu_hours", hours))) == [("/budget/gpu_hours", "greater_than")]


def test_nothing_is_said_of_gpu_hours_while_it_is_open_how_many_gpus_there_are() -> None:
    assert found(changed(("/budget/gpu_hours", 1), ("/resources/gpus", -1))) == [
        ("/resources/gpus", "greater_than_equal")
    ]


@pytest.mark.parametrize("share", [0.0001, 0.3, 0.3333, 0.1 + 0.2, 1, 1.5, 1024, 1023.9999])
def test_a_part_of_a_cpu_is_any_number_of_its_smallest_parts(share: float) -> None:
    assert check_spec(changed(("/resources/cpus", share)), CATALOG).resources.cpus == share
