"""The balancers that see losses alone, against values worked out by hand or by automatic differentiation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from balancer_steps import start, tensor, weigh_losses

from trainables.balancers import WEIGHTS
from trainables.balancers.dwa import DynamicWeightAverage, rate_weights
from trainables.balancers.famo import LOGITS, Famo
from trainables.balancers.geometric import Geometric
from trainables.balancers.initial_loss import NegativeLossError
from trainables.balancers.log_sum import LogSum
from trainables.balancers.rlw import RandomLossWeighting

CLOSE: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-12}


def test_dynamic_weight_average_by_hand():
    # Windows of two steps: L(1) = (4, 2), L(2) = (2, 2), L(3) = (2, 1); r(3) = (1/2, 1), r(4) = (1, 1/2); T = 2.
    balancer = DynamicWeightAverage(window=2, temperature=2.0)
    state = start(balancer, 2)
    used = []
    for losses in [(5, 1), (3, 3), (2, 2), (2, 2), (1, 1), (3, 1), (9, 9)]:
        weights, state = weigh_losses(balancer, tensor(*losses), state)
        used.append(weights.tolist())
    slow = 2 * math.exp(1 / 2) / (math.exp(1 / 2) + math.exp(1 / 4))
    assert used[:4] == [[1.0, 1.0]] * 4  # two windows have to be over
    assert used[4] == used[5] == pytest.approx([2 - slow, slow], rel=1e-12)
    assert used[6] == pytest.approx([slow, 2 - slow], rel=1e-12)


def test_a_task_that_was_at_zero_for_a_window_has_rate_one():
    balancer = DynamicWeightAverage(window=1, temperature=2.0)
    state = start(balancer, 2)
    for losses in [(0, 4), (3, 4)]:
        _, state = weigh_losses(balancer, tensor(*losses), state)
    assert state[WEIGHTS].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_loss_that_has_grown_a_thousandfold_leaves_the_other_tasks_a_weight(dtype):
    weights_T = rate_weights(torch.tensor([1.0, 1.0, 1e3], dtype=dtype), torch.ones(3, dtype=dtype), 2.0)
    assert weights_T.tolist() == pytest.approx([1e-4, 1e-4, 3 - 2e-4], rel=1e-3)


def test_random_weights_are_the_softmax_of_the_generator_s_own_normal_draw():
    balancer = RandomLossWeighting()
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randn(3, generator=generator, dtype=torch.float64)
    weights, _ = weigh_losses(balancer, tensor(1, 2, 3), seed=5)
    torch.testing.assert_close(weights, 3 * drawn.exp() / drawn.exp().sum(), **CLOSE)
    single, _ = weigh_losses(balancer, tensor(1, 2, 3).float(), seed=5)
    assert torch.equal(single, weights.float())


def test_random_weights_are_new_at_every_step_and_of_mean_one():
    balancer, generator = RandomLossWeighting(), torch.Generator().manual_seed(1)
    state = start(balancer, 4)
    drawn = []
    for _ in range(2000):
        weights, state = balancer.weigh(tensor(1, 1, 1, 1), None, state, generator)  # type: ignore[arg-type]
        drawn.append(weights)
    all_weights = torch.stack(drawn)
    assert len({tuple(row.tolist()) for row in all_weights}) == 2000
    torch.testing.assert_close(all_weights.mean(0), torch.ones(4, dtype=torch.float64), rtol=0, atol=0.06)


@pytest.mark.parametrize(
    ("balancer", "objective"),
    [
        (LogSum(), lambda losses: (losses + 1e-8).log().sum()),
        (Geometric(), lambda losses: (losses + 1e-8).prod() ** (1 / losses.numel())),
    ],
    ids=["log_sum", "geometric"],
)
def test_the_weights_are_the_gradient_of_the_objective(balancer, objective):
    losses = tensor(0.3, 20.0, 1e-3, 4.0).requires_grad_()
    (gradient,) = torch.autograd.grad(objective(losses), losses)
    weights, state = weigh_losses(balancer, losses.detach())
    torch.testing.assert_close(weights, gradient, **CLOSE)
    assert torch.equal(state[WEIGHTS], weights)


def test_the_geometric_mean_by_hand():
    weights, _ = weigh_losses(Geometric(), tensor(1, 4))  # the mean is 2: w = 2 / (2 L)
    torch.testing.assert_close(weights, tensor(1, 0.25), rtol=1e-7, atol=0)


@pytest.mark.parametrize("balancer", [LogSum(), Geometric(), Famo(weight_lr=0.025, decay=1e-3)])
def test_a_loss_of_zero_has_a_finite_weight(balancer):
    for dtype in (torch.float32, torch.float64):
        assert weigh_losses(balancer, tensor(0, 1, 5).to(dtype))[0].isfinite().all()


@pytest.mark.parametrize(
    "balancer",
    [LogSum(), Geometric(), Famo(weight_lr=0.1, decay=0.0), DynamicWeightAverage(window=5, temperature=2.0)],
)
def test_a_loss_that_fell_below_zero_is_refused_at_the_next_report(balancer):
    _, state = weigh_losses(balancer, tensor(1, -0.5))
    _, state = weigh_losses(balancer, tensor(1, 2), state)
    with pytest.raises(NegativeLossError, match=r"task 'b': the loss fell to -0\.5"):
        balancer.check(state, ["a", "b"])


def test_famo_is_the_softmax_and_torch_s_adam_with_weight_decay():
    balancer = Famo(weight_lr=0.03, decay=0.05)
    state = start(balancer, 3)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.03, weight_decay=0.05)
    generator = torch.Generator().manual_seed(9)
    for _ in range(30):
        before = torch.rand(3, generator=generator, dtype=torch.float64) * tensor(1, 10, 100)
        after = before * (0.7 + 0.4 * torch.rand(3, generator=generator, dtype=torch.float64))
        used, state = weigh_losses(balancer, before, state)
        state = balancer.after_step(after, state)

        losses = before.clone().requires_grad_()
        shares = torch.softmax(logits.detach(), dim=0)
        constant = 1 / (shares / (before + 1e-8)).sum()
        (expected,) = torch.autograd.grad((constant * shares * (losses + 1e-8).log()).sum(), losses)
        torch.testing.assert_close(used, 3 * expected, **CLOSE)  # the paper's weights sum to 1, these to T

        fallen = (before + 1e-8).log() - (after + 1e-8).log()
        optimizer.zero_grad()
        torch.softmax(logits, dim=0).backward(fallen)
        optimizer.step()
        torch.testing.assert_close(state[LOGITS], logits.detach(), **CLOSE)


def test_famo_gives_more_weight_to_a_task_that_falls_less():
    balancer = Famo(weight_lr=0.1, decay=0.0)
    _, state = weigh_losses(balancer, tensor(1, 1))
    state = balancer.after_step(tensor(0.5, 0.9), state)
    weights, _ = weigh_losses(balancer, tensor(1, 1), state)
    assert weights[1] > 1 > weights[0]
