"""Who stands beside a lane, in which order and in how large a pack, is nothing to it."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from packs import AS_EQUAL, Reports, alone, assert_report_agrees, assert_reports_agree, lane, together

from trainables.protocol import Lane
from trainables.testing import tiny_problem

PROBLEM = tiny_problem(num_tasks=3, dropout=0.25)
SHORT: dict[str, Any] = {"steps": 24, "report_every": 6, "checkpoint_every": 6}
LANES = [
    lane("gradnorm", seed=1, **SHORT),
    lane("gradnorm, other numbers", seed=1, **{**SHORT, "alpha": 0.2, "weight_lr": 0.2, "lr": 3e-3}),
    lane("gradnorm, slow start", seed=3, initial_loss="mean_of_batches", initial_loss_batches=7, **SHORT),
    lane("clipped", "equal", seed=4, clip_norm=0.4, **SHORT),
    lane("decayed", "dwa", seed=5, weight_decay=0.5, beta1=0.5, beta2=0.9, dwa_window=4, **SHORT),
    lane("short", "rlw", seed=6, **{**SHORT, "steps": 13}),
    lane("looks back", "famo", seed=7, **SHORT),
    lane("looks back too", "famo", seed=8, famo_decay=0.1, **{**SHORT, "report_every": 8}),
    lane("conflicts", "pcgrad", seed=9, **SHORT),
    lane("bargains", "nash_mtl", seed=10, **{**SHORT, "steps": 6}),
]


@cache
def alone_reports() -> dict[str, Reports]:
    return alone(PROBLEM, LANES)


def expected_of(lanes: list[Lane]) -> dict[str, Reports]:
    return {one.key: alone_reports()[one.key] for one in lanes}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(st.sampled_from(LANES), unique_by=lambda one: one.key, min_size=1, max_size=8))
def test_any_lanes_in_any_order_learn_what_each_learns_alone(lanes):
    assert_reports_agree(together(PROBLEM, lanes), expected_of(lanes))


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.permutations(LANES[:6]), st.integers(1, 4))
def test_any_lanes_that_come_in_in_any_order_learn_what_each_learns_alone(lanes, num_places):
    waiting = list(lanes[num_places:])

    def refill(free: int) -> list[Lane]:
        return [waiting.pop(0) for _ in range(min(free, len(waiting)))]

    found = together(PROBLEM, lanes[:num_places], refill=refill)
    assert_reports_agree(found, {key: alone_reports()[key] for key in found})
    assert set(found) | {one.key for one in waiting} == {one.key for one in lanes}


def test_twins_say_the_same_whatever_stands_between_them():
    twins = [lane(key, "gradnorm", seed=1, **SHORT) for key in ("first", "second")]
    reports = together(PROBLEM, [twins[0], *LANES[3:8], twins[1]])
    for mine, theirs in zip(reports["first"], reports["second"], strict=True):
        assert_report_agrees(mine, theirs, tolerance=AS_EQUAL)


@pytest.mark.slow
def test_many_lanes_learn_what_each_learns_alone():
    many = [
        lane(f"{i}", "gradnorm", seed=i % 7, **{**SHORT, "alpha": 0.1 * i, "lr": 1e-2 / (1 + i)}) for i in range(64)
    ]
    assert_reports_agree(together(PROBLEM, many), alone(PROBLEM, many))
