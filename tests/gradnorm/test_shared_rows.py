"""∇_W L_i written out as a product: only where that is all that the shared layer does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainables.gradients import differentiator
from trainables.protocol import MultiTaskModel
from trainables.testing import tiny_problem

WIDTH = 5
WEIGHTS = torch.tensor([0.3, 1.9, 0.8], dtype=torch.float64)


@pytest.fixture
def problem():
    return tiny_problem(num_tasks=3).to(device=torch.device("cpu"), dtype=torch.float64)


class NowAndThen(nn.Module):
    """A trunk that uses a layer which it does not list, at every second batch only."""

    def __init__(self, layer):
        super().__init__()
        self.own = nn.Linear(WIDTH, WIDTH)
        self.hidden = [layer]
        self.calls = 0

    def forward(self, inputs):
        self.calls += 1
        inputs = torch.tanh(self.own(inputs))
        return inputs if self.calls % 2 else torch.tanh(self.hidden[0](inputs))


def network(problem, shared_layer, trunk=None):
    heads = {task.name: nn.Sequential(nn.Linear(WIDTH, 1), nn.Flatten(0)) for task in problem.tasks}
    return MultiTaskModel(trunk=trunk or nn.Linear(WIDTH, WIDTH), shared_layer=shared_layer, heads=heads).double()


def expected_rows(model, problem):
    outputs = model(*problem.train.inputs)
    rows = []
    for task in problem.tasks:
        loss = task.loss(outputs[task.name], problem.train.targets[task.name])
        shared = [parameter for parameter in model.shared_layer.parameters() if parameter.requires_grad]
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)]))
    return torch.stack(rows)


def both_ways(model, problem):
    """The rows as they are found where the weights are unknown, and where they are known."""
    found, split = differentiator(model, problem.tasks), problem.train
    yield lambda: found.task_gradients(split.inputs, split.targets).gradients_TD
    yield lambda: found.backward(split.inputs, split.targets, WEIGHTS).gradients_TD


def frozen_bias():
    layer = nn.Linear(WIDTH, WIDTH)
    layer.bias.requires_grad_(False)
    return layer


def frozen_weight():
    layer = nn.Linear(WIDTH, WIDTH)
    layer.weight.requires_grad_(False)
    return layer


LAYERS = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "without a bias": lambda: nn.Linear(WIDTH, WIDTH, bias=False),
    "with a frozen bias": frozen_bias,
    "with a frozen weight": frozen_weight,
    "parametrised": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "of two layers": lambda: nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_the_rows_are_autograds_own_whatever_the_layer(problem, layer):
    torch.manual_seed(0)
    model = network(problem, LAYERS[layer]())
    for rows in both_ways(model, problem):
        torch.testing.assert_close(rows(), expected_rows(model, problem), rtol=1e-12, atol=1e-15)


def test_a_hook_of_the_layer_counts(problem):
    torch.manual_seed(0)
    model = network(problem, nn.Linear(WIDTH, WIDTH))
    ways = list(both_ways(model, problem))  # before there is a hook
    before = expected_rows(model, problem)
    model.shared_layer.register_forward_hook(lambda module, inputs, output: output.sin())
    for rows in ways:
        torch.testing.assert_close(rows(), expected_rows(model, problem), rtol=1e-12, atol=1e-15)
        assert not torch.allclose(rows(), before)


def test_a_trunk_that_uses_the_shared_layer_at_some_batches_only_is_found_out(problem):
    torch.manual_seed(0)
    layer = nn.Linear(WIDTH, WIDTH)
    trunk = NowAndThen(layer)
    model = network(problem, layer, trunk)
    for rows in both_ways(model, problem):
        trunk.calls = 0
        for _ in range(4):
            calls, found = trunk.calls, rows()
            trunk.calls = calls
            torch.testing.assert_close(found, expected_rows(model, problem), rtol=1e-12, atol=1e-15)


def test_a_layer_on_inputs_with_more_dimensions_is_a_product_too():
    torch.manual_seed(0)
    problem = tiny_problem(num_tasks=3).to(device=torch.device("cpu"), dtype=torch.float64)
    trunk = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.Unflatten(1, (4, WIDTH)))
    heads = {task.name: nn.Sequential(nn.Flatten(), nn.Linear(4 * WIDTH, 1), nn.Flatten(0)) for task in problem.tasks}
    model = MultiTaskModel(trunk=trunk, shared_layer=nn.Linear(WIDTH, WIDTH), heads=heads).double()
    for rows in both_ways(model, problem):
        torch.testing.assert_close(rows(), expected_rows(model, problem), rtol=1e-12, atol=1e-15)
