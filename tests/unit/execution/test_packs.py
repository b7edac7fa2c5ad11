"""What a worker makes of the order that it is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweep_service.execution.packs import readable_checkpoint
from sweep_service.services.packs import LaneOrder
from trainables.checkpoint import Checkpoint
from trainables.protocol import Lane
from trainables.testing import tiny_problem
from trainables.training import train


def order(resume_from: Path | None) -> LaneOrder:
    return LaneOrder(
        trial_id="trl_1",
        balancer="gradnorm",
        params={},
        evaluate_test=False,
        checkpoint_dir="/nowhere",
        resume_from=str(resume_from) if resume_from else None,
    )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A real one, of a short training."""
    kept: list[Checkpoint] = []

    def keep(reports):
        kept.extend(report.checkpoint for report in reports if report.checkpoint is not None)
        return ()

    train(tiny_problem(), [Lane(key="a", balancer="gradnorm", params={"steps": 2})], keep)
    path = tmp_path / "step.pt"
    kept[-1].save(path)
    return path


def read(path: Path | None) -> tuple[Checkpoint | None, list[tuple[str, str]]]:
    notes: list[tuple[str, str]] = []
    return readable_checkpoint(order(path), lambda *note: notes.append(note)), notes


def test_a_trial_goes_on_from_its_checkpoint(checkpoint: Path) -> None:
    found, notes = read(checkpoint)
    assert found is not None
    assert (found.step, notes) == (2, [])


def test_a_trial_that_has_none_starts_without_a_word() -> None:
    assert read(None) == (None, [])


@pytest.mark.parametrize("damage", ["gone", "cut", "garbage", "a folder"])
def test_a_checkpoint_that_cannot_be_read_costs_the_steps_and_not_the_trial(checkpoint: Path, damage: str) -> None:
    content = checkpoint.read_bytes()
    checkpoint.unlink()
    if damage == "cut":
        checkpoint.write_bytes(content[: len(content) // 2])
    elif damage == "garbage":
        checkpoint.write_bytes(b"nothing")
    elif damage == "a folder":
        checkpoint.mkdir()
    found, notes = read(checkpoint)
    assert found is None
    ((trial_id, message),) = notes
    assert trial_id == "trl_1"
    assert "trains from its first step" in message
    assert str(checkpoint) in message
