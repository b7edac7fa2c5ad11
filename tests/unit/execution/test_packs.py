"""What a worker makes of the order that it is given."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweep_service.domain.states import TrialEnding
from sweep_service.execution.packs import readable_checkpoint, train_pack
from sweep_service.services.packs import Departure, LaneLines, LaneMessage, LaneOrder, PackOrder
from trainables.checkpoint import Checkpoint
from trainables.engine.lane_stack import LaneStack
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


def alone(lane: LaneOrder) -> PackOrder:
    return PackOrder(
        trainable="toy_regression",
        lanes=(lane,),
        places=1,
        is_settled=True,
        is_measured=False,
        num_threads=1,
        gpus=0,
    )


class Listening:
    """A link that keeps what it is told, in order, and gives out the trials that wait for free places."""

    def __init__(self, waiting: Sequence[LaneOrder] = ()) -> None:
        self.waiting = list(waiting)
        self.reported: list[LaneMessage] = []
        self.noted: list[tuple[str, str]] = []
        self.settled: list[tuple[int, str]] = []
        self.split_up: list[tuple[int, str, bool]] = []
        self.answers: dict[str, Departure] = {}  # to every report of these trials
        self.said: list[tuple[int, LaneLines]] = []  # with how many messages had come before

    def settle(self, places: int, reason: str) -> None:
        self.settled.append((places, reason))

    def refill(self, free: int) -> Sequence[LaneOrder]:
        given, self.waiting = self.waiting[:free], self.waiting[free:]
        return given

    def split(self, places: int, message: str, *, is_of_all: bool = True) -> None:
        self.split_up.append((places, message, is_of_all))

    def report(self, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        self.reported += messages
        return {one.trial_id: self.answers[one.trial_id] for one in messages if one.trial_id in self.answers}

    def note(self, trial_id: str, message: str) -> None:
        self.noted.append((trial_id, message))

    def log(self, said: Sequence[LaneLines]) -> bool:
        self.said += [(len(self.reported), lines) for lines in said]
        return True


def test_what_a_training_has_noticed_is_noted_on_its_trial(tmp_path: Path) -> None:
    # Both tasks differ in scale alone: that of scale 1 is drowned at first, and its weight climbs.
    params = {"rows": 200, "hidden": [8], "steps": 30, "report_every": 3, "weight_lr": 0.1, "lr": 1e-5}
    lane = replace(order(None), params=params, checkpoint_dir=str(tmp_path))
    link = Listening()
    train_pack(alone(lane), link)
    assert link.reported[-1].ending is TrialEnding.COMPLETED
    stuck = [message.step for message in link.reported if message.metrics["stuck/f1"]]
    ((trial_id, message),) = link.noted
    assert trial_id == "trl_1"
    assert message.startswith(f"Step {stuck[0]}: task 'f1' is stuck: its weight rose from ")
    assert message.endswith(").")


def pack_of(lanes: Sequence[LaneOrder], trainable: str, **changes: Any) -> PackOrder:
    order = replace(alone(lanes[0]), trainable=trainable, lanes=tuple(lanes), places=3, is_settled=False)
    return replace(order, **changes)


def toy_lane(folder: Path, number: int) -> LaneOrder:
    params = {"rows": 200, "hidden": [8], "steps": 6, "report_every": 3, "alpha": 0.5 * number}
    return replace(order(None), trial_id=f"trl_{number}", params=params, checkpoint_dir=str(folder / f"{number}"))


def test_a_pack_finds_out_that_its_kind_can_be_trained_together_and_fills_its_places(tmp_path: Path) -> None:
    lanes = [toy_lane(tmp_path, number) for number in range(4)]
    link = Listening(lanes[1:])
    train_pack(pack_of(lanes[:1], "toy_regression"), link)
    assert link.settled == [(3, "")]
    ended = [message.trial_id for message in link.reported if message.ending is TrialEnding.COMPLETED]
    assert ended == ["trl_0", "trl_1", "trl_2"], "they end together, and nobody is let into an empty pack"
    assert [lane.trial_id for lane in link.waiting] == ["trl_3"]
    assert all((tmp_path / f"{number}" / "step-00000006.pt").is_file() for number in range(3))


def test_what_is_known_is_not_found_out_again(tmp_path: Path) -> None:
    lanes = [toy_lane(tmp_path, number) for number in range(3)]
    link = Listening()
    train_pack(pack_of(lanes, "toy_regression", is_settled=True), link)
    assert link.settled == []
    assert {message.trial_id for message in link.reported} == {"trl_0", "trl_1", "trl_2"}


def test_trials_that_differ_in_their_share_of_dropout_each_have_their_own(tmp_path: Path) -> None:
    lanes = [
        replace(
            order(None),
            trial_id=f"trl_{share}",
            params={"hidden": [16, 8], "dropout": share, "steps": 30, "report_every": 30, "lr": 0.01},
            checkpoint_dir=str(tmp_path / f"{share}"),
        )
        for share in (0.1, 0.4, 0.8)
    ]

    def losses(lanes: Sequence[LaneOrder], waiting: Sequence[LaneOrder] = ()) -> dict[str, float]:
        link = Listening(waiting)
        train_pack(pack_of(lanes, "digits", is_settled=True, places=len(lanes) + len(waiting)), link)
        return {message.trial_id: message.metrics["val/normalized_loss"] for message in link.reported}

    apart = {key: loss for lane in lanes for key, loss in losses([lane]).items()}
    assert len({round(loss, 3) for loss in apart.values()}) == 3, "it matters"
    assert losses(lanes) == pytest.approx(apart, rel=1e-3)
    assert losses(lanes[:1], waiting=lanes[1:]) == pytest.approx(apart, rel=1e-3)


class Talking(Listening):
    """One in whose place the lanes' code says something at each report."""

    def report(self, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        sys.stdout.write("at work\n")
        return super().report(messages)


@pytest.mark.parametrize("num_lanes", [1, 2])
def test_a_lane_that_is_to_rest_leaves_a_checkpoint_and_goes_on_from_it(tmp_path: Path, num_lanes: int) -> None:
    lanes = [toy_lane(tmp_path, number) for number in range(num_lanes)]
    link = Talking()
    link.answers = {"trl_0": Departure.RESTS}
    train_pack(pack_of(lanes, "toy_regression", is_settled=True, places=num_lanes), link)
    at_work, last = (one for one in link.reported if one.trial_id == "trl_0")
    assert (at_work.step, at_work.rests) == (3, False)
    assert (last.step, last.ending, last.rests, last.metrics) == (3, None, True, {})
    path = last.checkpoint or at_work.checkpoint
    assert path is not None
    assert [file.name for file in (tmp_path / "0").iterdir()] == ["step-00000003.pt"]
    assert any(lines.trial_id == "trl_0" for before, lines in link.said if before <= link.reported.index(last))
    assert all(one.ending is TrialEnding.COMPLETED for one in link.reported[-1:]) == (num_lanes > 1)
    again = Listening()
    train_pack(pack_of([replace(lanes[0], resume_from=path)], "toy_regression", is_settled=True), again)
    assert [(one.step, one.ending) for one in again.reported] == [(6, TrialEnding.COMPLETED)]


def test_a_lane_whose_trial_has_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    link = Listening()
    link.answers = {"trl_0": Departure.ENDED}
    lane = toy_lane(tmp_path, 0)
    seldom = replace(lane, params={**lane.params, "checkpoint_every": 6})
    train_pack(pack_of([seldom], "toy_regression", is_settled=True, places=1), link)
    assert [(one.step, one.rests, one.checkpoint) for one in link.reported] == [(3, False, None)] * 2
    assert not (tmp_path / "0").exists()


def test_a_step_that_fails_in_company_halves_the_pack_and_nobody_elses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stack: LaneStack, num_steps: int) -> None:
        raise ZeroDivisionError("of one of them")

    monkeypatch.setattr(LaneStack, "advance", fail)
    link = Listening()
    train_pack(pack_of([toy_lane(tmp_path, number) for number in range(4)], "toy_regression", is_settled=True), link)
    assert link.split_up == [(2, "a step of 4 lanes failed: ZeroDivisionError: of one of them", False)]
    assert link.reported == []


@pytest.mark.slow
def test_a_pack_that_memory_does_not_hold_is_split_up() -> None:
    """In a process of its own, which may take some more memory than torch has taken and no more."""
    script = Path(__file__).with_name("pack_without_memory.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    split_up, ended = json.loads(done.stdout.splitlines()[-1])
    ((places, message, is_of_all),) = split_up
    assert (places, is_of_all) == (32, True)
    assert message.startswith("64 lanes do not fit into the memory")
    assert ended == [], "nobody has ended by it"
