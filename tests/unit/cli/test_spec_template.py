"""What `sweep init` writes for each problem that ships."""

from __future__ import annotations

import pytest

from sweep_service.domain.spec_check import check_spec
from sweep_service.spec_file import read_spec_file
from sweep_service.spec_template import spec_template
from trainables.catalog import builtin_trainables

CATALOG = {trainable.name: trainable for trainable in builtin_trainables()}


@pytest.mark.parametrize("name", CATALOG)
def test_the_template_of_a_trainable_is_a_right_spec(name: str) -> None:
    trainable = CATALOG[name]
    document = trainable.model_dump(mode="json") | {"metrics": list(trainable.metrics)}
    spec = check_spec(read_spec_file(spec_template(document)).document, CATALOG)
    assert spec.trainable == name
    assert spec.confirm is not None


@pytest.mark.parametrize("name", CATALOG)
def test_every_parameter_stands_in_it_and_any_line_can_be_brought_in(name: str) -> None:
    trainable = CATALOG[name]
    document = trainable.model_dump(mode="json") | {"metrics": list(trainable.metrics)}
    text = spec_template(document)
    for parameter in trainable.parameters:
        assert f" {parameter.name}: " in text
    params = {p.name for p in trainable.parameters} - {"alpha", "weight_lr"}
    lines = [
        line.replace("  # ", "  ", 1) if line.startswith("  # ") and ": " in line[:40] else line
        for line in text.splitlines()
    ]
    brought_in = [line for line in lines if "Can be searched" not in line]
    spec = check_spec(read_spec_file("\n".join(brought_in)).document, CATALOG)
    assert set(spec.params) == params


def test_words_that_yaml_would_take_for_something_else_are_quoted() -> None:
    trainable = CATALOG["digits"].model_dump(mode="json") | {"metrics": ["val/normalized_loss"], "name": "no"}
    assert read_spec_file(spec_template(trainable)).document["trainable"] == "no"


def test_what_must_be_given_is_marked_and_nothing_else_is() -> None:
    for trainable in CATALOG.values():
        text = spec_template(trainable.model_dump(mode="json") | {"metrics": list(trainable.metrics)})
        marked = {line.split(":")[0].strip() for line in text.splitlines() if "# TO FILL IN" in line}
        assert marked == {parameter.name for parameter in trainable.parameters if parameter.default is None}
        assert ("Lines that say TO FILL IN" in text) == bool(marked)


def test_it_names_the_parameters_that_each_task_may_have_for_itself() -> None:
    text = spec_template(CATALOG["digits"].model_dump(mode="json") | {"metrics": ["val/normalized_loss"]})
    assert "weight/digit (read by static); initial_loss/digit (read by gradnorm, inverse_initial_loss)" in text
    own_tasks = CATALOG["tabular"].model_dump(mode="json") | {"metrics": ["val/normalized_loss"]}
    assert "weight/TASK" in spec_template(own_tasks)
