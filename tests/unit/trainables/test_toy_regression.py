"""The toy problem of the GradNorm paper, section 4."""

from __future__ import annotations

import random

import pytest
import torch

from trainables.catalog import load_catalog, load_problem
from trainables.evaluation import constant_losses
from trainables.problems.toy_regression import DRAWN_SCALES, scales
from trainables.protocol import Lane
from trainables.training import train


def problem_of(**params):
    return load_problem("toy_regression", {"rows": 1000, **params})


def trained(problem, balancer, **params):
    reports = []
    lane = Lane(key="a", balancer=balancer, params={"batch_size": 100, **params})
    train(problem, [lane], lambda new: reports.extend(new) or ())
    assert reports[-1].ending == "completed", reports[-1]
    return reports[-1].metrics


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
def test_each_task_has_250_inputs_and_100_outputs(num_tasks):
    problem = problem_of(num_tasks=num_tasks)
    assert [task.name for task in problem.tasks] == [f"f{i + 1}" for i in range(num_tasks)]
    assert [len(split) for split in (problem.train, problem.validation, problem.test)] == [600, 200, 200]
    assert [tuple(tensor.shape) for tensor in problem.train.inputs] == [(600, 250)]
    assert {tuple(target.shape) for target in problem.train.targets.values()} == {(600, 100)}
    outputs = problem.build_model()(problem.train.inputs[0][:7])
    assert {name: tuple(output.shape) for name, output in outputs.items()} == dict.fromkeys(
        problem.train.targets, (7, 100)
    )


def test_the_trunk_has_four_relu_layers_of_width_100_with_the_shared_one():
    model = problem_of().build_model()
    linear = [m for m in (*model.trunk.modules(), model.shared_layer) if isinstance(m, torch.nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in linear] == [(100, 250), (100, 100), (100, 100), (100, 100)]
    assert [type(module).__name__ for module in model.heads["f1"]] == ["ReLU", "Linear"]


def test_two_tasks_have_the_scales_1_and_100_and_their_losses_differ_by_the_square():
    problem = problem_of()
    near, far = constant_losses(problem, problem.validation).tolist()
    assert near == pytest.approx(1, rel=0.05)
    assert far / near == pytest.approx(100**2, rel=0.05)
    assert problem.train.targets["f1"].abs().max() <= 1
    assert problem.train.targets["f2"].abs().max() == pytest.approx(100, rel=1e-3)


def test_ten_tasks_have_the_ten_recorded_scales():
    problem = problem_of(num_tasks=10)
    losses = constant_losses(problem, problem.validation)
    torch.testing.assert_close(losses.sqrt(), torch.tensor(DRAWN_SCALES, dtype=losses.dtype), rtol=0.05, atol=0)


def test_the_recorded_scales_are_those_of_the_draw_that_is_told():
    draw = random.Random(1711)
    assert tuple(round(10 ** draw.uniform(0, 2), 1) for _ in range(10)) == DRAWN_SCALES
    assert scales(2) == (1.0, 100.0)
    assert scales(4) == DRAWN_SCALES[:4]
    for number in (1, 11):
        with pytest.raises(ValueError, match="from 2 to 10"):
            scales(number)


def test_the_functions_share_a_part_and_have_a_part_of_their_own():
    targets = problem_of(num_tasks=3).train.targets
    signs = {name: target.sign().flatten() for name, target in targets.items()}
    # Signs of two sums of normals with correlation c = 10² / (10² + 3.5²) agree with probability ½ + asin(c) / π.
    expected = 0.5 + torch.asin(torch.tensor(100 / 112.25)).item() / torch.pi
    for one, other in (("f1", "f2"), ("f1", "f3"), ("f2", "f3")):
        assert (signs[one] == signs[other]).double().mean().item() == pytest.approx(expected, abs=0.01)


def test_the_data_is_the_data_seeds_alone():
    torch.manual_seed(1)
    first = problem_of()
    problem_of(data_seed=1)  # drops what was kept of the first
    torch.manual_seed(2)
    assert problem_of().data_hash == first.data_hash
    assert problem_of(hidden=[8], dropout=0.5).data_hash == first.data_hash
    others = [problem_of(**change).data_hash for change in ({"data_seed": 1}, {"spread": "variance"}, {"num_tasks": 3})]
    assert len({first.data_hash, *others}) == 4


def test_the_spread_can_be_read_as_a_variance():
    flat, steep = (problem_of(spread=spread).train.targets["f1"].abs() for spread in ("variance", "std"))
    # Share of outputs inside ±½: |(B + ε) x| < atanh ½, with a spread of √250 times that of B + ε, near 0 a density.
    for values, variance in ((flat, 13.5), (steep, 112.25)):
        expected = 2 * 0.5493 / (2 * torch.pi * 250 * variance) ** 0.5
        assert (values < 0.5).double().mean().item() == pytest.approx(expected, rel=0.15)


def test_gradnorm_lowers_the_weight_of_the_task_of_scale_100():
    metrics = trained(problem_of(), "gradnorm", alpha=0.12, weight_lr=0.025, steps=200)
    assert metrics["weight/f2"] < 0.2
    assert metrics["weight/f1"] == pytest.approx(2 - metrics["weight/f2"], rel=1e-5)


@pytest.mark.parametrize("num_tasks", [2, 10])
def test_what_a_lane_reports_is_what_the_catalogue_says_for_its_number_of_tasks(num_tasks):
    metrics = trained(problem_of(num_tasks=num_tasks), "gradnorm", steps=2)
    promised = load_catalog()["toy_regression"].metrics_for({"num_tasks": num_tasks})
    assert {key for key in metrics if key.startswith("val/")} == set(promised)
    assert len(promised) == 2 * num_tasks + 1
