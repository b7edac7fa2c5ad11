"""One whole stack for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from stack_control import RunningStack, end_stack, start_stack


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Where tests run in several processes, one of them gets all of these: one stack is enough for two cores."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("stack"))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = start_stack(tmp_path_factory.mktemp("stack"), "--cpus", "2", "--gpus", "2")
    try:
        yield running
    finally:
        left = end_stack(running)
    assert not left, f"processes outlived the stack: {left}"
