"""The problems that ship with the package, and single precision."""

from __future__ import annotations

import math

import pytest
from networks import NETWORKS, problem_of
from packs import alone, assert_reports_agree, check_equal, lane, together

from trainables.catalog import load_problem
from trainables.testing import tiny_problem

SMALL = {"steps": 12, "report_every": 6, "batch_size": 32, "lr": 1e-3}
LANES = [
    lane("a", "gradnorm", seed=1, **SMALL),
    lane("b", "equal", seed=2, clip_norm=1.0, **SMALL),
    lane("c", "cagrad", seed=3, weight_decay=0.1, **SMALL),
]


@pytest.mark.parametrize("name", ["census_income", "digits"])
def test_lanes_of_a_problem_that_ships_learn_what_each_learns_alone(name):
    problem = load_problem(name, {"hidden": [16, 8], "dropout": 0.2})
    longer = {"steps": 50, "report_every": 25, "batch_size": 64, "lr": 1e-4}
    balancers = ["gradnorm", "famo", "dwa", "cagrad"]
    check_equal(problem, [lane(f"{i}", one, seed=i, clip_norm=0.5 * i, **longer) for i, one in enumerate(balancers)])
    check_equal(problem, [lane("single", "single_task", **SMALL)])


def test_lanes_of_the_papers_toy_problem_learn_what_each_learns_alone():
    check_equal(load_problem("toy_regression", {"num_tasks": 3}), LANES)


FLOAT32 = {"dtype": "float32", "lr": 1e-3, "steps": 10, "report_every": 5}


def test_in_single_precision_lanes_learn_the_same_but_for_rounding():
    lanes = [
        lane("a", "equal", seed=1, **FLOAT32),
        lane("b", "equal", seed=2, clip_norm=0.5, weight_decay=0.1, **FLOAT32),
        lane("c", "static", seed=3, **{"weight/one": 3.0, **FLOAT32}),
    ]
    for problem in (problem_of(NETWORKS["dropout in a forward pass of one's own"]), tiny_problem(dropout=0.2)):
        assert_reports_agree(together(problem, lanes), alone(problem, lanes), tolerance=1e-4)


def test_in_single_precision_the_losses_of_gradnorm_fall():
    params = {"dtype": "float32", "steps": 200, "report_every": 20, "batch_size": 48, "lr": 1e-2}
    lanes = [lane(f"{index}", "gradnorm", seed=index, alpha=0.5 * index, **params) for index in range(4)]
    for reports in together(tiny_problem(num_tasks=3), lanes).values():
        first, last = reports[0].metrics, reports[-1].metrics
        assert last["train/loss/task_0"] < first["train/loss/task_0"]
        assert last["val/normalized_loss"] < 0.7 * first["val/normalized_loss"]
        assert all(math.isfinite(value) for value in last.values())
