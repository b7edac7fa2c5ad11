"""GradNorm against Algorithm 1 of the paper, written out with a second-order graph and torch's own optimisers."""

from __future__ import annotations

import pytest
import torch
from layer_problems import SHARED_LAYERS, layer_problem

from trainables.balancers.base import SMALLEST_WEIGHT
from trainables.batches import Batches
from trainables.engine.lane import DATA_STREAM
from trainables.protocol import Lane
from trainables.seeding import new_generator
from trainables.testing import tiny_problem
from trainables.training import train

STEPS = 50


def reference(problem, *, alpha, weight_lr, lr, batch_size, seed):
    """Yields (n_T, w_T after the step, network's state) step by step."""
    torch.manual_seed(seed)
    model = problem.build_model().double()
    problem = problem.to(device=torch.device("cpu"), dtype=torch.float64)
    num_tasks = len(problem.tasks)
    weights = torch.ones(num_tasks, dtype=torch.float64, requires_grad=True)
    weight_optimizer = torch.optim.Adam([weights], lr=weight_lr)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    batches = Batches(problem.train, batch_size=batch_size, generator=new_generator(seed, DATA_STREAM))
    shared = list(model.shared_layer.parameters())
    initial = None
    for _ in range(STEPS):
        inputs, targets = batches.take()
        outputs = model(*inputs)
        losses = torch.stack([task.loss(outputs[task.name], targets[task.name]) for task in problem.tasks])
        initial = losses.detach() if initial is None else initial
        norms, unweighted = [], []
        for index in range(num_tasks):
            gradients = torch.autograd.grad(weights[index] * losses[index], shared, create_graph=True)
            norms.append(torch.cat([g.flatten() for g in gradients]).norm())
            unweighted.append(norms[-1].detach() / weights[index].detach())
        G = torch.stack(norms)
        ratios = losses.detach() / initial
        rates = ratios / ratios.mean()
        grad_loss = (G - (G.mean() * rates**alpha).detach()).abs().sum()
        (weight_gradient,) = torch.autograd.grad(grad_loss, weights, retain_graph=True)

        optimizer.zero_grad()
        (losses * weights.detach()).sum().backward()
        optimizer.step()
        weights.grad = weight_gradient
        weight_optimizer.step()
        with torch.no_grad():
            weights.clamp_(min=SMALLEST_WEIGHT)
            weights.mul_(num_tasks / weights.sum())
        yield (
            torch.stack(unweighted),
            weights.detach().clone(),
            {name: value.clone() for name, value in model.state_dict().items()},
            {name: parameter.grad.clone() for name, parameter in model.named_parameters()},
        )


def trained(problem, *, batch_size=16, **values):
    """The reports of the engine, one a step, each with its checkpoint."""
    every_step = {"dtype": "float64", "steps": STEPS, "report_every": 1, "checkpoint_every": 1}
    reports = []

    def keep(new):
        reports.extend(new)
        return ()

    params = {"batch_size": batch_size, **values, **every_step}
    train(problem, [Lane(key="a", balancer="gradnorm", params=params)], keep)
    assert len(reports) == STEPS, reports[-1].message
    return reports


def compare(problem, **values):
    """Weights, gradients and parameters of 50 steps agree to 1e-10."""
    names = [task.name for task in problem.tasks]
    exact = {"rtol": 0.0, "atol": 1e-10}
    moments: dict[str, torch.Tensor] = {}
    for report, (norms, weights, state, gradients) in zip(
        trained(problem, **values), reference(problem, **values), strict=True
    ):
        seen = torch.tensor([report.metrics[f"grad_norm/{name}"] for name in names], dtype=torch.float64)
        torch.testing.assert_close(seen, norms, **exact)
        torch.testing.assert_close(report.checkpoint.balancer_state["weights_T"], weights, **exact)
        for index, name in enumerate(gradients):
            # Adam's first moment is the running mean of the gradients: equal at each step only if they are.
            moments[name] = 0.9 * moments.get(name, torch.zeros_like(gradients[name])) + 0.1 * gradients[name]
            torch.testing.assert_close(report.checkpoint.optimizer["state"][index]["exp_avg"], moments[name], **exact)
        for name, value in state.items():
            torch.testing.assert_close(report.checkpoint.model[name], value, **exact)
    return report.step


@pytest.mark.parametrize(
    ("num_tasks", "alpha", "weight_lr"), [(2, 1.5, 0.025), (3, 1.5, 0.025), (3, 0.12, 0.2), (2, -0.5, 0.05)]
)
def test_fifty_steps_equal_the_double_backward_reference(num_tasks, alpha, weight_lr):
    problem = tiny_problem(num_tasks=num_tasks)
    assert compare(problem, alpha=alpha, weight_lr=weight_lr, lr=1e-2, batch_size=16, seed=5) == STEPS


@pytest.mark.parametrize("num_tasks", [2, 3, 10])
@pytest.mark.parametrize("shared_layer", SHARED_LAYERS)
def test_whatever_the_shared_layer_is_and_however_many_tasks_there_are(shared_layer, num_tasks):
    problem = layer_problem(shared_layer, num_tasks)
    assert compare(problem, alpha=1.5, weight_lr=0.025, lr=1e-2, batch_size=16, seed=11) == STEPS


@pytest.mark.parametrize(("num_tasks", "weight_lr"), [(2, 1.2), (10, 0.5)])
def test_weights_that_run_into_the_guard_agree_too(num_tasks, weight_lr):
    values = {"alpha": 3.0, "weight_lr": weight_lr, "lr": 1e-2, "batch_size": 16, "seed": 2}
    problem = layer_problem("Linear", num_tasks)
    weights = [report.checkpoint.balancer_state["weights_T"] for report in trained(problem, **values)]
    assert min(weight.min().item() for weight in weights) < 2 * SMALLEST_WEIGHT, "the guard was never needed"
    compare(problem, **values)


@pytest.mark.parametrize("shared_layer", SHARED_LAYERS)
def test_the_order_of_the_tasks_changes_nothing_but_the_order(shared_layer):
    """Not even the trunk: each sum over the tasks is the same but for rounding."""
    order = [2, 0, 1]
    values = {"alpha": 1.5, "weight_lr": 0.05, "lr": 1e-2, "batch_size": 16, "seed": 7}
    straight = trained(layer_problem(shared_layer, 3), **values)
    permuted = trained(layer_problem(shared_layer, 3, order), **values)
    for one, other in zip(straight, permuted, strict=True):
        for key, value in one.metrics.items():
            assert other.metrics[key] == pytest.approx(value, rel=1e-9), key
        weights = one.checkpoint.balancer_state["weights_T"][order]
        torch.testing.assert_close(other.checkpoint.balancer_state["weights_T"], weights, rtol=0, atol=1e-10)
        for name, parameter in one.checkpoint.model.items():
            torch.testing.assert_close(other.checkpoint.model[name], parameter, rtol=0, atol=1e-10)


def test_the_reference_is_not_blind():
    """With another alpha the weights are others: the comparison above could fail."""
    problem = tiny_problem(num_tasks=3)
    common = {"weight_lr": 0.05, "lr": 1e-2, "batch_size": 16, "seed": 5}
    *_, (_, one, _, _) = reference(problem, alpha=1.5, **common)
    *_, (_, other, _, _) = reference(problem, alpha=-1.5, **common)
    assert (one - other).abs().max() > 1e-3
