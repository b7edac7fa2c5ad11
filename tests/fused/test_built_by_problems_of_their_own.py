"""Lanes whose networks are built by problems of their own: a number of the problem itself is a lane's own too."""

from __future__ import annotations

import random
import weakref
from dataclasses import replace

import pytest
import torch
from packs import Told, alone, assert_reports_agree, lane, together

from trainables.problems.tabular import InMemoryProblem
from trainables.protocol import Lane, LaneEnding, Problem
from trainables.testing import tiny_problem
from trainables.training import NotStackableError, train_together

PROBLEM = tiny_problem(num_tasks=3, dropout=0.1)


def by_dropout(one: Lane) -> InMemoryProblem:
    """With data that are never looked at."""
    share = one.params["dropout"]
    assert isinstance(share, float)
    problem = tiny_problem(num_tasks=3, dropout=share)
    nothing = replace(problem.train, inputs=(torch.zeros(0),))
    return replace(problem, train=nothing, validation=nothing, test=nothing)


def dropping(balancer: str, **params: float) -> list[Lane]:
    shares = (0.1, 0.6, 0.3)
    return [lane(f"{share}", balancer, seed=1, dropout=share, steps=20, **params) for share in shares]


@pytest.mark.parametrize("balancer", ["gradnorm", "famo", "single_task"])
def test_each_lane_drops_its_own_share_as_it_does_alone(balancer):
    lanes = dropping(balancer)
    expected = {}
    for one in lanes:
        share = one.params["dropout"]
        assert isinstance(share, float)
        expected |= alone(tiny_problem(num_tasks=3, dropout=share), [one])
    assert_reports_agree(together(PROBLEM, lanes, built_by=by_dropout), expected)
    assert_reports_agree(alone(PROBLEM, lanes, built_by=by_dropout), expected)
    losses = {reports[-1].metrics["train/loss/task_0"] for reports in expected.values()}
    assert len(losses) == len(lanes)


def test_a_lane_that_comes_in_drops_its_own_share():
    first, *coming = dropping("equal")

    def refill(free: int) -> list[Lane]:
        given = coming[:free]
        del coming[:free]
        return given

    found = together(PROBLEM, [first], places=3, refill=refill, built_by=by_dropout)
    assert_reports_agree(found, alone(PROBLEM, dropping("equal"), built_by=by_dropout))


@pytest.mark.parametrize("train_both", [alone, together])
def test_a_problem_that_cannot_be_made_is_the_ending_of_its_lane(train_both):
    lanes = [lane("a", dropout=0.2, steps=10), lane("broken", dropout="much", steps=10)]
    reports = train_both(PROBLEM, lanes, built_by=by_dropout)
    (only,) = reports["broken"]
    assert (only.step, only.ending) == (0, LaneEnding.ERROR)
    assert only.message.startswith("AssertionError")
    assert reports["a"][-1].ending is LaneEnding.COMPLETED


@pytest.mark.parametrize("train_both", [alone, together])
def test_a_lanes_problem_is_asked_for_once_is_not_kept_and_may_draw(train_both):
    asked: list[str] = []
    made: list[weakref.ref[Problem]] = []

    def drawing(one: Lane) -> Problem:
        assert all(problem() is None for problem in made)
        asked.append(one.key)
        random.random()
        torch.rand(())
        problem = by_dropout(one)
        made.append(weakref.ref(problem))
        return problem

    lanes = dropping("equal")
    found = train_both(PROBLEM, lanes, built_by=drawing)
    assert asked == [one.key for one in lanes]
    assert_reports_agree(found, alone(PROBLEM, lanes, built_by=by_dropout))


def test_lanes_of_other_layers_are_refused_as_ever():
    told = Told()
    lanes = [lane("a", dropout=0.0), lane("b", dropout=0.5)]  # without dropout there is no such layer
    with pytest.raises(NotStackableError, match="their networks differ in layers"):
        train_together(PROBLEM, lanes, told, built_by=by_dropout)
    assert told.calls == []


def test_who_builds_may_say_that_a_lane_goes_with_no_other():
    def refuse(one: Lane) -> Problem:
        raise NotStackableError("its number changes the data")

    told = Told()
    with pytest.raises(NotStackableError, match="its number changes the data"):
        train_together(PROBLEM, dropping("equal"), told, built_by=refuse)
    assert told.calls == []
