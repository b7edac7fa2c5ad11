"""What several modules of tests need."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_fakes import small_spec
from conductor_house import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, small_spec(budget={"trials": 3}, resources={"parallel": 1}))
