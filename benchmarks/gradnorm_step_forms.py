"""One training step with GradNorm, in the forms in which it is written.

Every form trains a network of its own from the same initial weights, with the same fused AdamW; GradNorm's α, weight_lr
and L(0) (the first batch's loss) are the same too. ``plain`` and ``ours`` are the engine's own steps, with all that the
engine does besides (it watches for numbers that are not finite, and sums the losses up for its reports).

Shapes: T tasks, P parameters that all tasks share.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from trainables.balancers.gradnorm import SMALLEST_WEIGHT
from trainables.engine.lane import LaneTraining
from trainables.protocol import Lane, Problem, Task

ALPHA, WEIGHT_LR, LR = 0.12, 0.025, 1e-3  # α and weight_lr of the paper's toy
SEED = 0

Inputs = Sequence[Tensor]
Targets = Mapping[str, Tensor]


class Form(Protocol):
    """A network and a way to take a training step of it."""

    def step(self, inputs: Inputs, targets: Targets) -> None:
        """Forward, gradients, the weights' update, the optimiser's step."""
        ...

    @property
    def weights_T(self) -> Tensor:
        """The weights that the next step will use."""
        ...


class EngineForm:
    """The step of ``engine.lane``, with the balancer of that name."""

    def __init__(self, balancer: str, problem: Problem, dtype: str) -> None:
        params = {"lr": LR, "alpha": ALPHA, "weight_lr": WEIGHT_LR, "seed": SEED, "dtype": dtype}
        self._training = LaneTraining(problem, Lane(key="a", balancer=balancer, params=params), torch.device("cpu"))

    def step(self, inputs: Inputs, targets: Targets) -> None:
        self._training.train_on(inputs, targets)

    @property
    def model(self) -> nn.Module:
        return self._training.model

    @property
    def weights_T(self) -> Tensor:
        return self._training.weights_T


class HandWrittenForm:
    """What the other forms have in common. By itself: equal weights in a bare training loop."""

    def __init__(self, problem: Problem, dtype: str) -> None:
        torch.manual_seed(SEED)
        self.model = problem.build_model().to(getattr(torch, dtype))
        self.tasks: Sequence[Task] = problem.tasks
        self.shared = list(self.model.shared_layer.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        self.weights = nn.Parameter(torch.ones(len(self.tasks), dtype=getattr(torch, dtype)))
        self.weight_optimizer = torch.optim.Adam([self.weights], lr=WEIGHT_LR)
        self.initial_losses_T: Tensor | None = None

    @property
    def weights_T(self) -> Tensor:
        return self.weights.detach().clone()

    def step(self, inputs: Inputs, targets: Targets) -> None:
        self.optimizer.zero_grad()
        torch.stack(self.losses(inputs, targets)).sum().backward()
        self.optimizer.step()

    def losses(self, inputs: Inputs, targets: Targets) -> list[Tensor]:
        """One by one: differentiated as an element of a stack, each would walk the heads of all, with zeros."""
        outputs = self.model(*inputs)
        return [task.loss(outputs[task.name], targets[task.name]) for task in self.tasks]

    def weighted_sum(self, losses: Sequence[Tensor]) -> Tensor:
        """Σ_i w_i L_i, the weights taken as constants."""
        return torch.stack(list(losses)) @ self.weights.detach()

    def grad_loss(self, norms_T: Tensor, losses: Sequence[Tensor]) -> Tensor:
        """L_grad of the paper's eq. 2, from G_i with their graph."""
        losses_T = torch.stack([loss.detach() for loss in losses])
        if self.initial_losses_T is None:
            self.initial_losses_T = losses_T
        ratios_T = losses_T / self.initial_losses_T
        targets_T = (norms_T.mean() * (ratios_T / ratios_T.mean()) ** ALPHA).detach()
        return (norms_T - targets_T).abs().sum()

    def second_order_norms(self, losses: Sequence[Tensor]) -> Tensor:
        """G_i = ‖∇_W w_i L_i‖₂ with a graph of its own."""
        rows = []
        for weight, loss in zip(self.weights, losses, strict=True):
            gradients = torch.autograd.grad(weight * loss, self.shared, create_graph=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())
        return torch.stack(rows)

    def move_weights(self) -> None:
        """Adam, then the guard that the engine has too (the paper says "renormalize" only)."""
        self.weight_optimizer.step()
        with torch.no_grad():
            self.weights.clamp_(min=SMALLEST_WEIGHT)
            self.weights.mul_(len(self.weights) / self.weights.sum())


class CreateGraphForm(HandWrittenForm):
    """A second-order graph, L_grad differentiated by w only: nothing leaks."""

    def step(self, inputs: Inputs, targets: Targets) -> None:
        losses = self.losses(inputs, targets)
        grad_loss = self.grad_loss(self.second_order_norms(losses), losses)
        (weight_gradient_T,) = torch.autograd.grad(grad_loss, self.weights, retain_graph=True)
        self.optimizer.zero_grad()
        self.weighted_sum(losses).backward()
        self.optimizer.step()
        self.weights.grad = weight_gradient_T
        self.move_weights()


class CreateGraphFullForm(HandWrittenForm):
    """``L_grad.backward()`` through everything; what it leaves in the network's gradients is thrown away."""

    def step(self, inputs: Inputs, targets: Targets) -> None:
        losses = self.losses(inputs, targets)
        self.weight_optimizer.zero_grad()
        self.grad_loss(self.second_order_norms(losses), losses).backward(retain_graph=True)
        self.optimizer.zero_grad()  # the leak
        self.weighted_sum(losses).backward()
        self.optimizer.step()
        self.move_weights()


class FullTrunkForm(HandWrittenForm):
    """Every task's gradient by all that the tasks share, trunk included: T passes through it. The norms are those of
    the whole; the network's gradient is put together from the rows.
    """

    def __init__(self, problem: Problem, dtype: str) -> None:
        super().__init__(problem, dtype)
        self.all_shared = [*self.model.trunk.parameters(), *self.shared]
        self.heads = [list(self.model.heads[task.name].parameters()) for task in self.tasks]

    def step(self, inputs: Inputs, targets: Targets) -> None:
        losses = self.losses(inputs, targets)
        num_shared, rows = len(self.all_shared), []
        for loss, head, weight in zip(losses, self.heads, self.weights.detach(), strict=True):
            gradients = torch.autograd.grad(loss, [*self.all_shared, *head], retain_graph=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients[:num_shared]]))
            for parameter, gradient in zip(head, gradients[num_shared:], strict=True):
                parameter.grad = weight * gradient
        rows_TP = torch.stack(rows)
        self.weight_optimizer.zero_grad()
        self.grad_loss(self.weights * rows_TP.norm(dim=1), losses).backward()
        combined = (self.weights.detach() @ rows_TP).split([parameter.numel() for parameter in self.all_shared])
        for parameter, gradient in zip(self.all_shared, combined, strict=True):
            parameter.grad = gradient.view_as(parameter)
        self.optimizer.step()
        self.move_weights()


class GradNormPytorchForm(HandWrittenForm):
    """The package ``gradnorm-pytorch``, called as its README shows. It compares the tasks at one parameter, here the
    shared layer's weight without its bias, moves its weights by plain gradient descent, and stacks the losses itself.
    """

    def __init__(self, problem: Problem, dtype: str) -> None:
        super().__init__(problem, dtype)
        self._weighter = importlib.import_module("gradnorm_pytorch").GradNormLossWeighter(
            num_losses=len(self.tasks),
            learning_rate=WEIGHT_LR,
            restoring_force_alpha=ALPHA,
            grad_norm_parameters=self.model.shared_layer.weight,
        )

    @property
    def weights_T(self) -> Tensor:
        return self._weighter.loss_weights.clone()

    def step(self, inputs: Inputs, targets: Targets) -> None:
        self.optimizer.zero_grad()
        self._weighter.backward(self.losses(inputs, targets))
        self.optimizer.step()


FORMS: Mapping[str, Callable[[Problem, str], Form]] = {
    "plain": lambda problem, dtype: EngineForm("equal", problem, dtype),
    "bare": HandWrittenForm,
    "ours": lambda problem, dtype: EngineForm("gradnorm", problem, dtype),
    "create_graph": CreateGraphForm,
    "create_graph_full": CreateGraphFullForm,
    "gradnorm_pytorch": GradNormPytorchForm,
    "full_trunk": FullTrunkForm,
}


def missing_forms() -> dict[str, str]:
    """The forms that cannot be run here, and why."""
    try:
        importlib.import_module("gradnorm_pytorch")
    except ImportError as error:
        return {"gradnorm_pytorch": f"{error} (pip install '.[bench]')"}
    return {}
