"""How many lanes at once are worth it, and what becomes of those that are too many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from grudging import Calls, Grudging, grudging_problem, seconds_of
from networks import NUM_FEATURES, WIDTH, model_of, problem_of
from packs import Reports, Told, alone, assert_reports_agree, lane
from torch import nn

from trainables.engine.lane import LaneTraining
from trainables.engine.lanes_that_pay import lanes_that_pay
from trainables.protocol import Lane, MultiTaskModel, Problem
from trainables.testing import tiny_problem
from trainables.training import train_together

LANES = [lane(f"{seed}", "famo" if seed == 1 else "equal", seed=seed, steps=4, report_every=2) for seed in range(5)]


class Heard(Told):
    """A reporter that also hears who is left out, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.left_out: list[tuple[int, Sequence[str]]] = []  # with the number of calls before it

    def leave_out(self, keys: Sequence[str]) -> None:
        self.left_out.append((len(self.calls), keys))


def heard_of(problem: Problem, lanes: Sequence[Lane] = LANES) -> Heard:
    heard = Heard()
    train_together(problem, lanes, heard, leave_out=heard.leave_out)
    return heard


def expected(lanes: Sequence[str]) -> dict[str, Reports]:
    return alone(grudging_problem(lambda num_lanes: None), [one for one in LANES if one.key in lanes])


def test_lanes_that_make_each_other_slower_are_left_out_which_is_told_once_before_anything_else():
    problem = grudging_problem(seconds_of(lambda num_lanes: 0.002 if num_lanes <= 2 else 0.03 * num_lanes))
    heard = heard_of(problem)
    assert heard.left_out == [(0, ["2", "3", "4"])]
    assert_reports_agree(heard.by_lane, expected("01"))
    left = [one for one in LANES if one.key in "234"]
    assert_reports_agree(alone(grudging_problem(lambda num_lanes: None), left), expected("234"))


def test_lanes_that_cost_nothing_more_are_all_taken_and_nobody_is_told():
    heard = heard_of(grudging_problem(seconds_of(lambda num_lanes: 0.03)), LANES[:4])
    assert heard.left_out == []
    assert_reports_agree(heard.by_lane, expected("0123"))


def test_lanes_that_do_not_fit_are_left_out():
    # The first pass of them all is that by which the lanes are looked at.
    heard = heard_of(grudging_problem(Calls(torch.OutOfMemoryError, most=2, at=2)))
    ((calls_before, keys),) = heard.left_out
    assert calls_before == 0
    assert set("234") <= set(keys)
    assert_reports_agree(heard.by_lane, expected(sorted(set("01234") - set(keys))))


def test_places_of_lanes_that_were_left_out_are_nobodys():
    asked = []

    def refill(free: int) -> list[Lane]:
        asked.append(free)
        return []

    problem = grudging_problem(seconds_of(lambda num_lanes: 0.002 if num_lanes <= 2 else 0.03 * num_lanes))
    lanes = [LANES[0], lane("short", "equal", steps=2, report_every=2), *LANES[2:]]
    train_together(problem, lanes, Told(), leave_out=lambda keys: None, refill=refill)
    assert asked == [1]


class Clock:
    """Stands still but for the passes through a layer, which take a time by the number of lanes."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self.now = 0.0
        self._seconds = seconds

    def __deepcopy__(self, memo: Any) -> Clock:
        return self

    def on_lanes(self, num_lanes: int) -> None:
        self.now += self._seconds(num_lanes)

    def read(self) -> float:
        return self.now


def lanes_that_pay_by(clock: Clock, num_lanes: int, lanes_of_memory: float | None = None) -> int:
    """By a clock, and where there is memory for the numbers that so many lanes keep besides their activations."""
    width = 200

    def build() -> MultiTaskModel:
        layers = nn.Sequential(nn.Linear(NUM_FEATURES, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        return model_of(nn.Sequential(layers, Grudging(clock.on_lanes)), nn.Linear(width, WIDTH))

    problem = problem_of(build).to(device=torch.device("cpu"), dtype=torch.float64)
    lanes = [LaneTraining(problem, lane(f"{seed}", seed=seed), torch.device("cpu")) for seed in range(num_lanes)]
    for one in lanes:
        one.draw_apart()
    # Values, gradients, two moments and what a step needs: six numbers in float64 for each that is trained.
    lane_bytes = 6 * 8 * sum(parameter.numel() for parameter in lanes[0].model.parameters())
    available = None if lanes_of_memory is None else int(lanes_of_memory * lane_bytes / 0.4)
    return lanes_that_pay(problem, lanes, (), available=lambda device: available, clock=clock.read)


@pytest.mark.parametrize(
    ("seconds", "most"),
    [
        (lambda num_lanes: 1.0, 7),
        (lambda num_lanes: num_lanes, 1),
        (lambda num_lanes: num_lanes**2, 1),
        (lambda num_lanes: 4 + num_lanes, 7),
        (lambda num_lanes: 1 if num_lanes <= 4 else num_lanes, 4),
        (lambda num_lanes: 1.0 + 0.9 * num_lanes if num_lanes <= 2 else 1.32 * num_lanes, 2),
    ],
)
def test_as_few_lanes_as_are_about_as_good_as_any_number_pay(seconds, most):
    assert lanes_that_pay_by(Clock(seconds), 7) == most


@pytest.mark.parametrize(("lanes_of_memory", "most"), [(0.0, 1), (2.9, 2), (None, 4), (1e6, 4)])
def test_a_pack_takes_less_than_half_of_the_memory_that_is_available(lanes_of_memory, most):
    assert lanes_that_pay_by(Clock(lambda num_lanes: 1.0), 4, lanes_of_memory) == most


def test_a_lane_alone_is_never_left_out():
    heard = Heard()
    train_together(tiny_problem(), LANES[:1], heard, leave_out=heard.leave_out)
    assert heard.left_out == []


def test_being_measured_changes_nothing_in_a_lane():
    problem = tiny_problem(num_tasks=3, dropout=0.3)
    heard = Heard()
    train_together(problem, LANES, heard, leave_out=heard.leave_out)
    assert "0" in heard.by_lane
    assert_reports_agree(heard.by_lane, alone(problem, [one for one in LANES if one.key in heard.by_lane]))
