"""The network's gradient out of the tasks' gradients: the same as autograd's own, at the price of one pass."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from trainables.balancers.single_task import SingleTask
from trainables.gradients import differentiator
from trainables.protocol import Lane, MultiTaskModel
from trainables.testing import tiny_problem
from trainables.training import train

WEIGHTS = torch.tensor([0.3, 1.9, 0.8], dtype=torch.float64)


@pytest.fixture
def problem():
    return tiny_problem(num_tasks=3).to(device=torch.device("cpu"), dtype=torch.float64)


def gradients_of(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("separate", [False, True])
def test_the_combined_gradient_is_that_of_the_weighted_sum(problem, separate):
    torch.manual_seed(0)
    model = (SingleTask().build_model(problem) if separate else problem.build_model()).double()
    twin = copy.deepcopy(model)
    split = problem.train
    differentiator(model, problem.tasks).task_gradients(split.inputs, split.targets).backward(WEIGHTS)
    differentiator(twin, problem.tasks).plain_losses(split.inputs, split.targets).backward(WEIGHTS)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, gradients_of(twin)[name], rtol=1e-12, atol=1e-14)


def test_norms_and_gramian_are_those_of_the_unweighted_gradients_at_the_shared_layer(problem):
    model = problem.build_model().double()
    split = problem.train
    found = differentiator(model, problem.tasks).task_gradients(split.inputs, split.targets)
    outputs = model(*split.inputs)
    rows = []
    for task in problem.tasks:
        loss = task.loss(outputs[task.name], split.targets[task.name])
        gradients = torch.autograd.grad(loss, list(model.shared_layer.parameters()), retain_graph=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    expected = torch.stack(rows)
    torch.testing.assert_close(found.norms_T, expected.norm(dim=1), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.gramian_TT, expected @ expected.T, rtol=1e-12, atol=1e-16)


def test_separate_networks_have_a_diagonal_gramian(problem):
    model = SingleTask().build_model(problem).double()
    found = differentiator(model, problem.tasks).task_gradients(problem.train.inputs, problem.train.targets)
    torch.testing.assert_close(found.gramian_TT, torch.diag(found.norms_T**2))


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_no_part_of_the_network_is_walked_twice(problem):
    model = problem.build_model().double()
    calls = []

    def count(name):
        def hook(module, grad_input, grad_output):
            calls.append(name)

        return hook

    model.trunk.layers[0].register_full_backward_hook(count("trunk"))
    for name, head in model.heads.items():
        head[-2].register_full_backward_hook(count(name))
    found = differentiator(model, problem.tasks).task_gradients(problem.train.inputs, problem.train.targets)
    assert sorted(calls) == ["task_0", "task_1", "task_2"]
    found.backward(WEIGHTS)
    assert sorted(calls) == ["task_0", "task_1", "task_2", "trunk"]


def test_nothing_that_the_balancer_sees_carries_a_graph(problem):
    model = problem.build_model().double()
    found = differentiator(model, problem.tasks).task_gradients(problem.train.inputs, problem.train.targets)
    assert not any(seen.requires_grad for seen in (found.losses_T, found.norms_T, found.gramian_TT))


@pytest.mark.parametrize("other", [{"alpha": -20.0}, {"weight_lr": 1.0}])
def test_alpha_and_weight_lr_reach_the_network_only_through_the_next_steps_weights(other):
    def train_to(steps, resume_from=None, **changed):
        reports = []
        params = {"steps": steps, "report_every": 100, "dtype": "float64", "alpha": 20.0, "weight_lr": 0.01, **changed}
        lane = Lane(key="a", balancer="gradnorm", params=params, resume_from=resume_from)
        train(tiny_problem(num_tasks=3), [lane], lambda new: reports.extend(new) or ())
        return reports[-1].checkpoint

    start = train_to(20)  # at the very first step all rates are 1 and alpha has nothing to act on
    one, two = train_to(21, start), train_to(21, start, **other)
    assert not torch.equal(one.balancer_state["weights_T"], two.balancer_state["weights_T"])
    assert all(torch.equal(one.model[name], two.model[name]) for name in one.model)


def test_a_parameter_that_two_heads_share_gets_both_parts(problem):
    torch.manual_seed(0)
    head = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0))
    heads = {task.name: head for task in problem.tasks}
    model = MultiTaskModel(trunk=nn.Linear(5, 8), shared_layer=nn.Linear(8, 6), heads=heads).double()
    twin = copy.deepcopy(model)
    split = problem.train
    differentiator(model, problem.tasks).task_gradients(split.inputs, split.targets).backward(WEIGHTS)
    differentiator(twin, problem.tasks).plain_losses(split.inputs, split.targets).backward(WEIGHTS)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, gradients_of(twin)[name], rtol=1e-12, atol=1e-14)


def test_a_trunk_without_parameters_and_a_frozen_one_are_trained_around(problem):
    for trunk in (nn.Identity(), nn.Linear(5, 5).requires_grad_(False)):
        heads = {task.name: nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)) for task in problem.tasks}
        model = MultiTaskModel(trunk=trunk, shared_layer=nn.Linear(5, 6), heads=heads).double()
        differentiator(model, problem.tasks).task_gradients(problem.train.inputs, problem.train.targets).backward(
            WEIGHTS
        )
        assert all(p.grad is None for p in trunk.parameters())
        assert all(p.grad is not None for p in model.shared_layer.parameters())


def test_a_shared_layer_without_parameters_is_refused(problem):
    heads = {task.name: nn.Linear(5, 1) for task in problem.tasks}
    model = MultiTaskModel(trunk=nn.Linear(5, 5), shared_layer=nn.ReLU(), heads=heads)
    with pytest.raises(ValueError, match="no trainable parameter"):
        differentiator(model, problem.tasks)
