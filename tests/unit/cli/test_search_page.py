"""The specs of docs/search.md are right ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sweep_service.domain.shares import search_quotas
from sweep_service.domain.spec_check import check_spec
from sweep_service.spec_file import read_spec_file
from trainables.catalog import builtin_trainables

PAGE = Path(__file__).parents[3] / "docs" / "search.md"
SPECS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.M | re.S)]


@pytest.mark.parametrize("document", SPECS, ids=lambda document: document["name"])
def test_every_spec_of_the_page_is_taken(document: dict[str, object]) -> None:
    check_spec(document, {trainable.name: trainable for trainable in builtin_trainables()})


def test_the_examples_that_ship_are_taken_and_their_shares_are_those_that_they_tell() -> None:
    catalog = {trainable.name: trainable for trainable in builtin_trainables()}
    folder = Path(__file__).parents[3] / "sweep_service" / "examples"
    specs = {
        path.name: check_spec(read_spec_file(path.read_text()).document, catalog) for path in folder.glob("*.yaml")
    }
    assert specs.keys() == {"census.yaml", "census-balancers.yaml"}
    assert list(search_quotas(specs["census-balancers.yaml"]).values()) == [12, 8, 8, 12, 4]


def test_the_page_has_specs_and_one_shows_a_condition_that_is_filled_in() -> None:
    assert [document["name"] for document in SPECS] == [
        "which-balancer",
        "with-conditions",
        "from-known-points",
        "once-more",
    ]
    spec = check_spec(SPECS[0], {trainable.name: trainable for trainable in builtin_trainables()})
    assert spec.space["weight_lr"].when == {"balancer": ("gradnorm",)}


def test_the_shares_that_the_page_tells_are_those_that_come_out() -> None:
    spec = check_spec(SPECS[0], {trainable.name: trainable for trainable in builtin_trainables()})
    told = re.findall(r"^\| `(\w+)` \| .* \| (\d+) \|$", PAGE.read_text(), re.M)
    assert {name: int(trials) for name, trials in told} == search_quotas(spec)
