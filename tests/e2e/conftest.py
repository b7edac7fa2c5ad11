"""One whole stack for all end-to-end tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stack_control import RunningStack, end_stack, start_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = start_stack(tmp_path_factory.mktemp("stack"), "--cpus", "2", "--gpus", "2")
    try:
        yield running
    finally:
        left = end_stack(running)
    assert not left, f"processes outlived the stack: {left}"
