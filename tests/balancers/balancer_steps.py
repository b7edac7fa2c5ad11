"""Short ways to take a balancer through steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.balancers import Balancer, GradientInfo, State
from trainables.catalog import TaskKind
from trainables.protocol import Task

CPU = torch.device("cpu")
KINDS = list(TaskKind)


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def tasks_of(num_tasks: int) -> list[Task]:
    """Tasks of all kinds in turn."""
    return [
        Task(name=f"task_{i}", kind=KINDS[i % 4], loss=torch.nn.functional.mse_loss, num_classes=2)
        for i in range(num_tasks)
    ]


def info_of(gradients_TD: Tensor) -> GradientInfo:
    """All that there is to know of those task gradients."""
    gramian_TT = gradients_TD @ gradients_TD.mT
    return GradientInfo(norms_T=gramian_TT.diagonal().sqrt(), gramian_TT=gramian_TT)


def start(balancer: Balancer, num_tasks: int, dtype: torch.dtype = torch.float64) -> State:
    return balancer.initial_state(num_tasks=num_tasks, device=CPU, dtype=dtype)


def weigh_losses(balancer: Balancer, losses_T: Tensor, state: State | None = None, seed: int = 0):
    """The weights and the state after a step that nobody looked at gradients for."""
    state = start(balancer, losses_T.numel(), losses_T.dtype) if state is None else state
    return balancer.weigh(losses_T, GradientInfo(), state, torch.Generator().manual_seed(seed))


def weigh_gradients(balancer: Balancer, gradients_TD: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The first weights that a balancer answers those task gradients with."""
    num_tasks = len(gradients_TD)
    state = start(balancer, num_tasks, gradients_TD.dtype)
    losses_T = torch.ones(num_tasks, dtype=gradients_TD.dtype)
    return balancer.weigh(losses_T, info_of(gradients_TD), state, generator or torch.Generator())[0]


def rows(values: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
