"""Packs whose checkpoints are in a bucket, behind real HTTP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bucket_server import bucket_server, reach
from test_packs import Listening, alone, checkpoint, order

from sweep_service.checkpoint_files.bucket import BucketFiles
from sweep_service.execution.packs import readable_checkpoint, train_pack
from trainables.checkpoint import Checkpoint

__all__ = ["checkpoint"]  # a fixture


def test_a_bucket_that_does_not_answer_is_waited_for_and_costs_no_step(checkpoint: Path, monkeypatch) -> None:
    with bucket_server() as server:
        reach(server, monkeypatch)
        stored = f"s3://{server.bucket}/swp/trl_1/att_1/step.pt"
        BucketFiles().save(Checkpoint.load(checkpoint), stored)
        server.stop()
        notes: list[tuple[str, str]] = []
        pauses = iter([lambda: None, server.start])
        found = readable_checkpoint(
            replace(order(None), resume_from=stored), lambda *note: notes.append(note), lambda _: next(pauses)()
        )
    assert found is not None
    assert found.step == 2
    assert [trial_id for trial_id, _ in notes] == ["trl_1"] * 2, "once before, and once after"
    assert "Its pack waits, for the object store" in notes[0][1]
    assert "Its pack goes on" in notes[1][1]


def test_a_pack_leaves_its_checkpoints_in_a_bucket_and_the_last_alone(monkeypatch) -> None:
    with bucket_server() as server:
        reach(server, monkeypatch)
        params = {"rows": 200, "hidden": [8], "steps": 6, "report_every": 2, "checkpoint_every": 2}
        folder = f"s3://{server.bucket}/swp/trl_1/att_1"
        link = Listening()
        train_pack(alone(replace(order(None), params=params, checkpoint_dir=folder)), link)
        named = [message.checkpoint for message in link.reported if message.checkpoint]
        assert named == [f"{folder}/step-{step:08d}.pt" for step in (2, 4, 6)]
        assert server.names() == ["swp/trl_1/att_1/step-00000006.pt"]
