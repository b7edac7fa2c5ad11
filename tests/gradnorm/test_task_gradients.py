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


def weights_unknown(model, tasks, inputs, targets):
    found = differentiator(model, tasks).task_gradients(inputs, targets)
    found.backward(WEIGHTS)
    return found


def weights_known(model, tasks, inputs, targets):
    return differentiator(model, tasks).backward(inputs, targets, WEIGHTS)


def weights_known_of_any_layer(model, tasks, inputs, targets):
    """As of a layer that is not linear: a hook may do anything, even if this one does nothing."""
    hook = model.shared_layer.register_forward_hook(lambda layer, inputs, output: None)
    found = weights_known(model, tasks, inputs, targets)
    hook.remove()
    return found


# Ways to the network's gradient: each leaves that of Σ_i w_i L_i in ``grad``, and tells the tasks' own at the layer.
WAYS = [weights_unknown, weights_known, weights_known_of_any_layer]


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


WIDTH = 6


class Bent(nn.Module):
    """A layer and tanh. ``hidden_layer`` is used without being listed among the module's parameters."""

    def __init__(self, layer=None, hidden_layer=None):
        super().__init__()
        self.layer = layer
        self.hidden = [hidden_layer]

    def forward(self, inputs):
        for layer in (self.layer, *self.hidden):
            inputs = inputs if layer is None else torch.tanh(layer(inputs))
        return inputs


def sharing_model(where):
    """Three heads over a trunk and a shared layer, with the one layer ``a`` used in several places."""
    a, own = nn.Linear(WIDTH, WIDTH), lambda: nn.Linear(WIDTH, WIDTH)
    trunk, shared_layer, bodies = Bent(own()), own(), [Bent(own()) for _ in range(3)]
    if where in ("layer and heads", "everywhere"):
        shared_layer, bodies[0], bodies[2] = a, Bent(a), Bent(own(), a)
    if where in ("trunk and heads", "everywhere"):
        trunk, bodies[0], bodies[1] = Bent(a), Bent(a), Bent(own(), a)
    if where == "trunk and layer":
        trunk, shared_layer = nn.Sequential(Bent(a), Bent(own())), a
    if where == "trunk and layer, unlisted":
        trunk, shared_layer = nn.Sequential(Bent(None, a), Bent(own())), a
    if where == "heads":
        bodies[0], bodies[1], bodies[2] = Bent(a), Bent(a), Bent(own(), a)
    if where == "skip":
        trunk = Remembering(own())
        bodies[0], bodies[2] = Skip(trunk, own()), Skip(trunk, own())
    if where == "a head that uses nothing of the rest":
        trunk, shared_layer = Bent(a), a
        bodies[1] = nn.Sequential(Constant(), Bent(own()))
    heads = {f"task_{i}": nn.Sequential(body, nn.Linear(WIDTH, 1), nn.Flatten(0)) for i, body in enumerate(bodies)}
    return MultiTaskModel(trunk=trunk, shared_layer=shared_layer, heads=heads)


class Remembering(Bent):
    def forward(self, inputs):
        self.remembered = super().forward(inputs)
        return self.remembered


class Skip(Bent):
    """Adds what the trunk has put out, past the shared layer."""

    def __init__(self, trunk, layer):
        super().__init__(layer)
        self.trunk = [trunk]

    def forward(self, inputs):
        return super().forward(inputs) + self.trunk[0].remembered


class Constant(nn.Module):
    def forward(self, inputs):
        return torch.ones_like(inputs)


SHARINGS = [
    "layer and heads",
    "trunk and heads",
    "trunk and layer",
    "trunk and layer, unlisted",
    "heads",
    "everywhere",
    "skip",
    "a head that uses nothing of the rest",
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("where", SHARINGS)
def test_a_layer_that_is_used_in_several_places_gets_every_part_once(problem, where, way):
    torch.manual_seed(0)
    model = sharing_model(where).double()
    twin = copy.deepcopy(model)
    inputs = [torch.randn(len(problem.train), WIDTH, dtype=torch.float64)]
    found = way(model, problem.tasks, inputs, problem.train.targets)
    plain = differentiator(twin, problem.tasks).plain_losses(inputs, problem.train.targets)

    shared = list(twin.shared_layer.parameters())
    rows = []
    for loss in plain.attached_losses_T:
        parts = torch.autograd.grad(loss, shared, retain_graph=True, allow_unused=True)
        rows.append(torch.cat([(0 * p if g is None else g).flatten() for g, p in zip(parts, shared, strict=True)]))
    expected_TD = torch.stack(rows)
    torch.testing.assert_close(found.norms_T, expected_TD.norm(dim=1), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found.gramian_TT, expected_TD @ expected_TD.T, rtol=1e-12, atol=1e-14)

    plain.backward(WEIGHTS)
    for name, gradient in gradients_of(model).items():
        torch.testing.assert_close(gradient, gradients_of(twin)[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("weights_are_known", [True, False])
@pytest.mark.parametrize("where", SHARINGS)
def test_a_second_step_of_a_network_that_shares_layers_is_as_right_as_the_first(problem, where, weights_are_known):
    torch.manual_seed(0)
    model = sharing_model(where).double()
    twin = copy.deepcopy(model)
    inputs = [torch.randn(len(problem.train), WIDTH, dtype=torch.float64)]
    found, plain = differentiator(model, problem.tasks), differentiator(twin, problem.tasks)
    targets = problem.train.targets
    steps = [
        (twin, lambda: plain.plain_losses(inputs, targets).backward(WEIGHTS)),
        (model, lambda: found.task_gradients(inputs, targets).backward(WEIGHTS)),
    ]
    if weights_are_known:
        steps[1] = (model, lambda: found.backward(inputs, targets, WEIGHTS))
    for network, step in steps:
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            step()
            optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("way", WAYS)
def test_a_trunk_without_parameters_and_a_frozen_one_are_trained_around(problem, way):
    for trunk in (nn.Identity(), nn.Linear(5, 5).requires_grad_(False)):
        heads = {task.name: nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)) for task in problem.tasks}
        model = MultiTaskModel(trunk=trunk, shared_layer=nn.Linear(5, 6), heads=heads).double()
        way(model, problem.tasks, problem.train.inputs, problem.train.targets)
        assert all(p.grad is None for p in trunk.parameters())
        assert all(p.grad is not None for p in model.shared_layer.parameters())


def test_a_shared_layer_without_parameters_is_refused(problem):
    heads = {task.name: nn.Linear(5, 1) for task in problem.tasks}
    model = MultiTaskModel(trunk=nn.Linear(5, 5), shared_layer=nn.ReLU(), heads=heads)
    with pytest.raises(ValueError, match="no trainable parameter"):
        differentiator(model, problem.tasks)


def test_a_shared_layer_that_gives_the_heads_more_than_one_tensor_is_refused(problem):
    class Pair(nn.Linear):
        def forward(self, inputs):
            return super().forward(inputs), inputs

    heads = {task.name: nn.Linear(6, 1) for task in problem.tasks}
    model = MultiTaskModel(trunk=nn.Linear(5, 5), shared_layer=Pair(5, 6), heads=heads).double()
    with pytest.raises(TypeError, match="one tensor to the heads, not tuple"):
        differentiator(model, problem.tasks).task_gradients(problem.train.inputs, problem.train.targets)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("others_use_it", [True, False])
def test_a_head_that_does_not_use_the_shared_layer_has_no_gradient_there(problem, way, others_use_it):
    torch.manual_seed(0)
    model = problem.build_model().double()
    uses_none = list(model.heads)[:1] if others_use_it else list(model.heads)
    for name in uses_none:
        model.heads[name] = nn.Sequential(Constant(), model.heads[name])
    twin = copy.deepcopy(model)
    found = way(model, problem.tasks, problem.train.inputs, problem.train.targets)
    differentiator(twin, problem.tasks).plain_losses(problem.train.inputs, problem.train.targets).backward(WEIGHTS)
    lengths = found.gradients_TD.norm(dim=1).tolist()
    assert [length > 0 for length in lengths] == ([False, True, True] if others_use_it else [False] * 3)
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        expected = torch.zeros_like(other) if other.grad is None else other.grad
        torch.testing.assert_close(
            torch.zeros_like(one) if one.grad is None else one.grad, expected, rtol=1e-12, atol=1e-14
        )
