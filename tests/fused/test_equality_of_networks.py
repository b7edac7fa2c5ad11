"""Lanes trained at once learn what each learns alone, whatever their networks and losses are made of."""

from __future__ import annotations

import pytest
from networks import LOSSES, NETWORKS, looked_up, problem_of, problem_with_loss, two_inputs
from packs import check_equal, lane

from trainables.protocol import LaneEnding

# One that weighs ahead, one that looks at the losses alone, one that needs all gradients.
LANES = [
    lane("a", "gradnorm", seed=1, weight_decay=0.2, lr=3e-3),
    lane("b", "equal", seed=2, clip_norm=0.7, report_every=25, steps=25),
    lane("c", "pcgrad", seed=3, weight_decay=0.1, steps=17),
]
LOOKING_BACK = [
    lane("d", "famo", seed=1, steps=30),
    lane("e", "rlw", seed=4, steps=11),
    lane("f", "famo", seed=2, report_every=16, steps=30),
]
SEPARATE = [
    lane("a", "single_task", seed=1, weight_decay=0.2, steps=30),
    lane("b", "single_task", seed=2, clip_norm=0.7, steps=20),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_lanes_of_a_network_learn_what_each_learns_alone(name):
    reports = check_equal(problem_of(NETWORKS[name]), LANES)
    assert all(one[-1].ending is LaneEnding.COMPLETED for one in reports.values())


@pytest.mark.parametrize("name", [name for name in NETWORKS if "dropout" in name or "nothing uses" in name])
@pytest.mark.parametrize("lanes", [LOOKING_BACK, SEPARATE], ids=["famo", "single_task"])
def test_lanes_that_go_through_a_network_more_often_learn_what_each_learns_alone(name, lanes):
    check_equal(problem_of(NETWORKS[name]), lanes)


@pytest.mark.parametrize("name", LOSSES)
def test_lanes_with_a_loss_learn_what_each_learns_alone(name):
    reports = check_equal(problem_with_loss(name), LANES)
    assert all(one[-1].ending is LaneEnding.COMPLETED for one in reports.values())


def test_a_trunk_of_several_inputs_gets_each_lanes_own_rows_of_all_of_them():
    check_equal(two_inputs(), LANES)


def test_the_padding_of_an_embedding_does_not_learn():
    reports = check_equal(looked_up(), [lane("a", "equal", seed=1), lane("b", "gradnorm", seed=2)])
    last = reports["a"][-1].checkpoint
    assert last is not None
    assert last.model["trunk.0.weight"][0].abs().max() == 0


def test_weight_decay_does_not_move_what_no_task_uses():
    problem = problem_of(NETWORKS["parts of a trunk that nothing uses"])
    reports = check_equal(
        problem, [lane("a", "equal", weight_decay=1.0, steps=20), lane("b", "gradnorm", weight_decay=1.0, steps=20)]
    )
    for one in reports.values():
        first, last = one[0].checkpoint, one[-1].checkpoint
        assert first is not None
        assert last is not None
        assert last.model["trunk.idle.weight"].equal(first.model["trunk.idle.weight"])
        assert not last.model["trunk.used.0.weight"].equal(first.model["trunk.used.0.weight"])
