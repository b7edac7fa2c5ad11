"""How many lanes at once are possible and worth it: found out with lanes made for it, before anything is trained."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from grudging import Calls, Grudging, grudging_problem, seconds_of
from networks import NUM_FEATURES, WIDTH, model_of, problem_of, smooth_trunk
from packs import Told, alone, assert_reports_agree, lane
from torch import nn
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.engine.lanes_at_once import find_lanes_at_once
from trainables.protocol import Lane, MultiTaskModel, Problem, Task
from trainables.testing import tiny_problem
from trainables.training import NotStackableError, lanes_at_once, train_together

LANE = lane("a", "equal", steps=4, report_every=2)


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


def paying(seconds: Callable[[int], float], most: int, lanes_of_memory: float | None = None) -> int:
    """By such a clock, and where there is memory for the numbers that so many lanes keep besides their activations."""
    width, clock = 200, Clock(seconds)

    def build() -> MultiTaskModel:
        layers = nn.Sequential(nn.Linear(NUM_FEATURES, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh())
        return model_of(nn.Sequential(layers, Grudging(clock.on_lanes)), nn.Linear(width, WIDTH))

    # Values, gradients, two moments and what a step needs: six numbers in float64 for each that is trained.
    lane_bytes = 6 * 8 * sum(parameter.numel() for parameter in build().parameters())
    available = None if lanes_of_memory is None else int(lanes_of_memory * lane_bytes / 0.4)
    return find_lanes_at_once(
        problem_of(build),
        LANE,
        most=most,
        is_measured=True,
        device=torch.device("cpu"),
        available=lambda device: available,
        clock=clock.read,
    )


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
def test_as_few_lanes_as_are_about_as_good_as_any_number_are_worth_it(seconds, most):
    assert paying(seconds, 7) == most


def test_when_more_lanes_were_no_better_twice_no_more_are_tried():
    tried = []

    def seconds(num_lanes: int) -> float:
        tried.append(num_lanes)
        return float(num_lanes)

    assert paying(seconds, 100) == 1
    assert max(tried) == 4


def test_short_steps_are_measured_until_one_was_left_alone():
    times = Counter()

    def seconds(num_lanes: int) -> float:
        times[num_lanes] += 1
        undisturbed = 0.002 * (1 + 0.3 * (num_lanes - 1))
        return undisturbed * (2 if num_lanes == 4 and times[num_lanes] <= 5 else 1)

    assert paying(seconds, 4) == 4


@pytest.mark.parametrize(("lanes_of_memory", "most"), [(0.0, 1), (2.9, 2), (None, 4), (1e6, 4)])
def test_a_pack_takes_less_than_half_of_the_memory_that_is_available(lanes_of_memory, most):
    assert paying(lambda num_lanes: 1.0, 4, lanes_of_memory) == most


def most_by_memory(problem: Problem, one: Lane, available: float) -> int:
    """Of 8 lanes, a step of which takes as long as of one."""
    ticks = itertools.count()
    return find_lanes_at_once(
        problem,
        one,
        most=8,
        is_measured=True,
        device=torch.device("cpu"),
        available=lambda device: int(available),
        clock=lambda: next(ticks),
    )


def with_constants(num_frozen: int, num_buffered: int) -> MultiTaskModel:
    """Numbers that no task reaches, and that a stack keeps beside each lane's own."""
    trunk = smooth_trunk()
    trunk.register_parameter("frozen", nn.Parameter(torch.zeros(num_frozen), requires_grad=False))
    trunk.register_buffer("buffered", torch.zeros(num_buffered))
    return model_of(trunk)


@pytest.mark.parametrize(("frozen", "buffered"), [(100_000, 0), (0, 100_000), (50_000, 50_000)])
def test_what_is_not_trained_takes_memory_in_each_lane_and_in_the_stack(frozen, buffered):
    problem = problem_of(lambda: with_constants(frozen, buffered))
    assert most_by_memory(problem, LANE, 2.5 * 2 * 8 * 100_000 / 0.4) == 2


@pytest.mark.parametrize(("balancer", "copies"), [("equal", 1), ("gradnorm", 1), ("pcgrad", 2)])
def test_every_tasks_gradient_at_the_shared_layer_takes_memory_and_twice_where_they_are_joined(balancer, copies):
    tasks = [Task(name=f"{i}", kind=TaskKind.REGRESSION, loss=functional.mse_loss) for i in range(50)]
    width = 80

    def build() -> MultiTaskModel:
        heads = {task.name: nn.Linear(width, 2) for task in tasks}
        return model_of(nn.Linear(NUM_FEATURES, width), nn.Linear(width, width), heads)

    one = lane("a", balancer, steps=4, report_every=2)
    rows = copies * len(tasks) * (width * width + width) * 8
    assert most_by_memory(problem_of(build, tasks), one, 2 * rows / 0.4) == 1
    assert most_by_memory(problem_of(build, tasks), one, 4 * rows / 0.4) in (2, 3)


def test_what_is_not_measured_is_taken_as_it_is_wished():
    problem = grudging_problem(seconds_of(lambda num_lanes: 0.001 * num_lanes**2))
    assert lanes_at_once(problem, LANE, most=12, is_measured=False) == 12


def test_more_lanes_than_fit_are_not_tried_again():
    problem = grudging_problem(Calls(torch.OutOfMemoryError, most=2))
    assert lanes_at_once(problem, LANE, most=5, is_measured=True) in (1, 2)


@pytest.mark.parametrize("is_measured", [True, False])
def test_a_network_that_cannot_be_stacked_is_refused_whatever_is_asked(is_measured):
    def build() -> MultiTaskModel:
        return model_of(nn.Sequential(smooth_trunk(), nn.BatchNorm1d(WIDTH)))

    with pytest.raises(NotStackableError, match="running"):
        lanes_at_once(problem_of(build), LANE, most=4, is_measured=is_measured)
    assert lanes_at_once(problem_of(build), LANE, most=1, is_measured=is_measured) == 1


def test_finding_out_changes_nothing_of_what_is_trained_then():
    problem = tiny_problem(dropout=0.3)
    one = lane("a", "gradnorm", steps=6, report_every=3)
    expected = alone(problem, [one])
    states = random.getstate(), repr(np.random.get_state(legacy=False)), torch.get_rng_state()
    lanes_at_once(problem, one, most=4, is_measured=True)
    assert random.getstate() == states[0]
    assert repr(np.random.get_state(legacy=False)) == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert_reports_agree(alone(problem, [one]), expected)


def test_a_pack_begins_with_one_lane_and_fills_its_places():
    problem = tiny_problem()
    lanes = [lane(f"{seed}", "equal", seed=seed, steps=4, report_every=2) for seed in range(5)]
    waiting, asked = lanes[1:], []

    def refill(free: int) -> list[Lane]:
        asked.append(free)
        given = waiting[:free]
        del waiting[:free]
        return given

    told = Told()
    train_together(problem, lanes[:1], told, places=3, refill=refill)
    assert asked[0] == 2
    assert_reports_agree(told.by_lane, alone(problem, [one for one in lanes if one.key in told.by_lane]))
    assert set(told.by_lane) >= {"0", "1", "2"}
