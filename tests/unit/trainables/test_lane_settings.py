"""What a lane's parameters say reaches the training."""

from __future__ import annotations

import math

import pytest
import torch

from trainables.protocol import Lane
from trainables.testing import tiny_problem
from trainables.training import train

EXACT = {"rtol": 0.0, "atol": 1e-12}


def run(balancer="equal", resume_from=None, num_tasks=3, **params):
    """All reports, one a step, each with its checkpoint, in float64."""
    every_step = {"steps": 1, "report_every": 1, "checkpoint_every": 1, "batch_size": 16, "dtype": "float64"}
    lane = Lane(key="a", balancer=balancer, params={**every_step, **params}, resume_from=resume_from)
    reports = []
    train(tiny_problem(num_tasks=num_tasks), [lane], lambda new: reports.extend(new) or ())
    assert reports[-1].ending == "completed", reports[-1]
    return reports


def weights_of(report):
    return report.checkpoint.model


def test_weight_decay_shrinks_every_weight_by_its_share_beside_adams_step():
    torch.manual_seed(7)
    initial = {name: value.double() for name, value in tiny_problem(num_tasks=3).build_model().state_dict().items()}
    (plain,), (decayed,) = run(seed=7, lr=0.01), run(seed=7, lr=0.01, weight_decay=0.5)
    for name, value in weights_of(decayed).items():
        torch.testing.assert_close(value, weights_of(plain)[name] - 0.01 * 0.5 * initial[name], **EXACT)


def test_a_resumed_lane_trains_with_the_learning_rate_that_it_asks_for_now():
    middle = run(lr=0.01)[-1].checkpoint
    (slow,), (fast,) = (run(resume_from=middle, steps=2, lr=lr) for lr in (0.01, 0.03))
    for name, before in middle.model.items():  # the same direction, three times as far
        torch.testing.assert_close(weights_of(fast)[name] - before, 3 * (weights_of(slow)[name] - before), **EXACT)
    assert any(not torch.equal(weights_of(slow)[name], before) for name, before in middle.model.items())


def test_a_resumed_lane_trains_with_the_weight_decay_that_it_asks_for_now():
    middle = run(lr=0.01)[-1].checkpoint
    (plain,) = run(resume_from=middle, steps=2, lr=0.01)
    (decayed,) = run(resume_from=middle, steps=2, lr=0.01, weight_decay=0.5)
    for name, before in middle.model.items():
        torch.testing.assert_close(weights_of(decayed)[name], weights_of(plain)[name] - 0.01 * 0.5 * before, **EXACT)


@pytest.mark.parametrize("balancer", ["gradnorm", "inverse_initial_loss"])
def test_log_classes_gives_a_classification_task_the_loss_of_a_uniform_guess_and_the_others_their_first(balancer):
    reports = run(balancer, initial_loss="log_classes", steps=3)
    first = reports[0].metrics
    expected = [first["train/loss/task_0"], math.log(2), first["train/loss/task_2"]]
    for report in reports:
        assert report.checkpoint.balancer_state["initial_losses_T"].tolist() == pytest.approx(expected, rel=1e-12)
    ratio = first["train/loss/task_1"] / math.log(2)
    assert first["relative_rate/task_1"] == pytest.approx(ratio / ((1 + ratio + 1) / 3), rel=1e-12)


@pytest.mark.parametrize("balancer", ["gradnorm", "inverse_initial_loss"])
@pytest.mark.parametrize("num_batches", [1, 3, 5])
def test_the_mean_of_batches_is_taken_over_as_many_as_the_lane_asks_for(balancer, num_batches):
    reports = run(balancer, initial_loss="mean_of_batches", initial_loss_batches=num_batches, steps=8)
    for index, name in enumerate(["task_0", "task_1", "task_2"]):
        losses = [report.metrics[f"train/loss/{name}"] for report in reports]
        found = [report.checkpoint.balancer_state["initial_losses_T"][index].item() for report in reports]
        means = [sum(losses[:seen]) / seen for seen in [min(step, num_batches) for step in range(1, 9)]]
        assert found == pytest.approx(means, rel=1e-12)


def test_by_default_the_initial_loss_is_that_of_the_first_batch_whatever_initial_loss_batches_is():
    reports = run("gradnorm", initial_loss_batches=3, steps=4)
    first = [reports[0].metrics[f"train/loss/task_{index}"] for index in range(3)]
    for report in reports:
        assert report.checkpoint.balancer_state["initial_losses_T"].tolist() == pytest.approx(first, rel=1e-12)


@pytest.mark.parametrize("balancer", ["gradnorm", "inverse_initial_loss"])
def test_a_given_initial_loss_comes_before_any_other(balancer):
    given = {"initial_loss/task_0": 2.5, "initial_loss/task_2": 0.0}
    (report,) = run(balancer, steps=1, initial_loss="log_classes", **given)
    initial = report.checkpoint.balancer_state["initial_losses_T"].tolist()
    assert initial[:2] == pytest.approx([2.5, math.log(2)])
    assert initial[2] == pytest.approx(report.metrics["train/loss/task_2"])


def test_static_weights_are_the_given_ones_scaled_to_the_number_of_tasks():
    reports = run("static", steps=6, report_every=3, **{"weight/task_1": 4.0})
    for report in reports:
        assert [report.metrics[f"weight/task_{i}"] for i in range(3)] == pytest.approx([0.5, 2.0, 0.5])
