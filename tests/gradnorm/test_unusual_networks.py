"""Heads, layers and losses that do something out of the ordinary: the gradients are right all the same, or refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from trainables.gradients import differentiator
from trainables.protocol import MultiTaskModel, Task
from trainables.testing import tiny_problem

WIDTH = 6
WEIGHTS = torch.tensor([0.3, 1.9, 0.8], dtype=torch.float64)


@pytest.fixture
def problem():
    return tiny_problem(num_tasks=3).to(device=torch.device("cpu"), dtype=torch.float64)


def network(problem, first=nn.Identity, layer=None):
    """Of the heads only the first begins with something of its own."""
    torch.manual_seed(0)
    heads = {task.name: nn.Sequential(nn.Linear(WIDTH, 1), nn.Flatten(0)) for task in problem.tasks}
    name = problem.tasks[0].name
    heads[name] = nn.Sequential(first(), heads[name])
    return MultiTaskModel(
        trunk=nn.Linear(5, WIDTH), shared_layer=layer or nn.Linear(WIDTH, WIDTH), heads=heads
    ).double()


def plainly(found, split):
    found.plain_losses(split.inputs, split.targets).backward(WEIGHTS)


def unknown_weights(found, split):
    found.task_gradients(split.inputs, split.targets).backward(WEIGHTS)


def known_weights(found, split):
    found.backward(split.inputs, split.targets, WEIGHTS)


WAYS = [plainly, unknown_weights, known_weights]


def gradients(model, problem, way, tasks=None):
    model.zero_grad()
    way(differentiator(model, tasks or problem.tasks), problem.train)
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same(found, expected):
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-11, atol=1e-14, msg=lambda text, n=name: f"{n}: {text}"
        )


@pytest.mark.parametrize("way", WAYS)
def test_a_head_that_writes_in_place_changes_nothing_for_the_others(problem, way):
    model, twin = network(problem, lambda: nn.ReLU(inplace=True)), network(problem, nn.ReLU)
    assert_same(gradients(model, problem, way), gradients(twin, problem, plainly))
    ours, theirs = model(*problem.train.inputs), twin(*problem.train.inputs)  # as it is evaluated, and asked
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class UnannouncedRelu(nn.Module):
    def forward(self, inputs):
        return inputs.relu_()


@pytest.mark.parametrize("way", WAYS)
def test_a_head_that_writes_in_place_unannounced_is_refused_by_its_task(problem, way):
    with pytest.raises(RuntimeError, match=rf"head of task '{problem.tasks[0].name}' writes into .*\(x\.clone\(\)\)"):
        gradients(network(problem, UnannouncedRelu), problem, way)


class Slope(nn.Module):
    """Differentiates within its forward pass: by what it is given, or by what has gone into the shared layer."""

    def __init__(self, trunk=None):
        super().__init__()
        self.trunk = [trunk]

    def forward(self, inputs):
        (trunk,) = self.trunk
        by = inputs if trunk is None else trunk.output
        (slope,) = torch.autograd.grad(inputs.square().sum(), by, create_graph=True)
        return inputs + torch.tanh(slope)


class KeepsOutput(nn.Linear):
    def forward(self, inputs):
        self.output = super().forward(inputs)
        return self.output


@pytest.mark.parametrize("way", WAYS)
def test_a_head_may_differentiate_by_what_it_is_given(problem, way):
    model = network(problem, Slope)
    assert_same(gradients(model, problem, way), gradients(copy.deepcopy(model), problem, plainly))


def test_a_head_may_differentiate_through_a_linear_shared_layer_where_the_weights_are_known(problem):
    model = network(problem)
    model.trunk = KeepsOutput(5, WIDTH).double()
    first = model.heads[problem.tasks[0].name]
    first[0] = Slope(model.trunk)
    expected = gradients(model, problem, plainly)
    assert_same(gradients(model, problem, known_weights), expected)


def doubled(gradient):
    return 2 * gradient


@pytest.mark.parametrize("way", WAYS)
def test_a_hook_of_the_shared_layer_s_parameter_counts(problem, way):
    model, twin = network(problem), network(problem)
    model.shared_layer.weight.register_hook(doubled)
    found, expected = gradients(model, problem, way), gradients(twin, problem, plainly)
    expected["shared_layer.weight"] = 2 * expected["shared_layer.weight"]
    assert_same(found, expected)


@pytest.mark.parametrize("way", WAYS)
def test_a_linear_layer_with_a_forward_of_its_own_is_not_taken_for_linear(problem, way):
    model, twin = network(problem), network(problem, layer=nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh()))
    linear = model.shared_layer.forward
    model.shared_layer.forward = lambda inputs: torch.tanh(linear(inputs))
    expected = gradients(twin, problem, plainly)
    expected = {name.replace("shared_layer.0.", "shared_layer."): value for name, value in expected.items()}
    twin_state = {name.replace("shared_layer.0.", "shared_layer."): v for name, v in twin.state_dict().items()}
    model.load_state_dict(twin_state)
    assert_same(gradients(model, problem, way), expected)


def with_loss(problem, loss):
    first, *others = problem.tasks
    return [Task(name=first.name, kind=first.kind, loss=loss), *others]


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_of_no_labelled_row_has_no_gradient(problem, way):
    tasks = with_loss(problem, lambda output, target: output.new_zeros(()))
    found = gradients(network(problem), problem, way, tasks)
    head = f"heads.{problem.tasks[0].name}.1.0.weight"
    assert found[head] is None or not found[head].any()
    assert found["shared_layer.weight"].any()


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_in_another_type_is_taken_in_the_network_s(problem, way):
    first = problem.tasks[0]
    tasks = with_loss(problem, lambda output, target: first.loss(output, target).float())
    found = differentiator(network(problem), tasks).plain_losses(problem.train.inputs, problem.train.targets)
    assert found.losses_T.dtype is torch.float64
    gradients(network(problem), problem, way, tasks)


@pytest.mark.parametrize("way", WAYS)
def test_a_loss_that_is_not_one_number_is_refused_by_its_task(problem, way):
    tasks = with_loss(problem, lambda output, target: (output - target).square())
    with pytest.raises(ValueError, match=rf"task '{problem.tasks[0].name}': its loss must be one number"):
        gradients(network(problem), problem, way, tasks)
