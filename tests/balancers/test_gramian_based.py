"""The balancers that read the Gramian, on gradients whose answer is known or found in another way."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from balancer_steps import rows, tensor, weigh_gradients
from torchjd.aggregation import IMTLGWeighting, MGDAWeighting

from trainables.balancers import GradientInfo, Needs, create_balancer
from trainables.balancers.cagrad import CaGrad
from trainables.balancers.gramian import RIDGE, Directions
from trainables.balancers.imtl_g import ImtlG
from trainables.balancers.mgda import Mgda
from trainables.balancers.nash_mtl import NashMtl, bargain
from trainables.balancers.pcgrad import PcGrad
from trainables.balancers.upgrad import UpGrad
from trainables.settings import TrainingSettings

ALL = [Mgda(), PcGrad(), CaGrad(c=0.5), ImtlG(), UpGrad(), NashMtl()]
IDS = [balancer.name for balancer in ALL]
SEEDS = range(12)


def gradients(seed: int, num_tasks: int, length: int = 20, common: float = 0.0) -> torch.Tensor:
    """Task gradients of different sizes, (T, D); ``common`` > 0: they have something in common, and agree the more."""
    generator = torch.Generator().manual_seed(seed)
    directions_TD = torch.randn(num_tasks, length, generator=generator, dtype=torch.float64)
    directions_TD += common * torch.randn(length, generator=generator, dtype=torch.float64)
    return directions_TD * 10 ** torch.randn(num_tasks, 1, generator=generator, dtype=torch.float64)


def conflicting(seed: int, num_tasks: int) -> torch.Tensor:
    """Task gradients of which the last is against the sum of the others, at an angle of 150 degrees or more."""
    gradients_TD = gradients(seed, num_tasks)
    others_D = gradients_TD[:-1].sum(0)
    away_D = 0.5 * gradients_TD[-1] / gradients_TD[-1].norm() - others_D / others_D.norm()
    gradients_TD[-1] = away_D * gradients_TD[-1].norm()
    return gradients_TD


# --- mgda


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("make", [gradients, conflicting, lambda seed, T: gradients(seed, T, common=3.0)])
def test_mgda_with_two_tasks_is_the_closed_form(make, seed):
    one, two = make(seed, 2)
    share = torch.dot(two - one, two).item() / torch.dot(one - two, one - two).item()
    share = min(1.0, max(0.0, share))  # Sener & Koltun, eq. 4
    weights = weigh_gradients(Mgda(), torch.stack([one, two]))
    assert weights.tolist() == pytest.approx([2 * share, 2 * (1 - share)], abs=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_tasks", [3, 4, 10])
def test_mgda_meets_the_condition_that_only_the_shortest_vector_meets(num_tasks, seed):
    # Of all points of a convex set, d is nearest to 0 exactly if g . d >= d . d for all its corners g.
    gradients_TD = gradients(seed, num_tasks, common=0.3)
    weights = weigh_gradients(Mgda(), gradients_TD)
    assert weights.sum().item() == pytest.approx(num_tasks, rel=1e-12)
    combined_D = weights @ gradients_TD / num_tasks
    squared = torch.dot(combined_D, combined_D)
    gap_T = (squared - gradients_TD @ combined_D) / (gradients_TD.norm(dim=1) * combined_D.norm())
    assert gap_T.max() < 1e-5


def test_mgda_is_where_torchjd_s_frank_wolfe_steps_lead():
    gradients_TD = gradients(4, 3) / gradients(4, 3).norm(dim=1, keepdim=True)
    slow = 3 * MGDAWeighting(epsilon=1e-12, max_iters=20_000)(gradients_TD @ gradients_TD.mT)
    torch.testing.assert_close(weigh_gradients(Mgda(), gradients_TD), slow, rtol=0, atol=1e-3)


# --- pcgrad


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_tasks", [2, 3, 6])
def test_pcgrad_is_algorithm_1_on_the_gradients_themselves(num_tasks, seed):
    gradients_TD = conflicting(seed, num_tasks)
    orders = torch.Generator().manual_seed(seed)
    combined_D = torch.zeros_like(gradients_TD[0])
    for i in range(num_tasks):
        projected_D = gradients_TD[i].clone()
        for j in torch.randperm(num_tasks, generator=orders):
            along = torch.dot(projected_D, gradients_TD[j])
            if j != i and along < 0:
                projected_D -= along / torch.dot(gradients_TD[j], gradients_TD[j]) * gradients_TD[j]
        combined_D += projected_D
    weights = weigh_gradients(PcGrad(), gradients_TD, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(weights @ gradients_TD, combined_D, rtol=1e-9, atol=1e-9)


def test_pcgrad_leaves_torch_s_global_generator_alone():
    before = torch.get_rng_state()
    weigh_gradients(PcGrad(), conflicting(0, 4))
    assert torch.equal(torch.get_rng_state(), before)


# --- cagrad


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("c", [0.2, 0.5, 2.0])
def test_cagrad_with_two_tasks_is_the_best_of_a_fine_grid(c, seed):
    gradients_TD = conflicting(seed, 2) if seed % 2 else gradients(seed, 2)
    average_D = gradients_TD.mean(0)
    radius = c * average_D.norm()
    first = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    mixed_KD = torch.stack([first, 1 - first], dim=1) @ gradients_TD
    values_K = mixed_KD @ average_D + radius * mixed_KD.norm(dim=1)
    best_D = mixed_KD[values_K.argmin()]
    step_D = 2 * (average_D + radius * best_D / best_D.norm())  # the sum of the losses is twice their average
    found_D = weigh_gradients(CaGrad(c=c), gradients_TD) @ gradients_TD
    assert ((found_D - step_D).norm() / step_D.norm()).item() < 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_no_other_step_of_the_ball_serves_the_worst_off_task_better_than_cagrad_s(seed):
    gradients_TD, c = conflicting(seed, 3), 0.6
    average_D = gradients_TD.mean(0)
    radius = c * average_D.norm()
    step_D = weigh_gradients(CaGrad(c=c), gradients_TD) @ gradients_TD / 3
    assert (step_D - average_D).norm().item() == pytest.approx(radius.item(), rel=1e-6)
    worst = (gradients_TD @ step_D).min()
    others_KD = torch.randn(5000, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ gradients_TD
    others_KD = average_D + radius * others_KD / others_KD.norm(dim=1, keepdim=True)
    assert (others_KD @ gradients_TD.mT).min(1).values.max() <= worst + 1e-6 * gradients_TD.square().sum()


def test_cagrad_with_c_zero_is_the_sum_and_with_a_large_c_the_direction_of_mgda():
    gradients_TD = gradients(3, 3)
    torch.testing.assert_close(weigh_gradients(CaGrad(c=0.0), gradients_TD), tensor(1, 1, 1))
    far_D = weigh_gradients(CaGrad(c=1e3), gradients_TD) @ gradients_TD
    shortest_D = weigh_gradients(Mgda(), gradients_TD) @ gradients_TD
    assert torch.cosine_similarity(far_D, shortest_D, dim=0).item() > 1 - 1e-4


# --- imtl_g


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_tasks", [2, 3, 6])
def test_imtl_g_s_gradient_has_equal_projections_on_all_tasks(num_tasks, seed):
    gradients_TD = gradients(seed, num_tasks, length=400)
    weights = weigh_gradients(ImtlG(), gradients_TD)
    assert (weights > 0).all()
    assert weights.sum().item() == pytest.approx(num_tasks, rel=1e-12)
    projections = gradients_TD @ (weights @ gradients_TD) / gradients_TD.norm(dim=1)
    torch.testing.assert_close(projections, projections.mean().expand(num_tasks), rtol=1e-5, atol=0)


def test_imtl_g_is_torchjd_s_where_the_gradients_are_of_one_size():
    gradients_TD = gradients(1, 4, length=400)
    gradients_TD /= gradients_TD.norm(dim=1, keepdim=True)
    theirs = 4 * IMTLGWeighting()(gradients_TD @ gradients_TD.mT)
    torch.testing.assert_close(weigh_gradients(ImtlG(), gradients_TD), theirs, rtol=1e-5, atol=0)


def test_imtl_g_keeps_a_task_of_a_tiny_gradient_in_float32():
    gradients_TD = gradients(2, 2, length=50)
    gradients_TD *= tensor(1, 1e-5).unsqueeze(1) / gradients_TD.norm(dim=1, keepdim=True)
    weights = weigh_gradients(ImtlG(), gradients_TD.float())
    assert weights.tolist() == pytest.approx([2e-5, 2], rel=1e-4)  # inverse to the norms, whatever the angle


def test_imtl_g_does_not_let_a_head_climb_its_loss():
    # The third lies between the first two: equal projections would need a negative weight.
    weights = weigh_gradients(ImtlG(), rows([[1, 0, 0], [0, 1, 0], [1, 1, 0.1]]))
    assert weights.tolist() == pytest.approx([1.5, 1.5, 0])


# --- upgrad


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_tasks", [2, 3, 6, 10])
def test_upgrad_s_gradient_conflicts_with_no_task(num_tasks, seed):
    gradients_TD = conflicting(seed, num_tasks)
    weights = weigh_gradients(UpGrad(), gradients_TD)
    sizes_T = gradients_TD.norm(dim=1)
    assert (gradients_TD @ (weights @ gradients_TD) / sizes_T).min() >= -1e-6 * (weights * sizes_T).sum()
    assert (weights >= 1 - 1e-9).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_upgrad_with_two_tasks_takes_from_each_what_is_against_the_other(seed):
    one, two = conflicting(seed, 2)
    along = torch.dot(one, two)
    expected_D = one + two - along / torch.dot(two, two) * two - along / torch.dot(one, one) * one
    found_D = weigh_gradients(UpGrad(), torch.stack([one, two])) @ torch.stack([one, two])
    assert ((found_D - expected_D).norm() / (one.norm() + two.norm())).item() < 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_upgrad_s_projections_are_the_best_of_all_active_sets(seed):
    # min v'Gv, v >= u: some v_i are at their bound and the others make the gradient zero; try all ways.
    num_tasks = 4
    gradients_TD = conflicting(seed, num_tasks)
    gramian = (gradients_TD @ gradients_TD.mT).numpy()
    total = np.zeros(num_tasks)
    for wanted in np.eye(num_tasks):
        best, best_value = wanted, math.inf
        for free in itertools.chain.from_iterable(itertools.combinations(range(num_tasks), k) for k in range(5)):
            bound = [i for i in range(num_tasks) if i not in free]
            tried = wanted.copy()
            if free:
                tried[list(free)] = -np.linalg.solve(
                    gramian[np.ix_(free, free)], gramian[np.ix_(free, bound)] @ wanted[bound]
                )
            value = tried @ gramian @ tried
            if (tried >= wanted - 1e-9).all() and value < best_value:
                best, best_value = tried, value
        total += best
    found = weigh_gradients(UpGrad(), gradients_TD).numpy()
    sizes = gradients_TD.norm(dim=1).numpy()
    assert np.linalg.norm((found - total) @ gradients_TD.numpy()) / (total @ sizes) < 1e-5


# --- nash_mtl


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_tasks", [1, 2, 3, 6, 10])
def test_nash_mtl_solves_its_equation(num_tasks, seed):
    gradients_TD = gradients(seed, num_tasks)
    weights = weigh_gradients(NashMtl(), gradients_TD)
    assert (weights > 0).all()
    products = weights * (gradients_TD @ gradients_TD.mT @ weights)
    torch.testing.assert_close(products, torch.ones_like(products), rtol=0, atol=1e-4)
    # What is missing is RIDGE's part, to the last digits.
    missing = RIDGE * (weights * gradients_TD.norm(dim=1)).square()
    torch.testing.assert_close(products + missing, torch.ones_like(products), rtol=0, atol=1e-10)
    assert (weights @ gradients_TD).norm().item() == pytest.approx(math.sqrt(num_tasks), rel=1e-4)


@pytest.mark.parametrize("seed", range(40))
def test_the_bargain_is_exact_for_dependent_and_opposite_gradients_too(seed):
    num_tasks, length = 2 + seed % 9, 1 + seed % 4
    gradients_TD = gradients(seed, num_tasks, length)
    gradients_TD[-1] = -gradients_TD[:-1].sum(0)
    cosines_TT = Directions.of(gradients_TD @ gradients_TD.mT).cosines_TT
    found_T = bargain(cosines_TT)
    torch.testing.assert_close(found_T * (cosines_TT @ found_T), torch.ones_like(found_T), rtol=0, atol=1e-8)


def test_nash_mtl_by_hand():
    # Orthogonal: w_i n_i = 1. Equal gradients of length 2: 4 (w_1 + w_2) = 1 / w_i, so that w_i = 1 / sqrt(8).
    assert weigh_gradients(NashMtl(), rows([[4, 0], [0, 0.5]])).tolist() == pytest.approx([0.25, 2], rel=1e-5)
    assert weigh_gradients(NashMtl(), rows([[2, 0], [2, 0]])).tolist() == pytest.approx(
        [1 / math.sqrt(8)] * 2, rel=1e-5
    )


# --- all of them


@pytest.mark.parametrize("balancer", ALL, ids=IDS)
def test_it_asks_for_the_gramian_and_says_so_where_it_gets_none(balancer):
    assert balancer.needs is Needs.GRAMIAN
    state = balancer.initial_state(num_tasks=2, device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(ValueError, match=f"{balancer.name} needs the Gramian"):
        balancer.weigh(torch.ones(2), GradientInfo(norms_T=torch.ones(2)), state, torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("balancer", ALL, ids=IDS)
@pytest.mark.parametrize(
    "gradients_TD",
    [
        rows([[0, 0], [0, 0], [0, 0]]),
        rows([[0, 0], [1, 0], [1, 2]]),
        rows([[1, 2], [1, 2], [3, -1]]),
        rows([[1, 2], [-1, -2], [3, -1]]),
        rows([[1, 2], [-1, -2]]),
        rows([[1, 2], [1, 2]]),
        rows([[0, 0]]),
        rows([[1e-12, 0], [0, 1e8], [1, 1]]),
        rows([[1e-30, 0], [0, 1e-30]]),
    ],
    ids=["all_zero", "one_zero", "two_equal", "opposite", "two_opposite", "both_equal", "single", "sizes", "underflow"],
)
def test_degenerate_gradients_have_finite_weights_that_are_not_negative(balancer, gradients_TD, dtype):
    weights = weigh_gradients(balancer, gradients_TD.to(dtype))
    assert weights.dtype is dtype
    assert weights.isfinite().all()
    assert (weights >= 0).all()
    assert (weights > 0).any()


@pytest.mark.parametrize("balancer", ALL, ids=IDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_makes_the_weights_nan(balancer, value):
    for num_tasks in (1, 3):
        gradients_TD = gradients(0, num_tasks)
        gradients_TD[0, 0] = value
        assert weigh_gradients(balancer, gradients_TD).isnan().all()


@pytest.mark.parametrize("balancer", ALL, ids=IDS)
def test_tasks_that_agree_and_are_alike_weigh_the_same(balancer):
    weights = weigh_gradients(balancer, rows([[1, 0, 0], [0, 1, 0], [0, 0, 1]]))
    torch.testing.assert_close(weights, weights[0].expand(3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("balancer", [Mgda(), PcGrad(), CaGrad(c=0.5), ImtlG(), UpGrad()])
def test_the_unit_of_all_losses_together_does_not_matter(balancer):
    gradients_TD = gradients(5, 4)
    weights = weigh_gradients(balancer, gradients_TD)
    torch.testing.assert_close(weigh_gradients(balancer, 1e-4 * gradients_TD), weights, rtol=1e-6, atol=1e-9)


def test_directions_are_the_gramian_taken_apart():
    gradients_TD = gradients(7, 4)
    gramian_TT = gradients_TD @ gradients_TD.mT
    directions = Directions.of(gramian_TT)
    plain_TT = directions.cosines_TT - RIDGE * torch.eye(4)
    again_TT = directions.norms_T.unsqueeze(1) * plain_TT * directions.norms_T
    torch.testing.assert_close(again_TT, gramian_TT, rtol=1e-12, atol=1e-12)


def test_the_catalogue_s_c_reaches_cagrad():
    assert create_balancer("cagrad", TrainingSettings.from_params({"cagrad_c": 0.2}), []) == CaGrad(c=0.2)
