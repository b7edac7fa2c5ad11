"""Memory that is too small for many lanes, steps that fail, and lanes that go on all the same."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from grudging import Calls, grudging_problem
from packs import Told, alone, assert_reports_agree, lane, together

from trainables.protocol import Lane, LaneEnding, LaneReport
from trainables.testing import tiny_problem
from trainables.training import NotStackableError, PackMemoryError, train_together

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


@pytest.mark.parametrize("at", [1, 15])
def test_a_step_of_several_lanes_that_fails_is_nobodys_ending(at):
    problem = grudging_problem(Calls(lambda: ZeroDivisionError("a third is divided"), most=1, at=at))
    told = Told()
    with pytest.raises(NotStackableError, match="ZeroDivisionError: a third is divided"):
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
