"""What cannot be trained as one is refused with its reason, before anybody is told anything."""

from __future__ import annotations

import pytest
from networks import frozen, model_of, problem_of, smooth_trunk
from packs import Told, alone, assert_bits_agree, check_equal, lane
from refused import REFUSED

from trainables.protocol import Lane, MultiTaskModel, Problem
from trainables.testing import tiny_problem
from trainables.training import NotStackableError, train_together

LANES = [lane("a", "equal", seed=1, steps=6, report_every=2), lane("b", "gradnorm", seed=2, steps=6, report_every=2)]


def assert_refused(problem: Problem, lanes: list[Lane], reason: str) -> None:
    told = Told()
    with pytest.raises(NotStackableError, match=reason):
        train_together(problem, lanes, told)
    assert told.calls == []


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_cannot_be_stacked_is_refused_and_trains_alone_as_if_nobody_had_tried(name):
    build, reason = REFUSED[name]
    expected = alone(problem_of(build), LANES)
    problem = problem_of(build)
    assert_refused(problem, LANES, reason)
    found = alone(problem, LANES)
    assert found.keys() == expected.keys()
    for key, reports in expected.items():
        assert [(one.step, one.ending, one.message) for one in found[key]] == [
            (one.step, one.ending, one.message) for one in reports
        ]
        assert_bits_agree(found[key], reports)


@pytest.mark.parametrize("seeds", [(1, 2, 1), (1, 1, 2), (2, 1, 1), (1, 1, 1, 2, 1)])
def test_one_lane_that_differs_in_what_cannot_be_stacked_is_found_wherever_it_stands(seeds):
    build, _ = REFUSED["a number of its own for each lane"]
    lanes = [lane(f"{index}", "equal", seed=seed) for index, seed in enumerate(seeds)]
    assert_refused(problem_of(build), lanes, "comes out otherwise")


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"micro_batches": 2}, "micro_batches is not 1"),
        ({"autocast": "bfloat16"}, "autocast is not none"),
        ({"batch_size": 17}, "their batch_size differs"),
        ({"dtype": "float32"}, "their dtype differs"),
    ],
)
def test_lanes_that_differ_in_more_than_numbers_are_refused(params, reason):
    assert_refused(tiny_problem(), [lane("a"), lane("b", **params)], reason)


def test_a_network_a_task_does_not_stack_with_a_shared_one():
    assert_refused(tiny_problem(), [lane("a"), lane("b", "single_task")], "their networks differ")


def test_what_a_lane_alone_asks_for_is_refused_too():
    assert_refused(tiny_problem(), [lane("a", micro_batches=2)], "micro_batches is not 1")


def test_two_lanes_of_one_key_and_no_lane_at_all_are_no_pack():
    with pytest.raises(ValueError, match="keys"):
        train_together(tiny_problem(), [lane("a"), lane("a")], Told())
    with pytest.raises(ValueError, match="no lane"):
        train_together(tiny_problem(), [], Told())


@pytest.mark.parametrize("has_all_in_common", [True, False])
def test_lanes_whose_networks_have_a_trained_parameter_in_common_are_refused(has_all_in_common):
    whole, trunk = model_of(), smooth_trunk()

    def build() -> MultiTaskModel:
        return whole if has_all_in_common else model_of(trunk)

    assert_refused(problem_of(build), LANES, "two lanes have the parameter trunk.0.weight in common")


def test_lanes_whose_networks_have_a_frozen_part_in_common_learn_what_each_learns_alone():
    trunk = frozen(smooth_trunk())
    check_equal(problem_of(lambda: model_of(trunk)), LANES)


def test_networks_of_tasks_that_have_a_trained_parameter_in_common_are_refused():
    trunk = smooth_trunk()
    lanes = [lane("a", "single_task", steps=6, clip_norm=0.5)]
    assert_refused(problem_of(lambda: model_of(trunk)), lanes, "the networks of two tasks have a parameter in common")
