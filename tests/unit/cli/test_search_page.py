"""The specs of docs/search.md are right ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from sweep_service.domain.spec_check import check_spec
from trainables.catalog import builtin_trainables

PAGE = Path(__file__).parents[3] / "docs" / "search.md"
SPECS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.M | re.S)]


@pytest.mark.parametrize("document", SPECS, ids=lambda document: document["name"])
def test_every_spec_of_the_page_is_taken(document: dict[str, object]) -> None:
    check_spec(document, {trainable.name: trainable for trainable in builtin_trainables()})


def test_the_page_has_specs_and_one_shows_a_condition_that_is_filled_in() -> None:
    assert [document["name"] for document in SPECS] == ["which-balancer", "from-known-points", "once-more"]
    spec = check_spec(SPECS[0], {trainable.name: trainable for trainable in builtin_trainables()})
    assert spec.space["weight_lr"].when == {"balancer": ("gradnorm",)}
