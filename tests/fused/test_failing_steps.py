"""Memory that is too small for many lanes, steps that fail, and lanes that go on all the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from grudging import Calls, grudging_problem
from networks import model_of, problem_of, smooth_trunk
from packs import Told, alone, assert_reports_agree, lane, together
from torch import Tensor, nn

from trainables.engine import fused
from trainables.engine.lane import LaneTraining
from trainables.engine.lane_stack import LaneStack
from trainables.problems.tabular import InMemoryProblem
from trainables.protocol import Lane, LaneEnding, LaneReport, MultiTaskModel, Problem
from trainables.testing import tiny_problem
from trainables.training import FailedTogetherError, NotStackableError, PackMemoryError, train_together

BALANCERS = ("gradnorm", "equal", "rlw", "famo")
LANES = [lane(f"{i}", name, seed=i, steps=30, checkpoint_every=10) for i, name in enumerate(BALANCERS)]
BEFORE_A_STEP = 1  # passes forward: the lanes are looked at before they are trained


def no_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 TiB")


def no_memory_of_the_host() -> Exception:
    return RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 TB")


def going_on(lanes: list[Lane], told: Told) -> list[Lane]:
    last = {key: [one.checkpoint for one in reports if one.checkpoint][-1] for key, reports in told.by_lane.items()}
    return [replace(one, resume_from=last.get(one.key)) for one in lanes]


def joined(*parts: dict[str, list[LaneReport]]) -> dict[str, list[LaneReport]]:
    reports: dict[str, list[LaneReport]] = {}
    for part in parts:
        for key, more in part.items():
            reports.setdefault(key, []).extend(more)
    return reports


@pytest.mark.parametrize("error", [no_memory, no_memory_of_the_host])
@pytest.mark.parametrize("steps_before", [0, 1, 23])
def test_lanes_that_do_not_fit_go_on_in_halves_from_their_last_checkpoints(error, steps_before):
    at = steps_before + BEFORE_A_STEP if steps_before else 1
    # The lane that looks back goes through the network once more, alone.
    problem = grudging_problem(Calls(error, most=2, at=at))
    told = Told()
    with pytest.raises(PackMemoryError, match="4 lanes do not fit into the memory"):
        train_together(problem, LANES, told)
    assert [one.step for one in told.by_lane.get("0", [])] == ([10, 20] if steps_before == 23 else [])
    assert all(one.ending is None for call in told.calls for one in call)
    rest = going_on(LANES, told)
    halves = [together(problem, rest[:2]), together(problem, rest[2:])]
    assert_reports_agree(joined(told.by_lane, *halves), alone(grudging_problem(lambda num_lanes: None), LANES))


def test_memory_that_is_too_small_for_a_single_lane_is_how_it_ends():
    problem = tiny_problem(fault="out_of_memory", fault_at=2 + 15)
    reports = together(problem, [lane("a", "equal")])["a"]
    assert [(one.step, one.ending) for one in reports] == [(10, None), (14, LaneEnding.OUT_OF_MEMORY)]
    assert "out of memory at step 14" in reports[-1].message


def test_lanes_that_do_not_fit_beside_those_that_are_there_end_the_pack():
    problem = grudging_problem(Calls(no_memory, most=3))
    lanes = [*LANES[:2], replace(LANES[2], params={**LANES[2].params, "steps": 10})]
    told = Told()
    with pytest.raises(PackMemoryError, match="4 lanes"):
        train_together(problem, lanes, told, refill=lambda free: [LANES[3], lane("more", seed=9)])
    assert told.by_lane["2"][-1].ending is LaneEnding.COMPLETED
    assert {key: one[-1].ending for key, one in told.by_lane.items() if key != "2"} == {"0": None, "1": None}


@pytest.mark.parametrize(("at", "raised"), [(1, NotStackableError), (15, FailedTogetherError)])
def test_a_step_of_several_lanes_that_fails_is_nobodys_ending(at, raised):
    problem = grudging_problem(Calls(lambda: ZeroDivisionError("a third is divided"), most=1, at=at))
    told = Told()
    with pytest.raises(raised, match="ZeroDivisionError: a third is divided"):
        train_together(problem, LANES, told)
    assert all(one.ending is None for call in told.calls for one in call)
    assert_reports_agree(joined(told.by_lane, alone(problem, going_on(LANES, told))), alone(problem, LANES))


def test_a_step_of_a_single_lane_that_fails_is_its_ending_as_it_is_in_training_alone():
    # Looked at alone, then in the stack: two calls before the first step.
    found = together(tiny_problem(fault="crash", fault_at=18), [lane("a", "equal")])["a"]
    expected = alone(tiny_problem(fault="crash", fault_at=16), [lane("a", "equal")])["a"]
    assert [(one.step, one.ending, one.message) for one in found] == [
        (10, None, ""),
        (15, LaneEnding.ERROR, "ZeroDivisionError: the loss of a test divides by zero"),
    ]
    assert_reports_agree({"a": found}, {"a": expected})
    assert "trainables/testing.py" in found[-1].traceback


def test_a_first_step_that_fails_for_a_single_lane_is_its_ending():
    (only,) = together(tiny_problem(fault="crash"), [lane("a")])["a"]
    assert (only.step, only.ending) == (0, LaneEnding.ERROR)


def test_the_last_lane_of_a_pack_that_fails_ends_by_itself():
    lanes = [lane("a", "equal", steps=10), lane("b", "equal", seed=2)]
    # A call for each lane alone, one for both, ten steps of both: the loss is called once for all.
    told = together(tiny_problem(fault="crash", fault_at=2 + 1 + 10 + 7), lanes)
    assert told["a"][-1].ending is LaneEnding.COMPLETED
    assert [(one.step, one.ending) for one in told["b"]] == [(10, None), (16, LaneEnding.ERROR)]


class Evaluated(nn.Module):
    """Raises from some evaluation of any lane on, and is well in training."""

    def __init__(self, error: Callable[[], Exception], at: int) -> None:
        super().__init__()
        self.calls = Calls(error, most=0, at=at)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.calls(1)
        return x


def evaluated_problem(error: Callable[[], Exception], *, at: int) -> InMemoryProblem:
    layer = Evaluated(error, at)  # one for all lanes
    return problem_of(lambda: model_of(nn.Sequential(smooth_trunk(), layer)))


@pytest.mark.parametrize("at", [1, 2, 6])
def test_memory_that_runs_out_in_an_evaluation_of_several_lanes_ends_the_pack_and_nobody_in_it(at):
    told = Told()
    with pytest.raises(PackMemoryError, match="4 lanes do not fit into the memory"):
        train_together(evaluated_problem(no_memory, at=at), LANES, told)
    assert [len(call) for call in told.calls] == [4] * ((at - 1) // 4)
    assert all(one.ending is None for call in told.calls for one in call)


def test_memory_that_runs_out_in_an_evaluation_of_a_single_lane_is_its_ending():
    reports = together(evaluated_problem(no_memory, at=2), LANES[:1])["0"]
    assert [(one.step, one.ending) for one in reports] == [(10, None), (20, LaneEnding.OUT_OF_MEMORY)]


def test_an_evaluation_that_fails_is_the_ending_of_its_lane_alone():
    reports = together(evaluated_problem(lambda: ZeroDivisionError("no"), at=12), LANES)
    endings = [one[-1].ending for one in reports.values()]
    assert endings == [LaneEnding.COMPLETED] * 3 + [LaneEnding.ERROR]


def test_memory_that_runs_out_when_a_lane_is_built_ends_the_pack_by_the_number_of_its_lanes():
    calls = Calls(no_memory, most=0, at=3)

    def build() -> MultiTaskModel:
        calls(1)
        return model_of()

    with pytest.raises(PackMemoryError, match=r"^4 lanes"):
        train_together(problem_of(build), LANES, Told())


class Immovable(InMemoryProblem):
    """Cannot be moved to any device."""

    def to(self, *, device: torch.device, dtype: torch.dtype) -> InMemoryProblem:
        raise self.error

    error: Exception = ZeroDivisionError("a share of no rows")


class TooLarge(Immovable):
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 64.00 TiB")


def made(kind: type[InMemoryProblem]) -> InMemoryProblem:
    return kind(**vars(tiny_problem()))


def test_data_that_cannot_be_moved_are_the_ending_of_every_lane_as_they_are_in_training_alone():
    found, expected = together(made(Immovable), LANES), alone(made(Immovable), LANES)
    assert_reports_agree(found, expected)
    assert {one[-1].message for one in found.values()} == {"ZeroDivisionError: a share of no rows"}


def test_data_that_do_not_fit_end_a_pack_of_several_lanes_and_are_the_ending_of_a_single_one():
    told = Told()
    with pytest.raises(PackMemoryError, match="4 lanes do not fit"):
        train_together(made(TooLarge), LANES, told)
    assert told.calls == []
    (only,) = together(made(TooLarge), LANES[:1])["0"]
    assert (only.step, only.ending) == (0, LaneEnding.OUT_OF_MEMORY)


@dataclass
class Alive:
    """What of a pack is still held, by what was told when it was made."""

    models: list[weakref.ref[nn.Module]] = field(default_factory=list)
    stacks: list[weakref.ref[LaneStack]] = field(default_factory=list)

    def counted(self) -> tuple[int, int]:
        return sum(ref() is not None for ref in self.models), sum(ref() is not None for ref in self.stacks)


def test_who_has_left_and_the_stack_that_they_were_in_are_gone_before_others_are_built(monkeypatch):
    alive, seen = Alive(), []

    class Watched(LaneStack):
        def __init__(self, problem: Problem, lanes: Sequence[LaneTraining], **options: Any) -> None:
            seen.append(("stack", *alive.counted()))
            super().__init__(problem, lanes, **options)
            alive.stacks.append(weakref.ref(self))

    def build() -> MultiTaskModel:
        seen.append(("lane", *alive.counted()))
        model = model_of()
        alive.models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(fused, "LaneStack", Watched)
    params = {"report_every": 10, "checkpoint_every": 40}
    coming = [[], [], [lane("d", "equal", steps=10, **params)]]  # before the first step, where b leaves, where c leaves
    together(
        problem_of(build),
        [
            lane("a", "equal", steps=40, **params),
            lane("b", "equal", steps=10, **params),
            lane("c", "equal", steps=20, **params),
        ],
        refill=lambda free: coming.pop(0) if coming else [],
        places=4,
    )
    # Three are built, and stepped; without b; d is built beside a alone, and stepped with it; a alone.
    assert seen == [
        *[("lane", 0, 0), ("lane", 1, 0), ("lane", 2, 0), ("stack", 3, 0)],
        ("stack", 2, 0),
        *[("lane", 1, 0), ("stack", 2, 0)],
        ("stack", 1, 0),
    ]


def test_the_stack_is_gone_before_lanes_come_in_for_whom_nobody_had_to_leave(monkeypatch):
    alive, seen = Alive(), []

    class Watched(LaneStack):
        def __init__(self, problem: Problem, lanes: Sequence[LaneTraining], **options: Any) -> None:
            super().__init__(problem, lanes, **options)
            alive.stacks.append(weakref.ref(self))

    def build() -> MultiTaskModel:
        seen.append(alive.counted()[1])
        return model_of()

    monkeypatch.setattr(fused, "LaneStack", Watched)
    coming = [[], [lane("b", "equal", steps=10)]]
    together(
        problem_of(build), [lane("a", "equal", steps=20)], refill=lambda free: coming.pop(0) if coming else [], places=2
    )
    assert seen == [0, 0]
    assert len(alive.stacks) == 2
