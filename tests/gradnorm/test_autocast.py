"""The forward pass in bfloat16: what the weights are made of stays in float32."""

from __future__ import annotations

import copy

import pytest
import torch

from trainables.balancers.single_task import SingleTask
from trainables.gradients import differentiator
from trainables.protocol import Lane, LaneEnding
from trainables.testing import tiny_problem
from trainables.training import train


@pytest.fixture
def problem():
    return tiny_problem(num_tasks=3, hidden=(64, 32))


def by_hand(model, problem):
    """Losses and unweighted gradients at the shared layer, in the way that torch's own documentation shows."""
    split = problem.train
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(*split.inputs)
    assert {output.dtype for output in outputs.values()} == {torch.bfloat16}
    losses = [task.loss(outputs[task.name].float(), split.targets[task.name]) for task in problem.tasks]
    shared = list(model.shared_layer.parameters())
    rows = [torch.cat([g.flatten() for g in torch.autograd.grad(one, shared, retain_graph=True)]) for one in losses]
    return torch.stack(losses).detach(), torch.stack(rows)


def test_losses_gradients_and_norms_are_float32_and_those_of_autocast(problem):
    torch.manual_seed(0)
    model = problem.build_model()
    losses_T, rows_TD = by_hand(copy.deepcopy(model), problem)
    found = differentiator(model, problem.tasks, autocast=torch.bfloat16).task_gradients(
        problem.train.inputs, problem.train.targets
    )
    assert found.losses_T.dtype == found.norms_T.dtype == found.gramian_TT.dtype == torch.float32
    torch.testing.assert_close(found.losses_T, losses_T)
    torch.testing.assert_close(found.norms_T, rows_TD.norm(dim=1))
    assert (found.norms_T != found.norms_T.bfloat16().float()).all(), "these are bfloat16's numbers"


@pytest.mark.parametrize("separate", [False, True])
def test_the_networks_gradient_is_that_of_the_weighted_sum(problem, separate):
    torch.manual_seed(0)
    model = SingleTask().build_model(problem) if separate else problem.build_model()
    twin = copy.deepcopy(model)
    weights_T = torch.tensor([0.3, 1.9, 0.8])
    for network, method in ((model, "task_gradients"), (twin, "plain_losses")):
        step = getattr(differentiator(network, problem.tasks, autocast=torch.bfloat16), method)
        step(problem.train.inputs, problem.train.targets).backward(weights_T)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert parameter.grad.dtype == torch.float32
        # The tasks' gradients meet at h in bfloat16, which has 8 bits: in one order or another.
        torch.testing.assert_close(parameter.grad, other.grad, rtol=0.05, atol=0.02 * other.grad.abs().max().item())


@pytest.mark.parametrize("balancer", ["gradnorm", "equal"])
def test_a_lane_learns_in_bfloat16_what_it_learns_in_float32_but_for_rounding(problem, balancer):
    ends = []
    for autocast in ("none", "bfloat16"):
        reports = []
        params = {"steps": 60, "batch_size": 16, "lr": 3e-3, "autocast": autocast, "report_every": 60}
        train(problem, [Lane(key="a", balancer=balancer, params=params)], lambda new: reports.extend(new) or ())  # noqa: B023
        assert reports[-1].ending is LaneEnding.COMPLETED, reports[-1]
        ends.append(reports[-1])
        assert {value.dtype for value in reports[-1].checkpoint.model.values()} == {torch.float32}
    full, half = (end.metrics["val/normalized_loss"] for end in ends)
    assert half != full, "nothing ran in bfloat16"
    assert half == pytest.approx(full, rel=0.05)
