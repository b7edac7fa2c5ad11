"""Test modules are imported by their bare names: of two with one name, the second is not run at all."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_two_modules_of_the_tests_have_one_name() -> None:
    names = Counter(path.name for path in TESTS.rglob("*.py") if path.name not in ("__init__.py", "conftest.py"))
    assert len(names) > 100
    assert [name for name, count in names.items() if count > 1] == []
