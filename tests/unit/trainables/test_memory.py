"""How much memory there is to be had."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainables import memory

CPU = torch.device("cpu")


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group whose limit is far below what the machine has."""
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 250\nfile 650\ninactive_anon 7\nactive_file 50\ninactive_file 600\n")
    return tmp_path


def test_files_that_were_read_a_while_ago_do_not_take_memory_from_anybody(container):
    assert memory.available_bytes(CPU) == 1000 - (900 - 600)


def test_a_container_that_is_full_has_nothing_and_never_more_than_its_limit(container):
    (container / "memory.stat").write_text("inactive_file 0\n")
    (container / "memory.current").write_text("1200\n")
    assert memory.available_bytes(CPU) == 0
    (container / "memory.stat").write_text("inactive_file 5000\n")
    assert memory.available_bytes(CPU) == 1000


def test_a_container_without_a_limit_leaves_what_the_machine_has(container):
    (container / "memory.max").write_text("max\n")
    available = memory.available_bytes(CPU)
    assert available is None or available > 1000
