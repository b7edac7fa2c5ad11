"""GradNorm's update of the weights, on numbers that can be checked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.balancers import INITIAL_LOSSES, WEIGHTS, GradientInfo
from trainables.balancers.base import SMALLEST_WEIGHT
from trainables.balancers.gradnorm import GradNorm, adam_step, guarded, relative_rates, weight_gradient
from trainables.balancers.initial_loss import InitialLoss, InitialLossError, NegativeLossError, check_initial_losses

CPU = torch.device("cpu")
FIRST_BATCH = InitialLoss(given=[None, None])


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def start(balancer: GradNorm, num_tasks: int = 2):
    return balancer.initial_state(num_tasks=num_tasks, device=CPU, dtype=torch.float64)


def weigh(balancer: GradNorm, losses, norms, state):
    return balancer.weigh(losses, GradientInfo(norms_T=norms), state, torch.Generator())


def test_two_tasks_by_hand():
    # L(0) = (4, 4), L = (2, 4): L~ = (1/2, 1), mean 3/4, r = (2/3, 4/3). n = (3, 1), w = (1, 1): G = (3, 1), mean 2.
    # alpha = 1: c = (4/3, 8/3); G - c = (+5/3, -5/3); dL/dw = (+3, -1). Adam's first step is lr * sign.
    balancer = GradNorm(alpha=1.0, weight_lr=0.1, initial_loss=InitialLoss(given=[4.0, 4.0]))
    torch.testing.assert_close(relative_rates(tensor(2, 4), tensor(4, 4)), tensor(2 / 3, 4 / 3))
    torch.testing.assert_close(weight_gradient(tensor(3, 1), tensor(1, 1), tensor(2 / 3, 4 / 3), 1.0), tensor(3, -1))
    used, state = weigh(balancer, tensor(2, 4), tensor(3, 1), start(balancer))
    assert used.tolist() == [1.0, 1.0]
    torch.testing.assert_close(state[WEIGHTS], tensor(0.9, 1.1), rtol=0, atol=1e-8)


def test_a_step_that_crosses_zero_is_clamped_and_then_rescaled():
    balancer = GradNorm(alpha=1.0, weight_lr=1.5, initial_loss=InitialLoss(given=[4.0, 4.0]))
    _, state = weigh(balancer, tensor(2, 4), tensor(3, 1), start(balancer))
    scale = 2 / (2.5 + SMALLEST_WEIGHT)
    torch.testing.assert_close(state[WEIGHTS], tensor(SMALLEST_WEIGHT * scale, 2.5 * scale), rtol=0, atol=1e-7)


def test_the_weights_used_are_those_from_before_the_update():
    balancer = GradNorm(alpha=0.5, weight_lr=0.2, initial_loss=FIRST_BATCH)
    _, after_one = weigh(balancer, tensor(2, 4), tensor(3, 1), start(balancer))
    used, after_two = weigh(balancer, tensor(1, 3), tensor(2, 1), after_one)
    assert torch.equal(used, after_one[WEIGHTS])
    assert not torch.equal(used, after_two[WEIGHTS])


def test_a_positive_alpha_raises_the_weight_of_the_task_that_lags_and_a_negative_one_lowers_it():
    rates = relative_rates(tensor(3, 1), tensor(4, 4))  # task 0 has come less far
    same_norms = tensor(2, 2)
    assert weight_gradient(same_norms, tensor(1, 1), rates, 1.5)[0] < 0
    assert weight_gradient(same_norms, tensor(1, 1), rates, 1.5)[1] > 0
    assert weight_gradient(same_norms, tensor(1, 1), rates, -1.5)[0] > 0
    assert weight_gradient(same_norms, tensor(1, 1), rates, 0.0).tolist() == [0.0, 0.0]


def test_without_asymmetry_the_weights_settle_where_the_weighted_norms_are_equal():
    balancer = GradNorm(alpha=0.0, weight_lr=1e-3, initial_loss=FIRST_BATCH)
    state = start(balancer)
    for _ in range(3000):
        _, state = weigh(balancer, tensor(1, 1), tensor(3, 1), state)
    torch.testing.assert_close(state[WEIGHTS], tensor(0.5, 1.5), rtol=0, atol=0.02)


def test_the_closed_form_is_what_automatic_differentiation_gives():
    weights = tensor(0.4, 1.7, 0.9).requires_grad_()
    norms, rates = tensor(5, 0.2, 1.3), tensor(0.5, 1.4, 1.1)
    scaled = weights * norms
    targets = (scaled.mean() * rates**1.2).detach()
    (expected,) = torch.autograd.grad((scaled - targets).abs().sum(), weights)
    torch.testing.assert_close(weight_gradient(norms, weights.detach(), rates, 1.2), expected, rtol=1e-14, atol=0)


def test_the_own_adam_is_adam():
    balancer = GradNorm(alpha=0.0, weight_lr=0.05, initial_loss=FIRST_BATCH)
    generator = torch.Generator().manual_seed(3)
    reference = torch.nn.Parameter(tensor(1, 1))
    optimizer = torch.optim.Adam([reference], lr=0.05)
    state, mine = dict(start(balancer)), tensor(1, 1)
    for _ in range(100):
        gradient = torch.randn(2, generator=generator, dtype=torch.float64) * 10
        reference.grad = gradient
        optimizer.step()
        mine, adam = adam_step(mine, gradient, state, 0.05)
        state |= adam
    torch.testing.assert_close(mine, reference.detach(), rtol=1e-12, atol=1e-12)


def test_in_float32_the_first_steps_of_the_own_adam_are_full_steps():
    balancer = GradNorm(alpha=0.0, weight_lr=0.025, initial_loss=FIRST_BATCH)
    state = balancer.initial_state(num_tasks=2, device=CPU, dtype=torch.float32)
    moved, _ = adam_step(torch.ones(2), torch.tensor([4.0, -4.0]), state, 0.025)
    torch.testing.assert_close(moved, torch.tensor([0.975, 1.025]), rtol=0, atol=1e-7)


positive = st.floats(min_value=1e-6, max_value=1e6)


@given(st.lists(st.floats(min_value=-1e3, max_value=1e3), min_size=1, max_size=10))
def test_the_guard_makes_every_weight_positive_and_their_sum_the_number_of_tasks(values):
    weights = guarded(tensor(*values))
    assert (weights > 0).all()
    assert math.isclose(weights.sum().item(), len(values), rel_tol=1e-12)


@settings(max_examples=50)
@given(
    alpha=st.floats(min_value=-3, max_value=3),
    weight_lr=st.floats(min_value=1e-4, max_value=10),
    steps=st.lists(st.tuples(*[st.tuples(positive, positive)] * 3), min_size=1, max_size=12),
)
def test_weights_stay_positive_and_sum_to_the_number_of_tasks_whatever_happens(alpha, weight_lr, steps):
    balancer = GradNorm(alpha=alpha, weight_lr=weight_lr, initial_loss=InitialLoss(given=[None] * 3))
    state = start(balancer, 3)
    for step in steps:
        losses, norms = tensor(*[task[0] for task in step]), tensor(*[task[1] for task in step])
        _, state = weigh(balancer, losses, norms, state)
        assert (state[WEIGHTS] > 0).all()
        assert math.isclose(state[WEIGHTS].sum().item(), 3, rel_tol=1e-12)


@given(scale=st.floats(min_value=1e-3, max_value=1e3), alpha=st.floats(min_value=-3, max_value=3))
def test_scaling_all_losses_by_a_constant_scales_the_gradient_of_the_weights_and_leaves_its_direction(scale, alpha):
    # At fixed parameters of the network: n_i and L_i(t), L_i(0) all grow by the factor, so that r_i stays.
    losses, initial, norms, weights = tensor(3, 0.2, 8), tensor(4, 1, 9), tensor(5, 0.3, 40), tensor(0.6, 2.1, 0.3)
    gradient = weight_gradient(norms, weights, relative_rates(losses, initial), alpha)
    scaled = weight_gradient(scale * norms, weights, relative_rates(scale * losses, scale * initial), alpha)
    torch.testing.assert_close(scaled, scale * gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e4])
def test_in_other_units_of_all_losses_the_weights_take_the_same_way(scale):
    """Adam divides by the size of the gradient: but for its epsilon even the steps are the same."""
    balancer = GradNorm(alpha=1.2, weight_lr=0.05, initial_loss=InitialLoss(given=[None] * 3))
    one, other = start(balancer, 3), start(balancer, 3)
    generator = torch.Generator().manual_seed(8)
    for _ in range(30):
        losses, norms = torch.rand(2, 3, generator=generator, dtype=torch.float64) + 0.5
        _, one = weigh(balancer, losses, norms, one)
        _, other = weigh(balancer, scale * losses, scale * norms, other)
    torch.testing.assert_close(other[WEIGHTS], one[WEIGHTS], rtol=1e-4, atol=0)


def test_a_task_that_lags_gains_weight_step_by_step():
    balancer = GradNorm(alpha=1.5, weight_lr=0.02, initial_loss=InitialLoss(given=[1.0, 1.0]))
    state = start(balancer)
    history = [state[WEIGHTS][0].item()]
    for step in range(1, 20):
        losses = tensor(1.0, 0.9**step)  # task 0 does not move
        _, state = weigh(balancer, losses, tensor(1, 1), state)
        history.append(state[WEIGHTS][0].item())
    assert history == sorted(history)
    assert history[-1] > 1.2


def test_the_order_of_the_tasks_does_not_matter():
    balancer = GradNorm(alpha=1.2, weight_lr=0.1, initial_loss=InitialLoss(given=[None] * 3))
    one, other = start(balancer, 3), start(balancer, 3)
    order = torch.tensor([2, 0, 1])
    for losses, norms in [(tensor(3, 1, 2), tensor(1, 5, 2)), (tensor(2, 1, 1), tensor(2, 3, 2))]:
        _, one = weigh(balancer, losses, norms, one)
        _, other = weigh(balancer, losses[order], norms[order], other)
    torch.testing.assert_close(one[WEIGHTS][order], other[WEIGHTS], rtol=1e-14, atol=0)


def test_the_initial_loss_of_the_first_batch_never_changes():
    rule = InitialLoss(given=[None, None])
    state = rule.update(tensor(4, 2), rule.initial_state(device=CPU, dtype=torch.float64))
    assert state[INITIAL_LOSSES].tolist() == [4, 2]
    assert rule.update(tensor(1, 1), state)[INITIAL_LOSSES].tolist() == [4, 2]


def test_the_initial_loss_of_several_batches_is_their_mean():
    rule = InitialLoss(given=[None, None], num_batches=3)
    state = rule.initial_state(device=CPU, dtype=torch.float64)
    seen = []
    for losses in [tensor(4, 2), tensor(2, 2), tensor(3, 5), tensor(100, 100)]:
        state = rule.update(losses, state)
        seen.append(state[INITIAL_LOSSES].tolist())
    assert seen == [[4, 2], [3, 2], [3, 3], [3, 3]]


def test_a_given_initial_loss_stands_beside_a_measured_one():
    rule = InitialLoss(given=[math.log(10), None])
    state = rule.update(tensor(7, 5), rule.initial_state(device=CPU, dtype=torch.float64))
    assert state[INITIAL_LOSSES].tolist() == [math.log(10), 5]


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_given_initial_loss_must_be_positive_and_finite(value):
    with pytest.raises(InitialLossError):
        InitialLoss(given=[1.0, value])


@pytest.mark.parametrize("value", [0.0, -0.3])
def test_a_measured_initial_loss_that_is_not_positive_is_refused_by_the_name_of_its_task(value):
    with pytest.raises(InitialLossError, match=r"'clicks'.*deviance"):
        check_initial_losses({INITIAL_LOSSES: tensor(1.0, value)}, ["views", "clicks"])


@pytest.mark.parametrize("afterwards", [0.4, math.nan])
def test_a_loss_that_was_negative_once_is_refused_by_the_name_of_its_task_whatever_came_after(afterwards):
    balancer = GradNorm(alpha=0.5, weight_lr=0.1, initial_loss=FIRST_BATCH)
    state = start(balancer)
    for clicks in (1.0, 0.5, -0.25, afterwards):
        _, state = weigh(balancer, tensor(2, clicks), tensor(3, 1), state)
    with pytest.raises(NegativeLossError, match=r"'clicks'.* fell to -0\.25.*deviance"):
        balancer.check(state, ["views", "clicks"])


def test_a_given_initial_loss_does_not_excuse_a_negative_one():
    balancer = GradNorm(alpha=0.5, weight_lr=0.1, initial_loss=InitialLoss(given=[1.0, 1.0]))
    _, state = weigh(balancer, tensor(2, -0.5), tensor(3, 1), start(balancer))
    with pytest.raises(NegativeLossError, match="'clicks'"):
        balancer.check(state, ["views", "clicks"])


@pytest.mark.parametrize("losses", [[1.0, 0.0], [1.0, 0.0, 0.5], [1.0, -0.0], [1.0, math.nan], [1.0, -math.inf]])
def test_a_loss_of_exactly_zero_passes_and_one_that_is_not_finite_is_told_elsewhere(losses):
    balancer = GradNorm(alpha=0.5, weight_lr=0.1, initial_loss=FIRST_BATCH)
    state = start(balancer)
    balancer.check({**state, INITIAL_LOSSES: tensor(1, 1)}, ["views", "clicks"])  # before any step too
    for clicks in losses:
        _, state = weigh(balancer, tensor(2, clicks), tensor(3, 1), state)
    balancer.check(state, ["views", "clicks"])


def test_tasks_whose_losses_are_all_zero_are_level():
    assert relative_rates(tensor(0, 0), tensor(1, 2)).tolist() == [1.0, 1.0]
