"""Lanes trained at once learn what each learns alone, whatever weighs their tasks."""

from __future__ import annotations

from typing import Any

import pytest
from packs import check_equal, lane

from tests.gradnorm.layer_problems import SHARED_LAYERS, layer_problem
from trainables.catalog import BALANCERS
from trainables.protocol import Lane, LaneEnding
from trainables.testing import tiny_problem

SHARED = [name for name in BALANCERS if name != "single_task"]  # it has other networks than the others

# Every number that lanes may differ in, and more than one lane that ends before the others.
VARIANTS: list[dict[str, Any]] = [
    {"seed": 1, "checkpoint_every": 10},
    {"seed": 2, "alpha": 0.4, "weight_lr": 0.1, "lr": 3e-3, "weight_decay": 0.3, "report_every": 7},
    {"seed": 3, "clip_norm": 0.5, "initial_loss": "mean_of_batches", "initial_loss_batches": 9, "steps": 31},
    {"seed": 1, "alpha": -0.5, "initial_loss": "log_classes", "stuck_reports": 1, "stuck_weight_cap": 1.2},
    {"seed": 5, "initial_loss/task_0": 1.5, "weight/task_0": 3.0, "dwa_window": 6, "dwa_temperature": 1.0},
    {"seed": 6, "famo_decay": 0.1, "cagrad_c": 0.9, "clip_norm": 2.0, "weight_decay": 0.3, "steps": 22},
    {"seed": 7, "dwa_window": 4, "weight_lr": 0.2, "report_every": 50},
    {"seed": 8, "initial_loss": "mean_of_batches", "initial_loss_batches": 25, "report_every": 3, "steps": 40},
]


def lanes_of(balancers: list[str], num_lanes: int, **params: Any) -> list[Lane]:
    names = [balancers[index % len(balancers)] for index in range(num_lanes)]
    return [lane(f"{index}", name, **{**VARIANTS[index % 8], **params}) for index, name in enumerate(names)]


@pytest.mark.parametrize("balancer", BALANCERS)
def test_lanes_of_one_balancer_that_differ_in_every_number_learn_what_each_learns_alone(balancer):
    lanes = [lane(f"{index}", balancer, **VARIANTS[index]) for index in (1, 2, 4, 5)]
    reports = check_equal(tiny_problem(num_tasks=3, dropout=0.2), lanes)
    assert all(one[-1].ending is LaneEnding.COMPLETED for one in reports.values())


@pytest.mark.parametrize("num_tasks", [2, 4])
@pytest.mark.parametrize("num_lanes", [1, 2, 3, 8])
def test_lanes_of_different_balancers_learn_what_each_learns_alone(num_lanes, num_tasks):
    shifted = SHARED[num_tasks:] + SHARED[:num_tasks]
    check_equal(tiny_problem(num_tasks=num_tasks, hidden=(7, 6, 5)), lanes_of(shifted, num_lanes))


def test_all_balancers_that_share_a_network_train_in_one_pack():
    check_equal(tiny_problem(num_tasks=3, dropout=0.3), lanes_of(SHARED, len(SHARED)))


@pytest.mark.parametrize("shared_layer", SHARED_LAYERS)
def test_whatever_the_shared_layer_is_lanes_learn_what_each_learns_alone(shared_layer):
    names = ["gradnorm", "equal", "gradnorm", "upgrad", "famo"]
    check_equal(layer_problem(shared_layer, 3), lanes_of(names, 5, lr=1e-3))
    check_equal(layer_problem(shared_layer, 2), lanes_of(["single_task"], 2, lr=1e-3))


def test_the_test_split_is_measured_where_a_lane_asks_for_it():
    asks = Lane(key="asks", balancer="equal", params=lane("").params, evaluate_test=True)
    reports = check_equal(tiny_problem(), [asks, lane("does not", "equal")])
    assert "test/normalized_loss" in reports["asks"][-1].metrics
    assert "test/normalized_loss" not in reports["does not"][-1].metrics
