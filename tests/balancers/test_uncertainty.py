"""Uncertainty weights, against automatic differentiation of the paper's objective."""

from __future__ import annotations

import pytest
import torch

from trainables.balancers import WEIGHTS, GradientInfo, create_balancer
from trainables.balancers.uncertainty import LOG_VARIANCES, Uncertainty
from trainables.catalog import TaskKind
from trainables.protocol import Task
from trainables.settings import TrainingSettings

KINDS = (TaskKind.REGRESSION, TaskKind.BINARY, TaskKind.COUNT, TaskKind.MULTICLASS)


def test_thirty_steps_are_those_of_autograd_and_torch_s_adam_on_the_paper_s_objective():
    settings = TrainingSettings.from_params({"weight_lr": 0.07})
    tasks = [Task(name=kind, kind=kind, loss=torch.nn.functional.mse_loss) for kind in KINDS]
    balancer = create_balancer("uncertainty", settings, tasks)
    state = balancer.initial_state(num_tasks=4, device=torch.device("cpu"), dtype=torch.float64)

    log_variances = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_variances], lr=0.07)
    generator = torch.Generator().manual_seed(3)
    for _ in range(30):
        losses = (torch.rand(4, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 1.0, 0.1, 2.0])).detach()
        losses.requires_grad_()
        precisions = torch.exp(-log_variances)  # 1 / sigma^2
        objective = sum(
            precision * loss * (0.5 if kind in (TaskKind.REGRESSION, TaskKind.COUNT) else 1.0) + log_variance / 2
            for precision, loss, log_variance, kind in zip(precisions, losses, log_variances, KINDS, strict=True)
        )
        assert isinstance(objective, torch.Tensor)
        optimizer.zero_grad()
        objective.backward()
        used, state = balancer.weigh(losses.detach(), GradientInfo(), state, torch.Generator())
        torch.testing.assert_close(used, losses.grad, rtol=1e-12, atol=1e-12)  # the factor of each loss
        optimizer.step()
        torch.testing.assert_close(state[LOG_VARIANCES], log_variances.detach(), rtol=1e-12, atol=1e-12)


def test_at_rest_every_weighted_loss_is_one_half():
    balancer = Uncertainty(factors=[0.5, 1.0], weight_lr=0.1)
    state = balancer.initial_state(num_tasks=2, device=torch.device("cpu"), dtype=torch.float64)
    losses = torch.tensor([20.0, 0.05], dtype=torch.float64)
    for _ in range(1500):
        _, state = balancer.weigh(losses, GradientInfo(), state, torch.Generator())
    assert (state[WEIGHTS] * losses).tolist() == pytest.approx([0.5, 0.5], rel=1e-3)
