"""How many lanes at once are possible and worth it: found out with lanes made for it, before anything is trained."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from grudging import Calls, grudging_problem, seconds_of
from networks import WIDTH, model_of, problem_of, smooth_trunk
from packs import Told, alone, assert_reports_agree, lane
from torch import nn

from trainables.engine.lanes_at_once import find_lanes_at_once
from trainables.protocol import Lane, MultiTaskModel
from trainables.testing import tiny_problem
from trainables.training import NotStackableError, lanes_at_once, train_together

LANE = lane("a", "equal", steps=4, report_every=2)


def paying(problem, most=5):
    return lanes_at_once(problem, LANE, most=most, is_measured=True)


def test_lanes_that_make_each_other_slower_are_not_worth_it():
    problem = grudging_problem(seconds_of(lambda num_lanes: 0.002 if num_lanes <= 2 else 0.02 * num_lanes))
    assert paying(problem) == 2


def test_lanes_that_cost_nothing_more_are_all_worth_it_and_any_number_may_be_asked_for():
    problem = grudging_problem(seconds_of(lambda num_lanes: 0.01))
    assert [paying(problem, most) for most in (1, 2, 5, 7)] == [1, 2, 5, 7]


def test_lanes_that_only_cost_are_trained_one_by_one():
    assert paying(grudging_problem(seconds_of(lambda num_lanes: 0.01 * num_lanes**2)), 8) == 1


def test_what_is_not_measured_is_taken_as_it_is_wished():
    problem = grudging_problem(seconds_of(lambda num_lanes: 0.01 * num_lanes))
    assert lanes_at_once(problem, LANE, most=12, is_measured=False) == 12


def test_more_lanes_than_fit_are_not_tried_again():
    assert paying(grudging_problem(Calls(torch.OutOfMemoryError, most=2))) == 2


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


NUM_WIDE = 200


def wide() -> MultiTaskModel:
    layers = nn.Sequential(smooth_trunk(), nn.Linear(WIDTH, NUM_WIDE), nn.Tanh(), nn.Linear(NUM_WIDE, NUM_WIDE))
    return model_of(nn.Sequential(layers, nn.Tanh()), nn.Linear(NUM_WIDE, WIDTH))


@pytest.mark.parametrize(("lanes_of_memory", "most"), [(0.0, 1), (2.9, 2), (None, 4), (1e6, 4)])
def test_a_pack_takes_less_than_half_of_the_memory_that_is_available(lanes_of_memory, most):
    # That more lanes pay is not in doubt: a pass takes the same time for any number.
    busy = grudging_problem(seconds_of(lambda num_lanes: 0.01)).build_model().trunk
    assert isinstance(busy, nn.Sequential)

    def build() -> MultiTaskModel:
        model = wide()
        model.trunk = nn.Sequential(model.trunk, busy[1])
        return model

    # Values, gradients, two moments and what a step needs: six numbers in float64 for each that is trained.
    lane_bytes = 6 * 8 * sum(p.numel() for p in build().parameters())
    available = None if lanes_of_memory is None else int(lanes_of_memory * lane_bytes / 0.4)
    found = find_lanes_at_once(
        problem_of(build),
        LANE,
        most=4,
        is_measured=True,
        device=torch.device("cpu"),
        available=lambda device: available,
    )
    assert found == most


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
