"""Lanes that weigh together get what each of them gets alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from balancer_steps import info_of, start, tasks_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainables.balancers import WEIGHTS, Balancer, BalancerLanes, Needs, State, create_balancer
from trainables.balancers.adam import adam_start, adam_step
from trainables.balancers.stuck import STUCK
from trainables.catalog import BALANCERS
from trainables.checkpoint import plain
from trainables.settings import TrainingSettings

NUM_STEPS = 30
STACKABLE = [name for name in BALANCERS if create_balancer(name, TrainingSettings.from_params({}), []).is_stackable]

names_of_lanes = st.lists(st.sampled_from(BALANCERS), min_size=1, max_size=7)
sizes = st.integers(1, 5)
seeds = st.integers(0, 2**31)


@dataclass
class Alone:
    """A lane by itself: what it should come to."""

    balancer: Balancer
    state: State
    generator: Generator
    used: list[Tensor] = field(default_factory=list)  # the weights of every step
    steps: int = 0

    def settle(self) -> bool:
        """Take the settled balancer if it is time; whether it was."""
        is_time = self.steps == self.balancer.settling_steps > 0
        if is_time:
            self.balancer = self.balancer.settled()
        return is_time

    def step(self, losses_T: Tensor, gradients_TD: Tensor, after_T: Tensor) -> Tensor:
        weights_T, self.state = self.balancer.weigh(losses_T, info_of(gradients_TD), self.state, self.generator)
        if self.balancer.uses_after_step:
            self.state = self.balancer.after_step(after_T, self.state)
        self.used.append(weights_T)
        self.steps += 1
        return weights_T


Observation = tuple[Tensor, Tensor, Tensor]  # of all lanes: losses (N, T), gradients (N, T, D), losses after the step


def lane_of(name: str, index: int, num_tasks: int, dtype: torch.dtype = torch.float64) -> Alone:
    """A new lane whose every number is another one than those of its neighbours."""
    params = {
        "alpha": 0.3 + 0.4 * index,
        "weight_lr": 0.01 * (1 + index),
        "dwa_window": 1 + index % 4,
        "dwa_temperature": 1.0 + 0.5 * index,
        "famo_decay": 1e-3 * index,
        "cagrad_c": 0.2 + 0.1 * index,
        "initial_loss": "mean_of_batches",
        "initial_loss_batches": 1 + 3 * (index % 3),
        "stuck_reports": 1 + index % 2,
        "stuck_weight_cap": (0.0, 0.5)[index % 5 == 4],
        **{f"weight/task_{i}": 1.0 + i * index for i in range(num_tasks)},
        **({"initial_loss/task_0": 1.5} if index % 2 else {}),
    }
    balancer = create_balancer(name, TrainingSettings.from_params(params), tasks_of(num_tasks))
    return Alone(balancer, start(balancer, num_tasks, dtype), torch.Generator().manual_seed(100 + index))


def lanes_of(names: Iterable[str], num_tasks: int, dtype: torch.dtype = torch.float64) -> list[Alone]:
    return [lane_of(name, index, num_tasks, dtype) for index, name in enumerate(names)]


def pack_of(lanes: Sequence[Alone], states: Sequence[State] | None = None) -> BalancerLanes:
    """The lanes as they are now, with generators of their own; from other states if there are any."""
    generators = [Generator().set_state(lane.generator.get_state()) for lane in lanes]
    return BalancerLanes([lane.balancer for lane in lanes], states or [lane.state for lane in lanes], generators)


def observations(
    num_lanes: int, num_tasks: int, seed: int, num_steps: int = NUM_STEPS, dtype: torch.dtype = torch.float64
) -> Iterable[Observation]:
    """What every lane sees at every step; the losses of a task are in units of its own."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    units_T = 10 ** (2 * drawn(num_tasks) - 1)
    for _ in range(num_steps):
        losses_NT = units_T * (0.1 + drawn(num_lanes, num_tasks))
        gradients_NTD = units_T.unsqueeze(1) * (drawn(num_lanes, num_tasks, 12) - 0.5)
        after_NT = losses_NT * (0.5 + drawn(num_lanes, num_tasks))
        yield losses_NT.to(dtype), gradients_NTD.to(dtype), after_NT.to(dtype)


def step_together(pack: BalancerLanes, seen: Observation) -> Tensor:
    losses_NT, gradients_NTD, after_NT = seen
    gramians_NTT = gradients_NTD @ gradients_NTD.mT
    norms_NT = gramians_NTT.diagonal(dim1=1, dim2=2).sqrt()
    weights_NT = pack.weigh(
        losses_NT,
        norms_NT if pack.needs >= Needs.NORMS else None,
        gramians_NTT if pack.needs >= Needs.GRAMIAN else None,
    )
    if pack.after_step_lanes:
        pack.after_step(after_NT[list(pack.after_step_lanes)])
    return weights_NT


def assert_state_is(found: State, expected: State, *, tolerance: float = 1e-12) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].shape == value.shape, key
        assert found[key].dtype is value.dtype, key
        torch.testing.assert_close(
            found[key],
            value,
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
            msg=lambda text, key=key: f"{key}: {text}",
        )


def assert_goes_as_alone(lanes: list[Alone], seed: int, num_steps: int = NUM_STEPS, tolerance: float = 1e-12) -> None:
    """Take the lanes on, together and one by one; a lane that may settle does, and the pack is made anew then."""
    pack = pack_of(lanes)
    weights_T = lanes[0].state[WEIGHTS]
    for seen in observations(len(lanes), len(weights_T), seed, num_steps, weights_T.dtype):
        expected_NT = torch.stack([lane.step(*row) for lane, *row in zip(lanes, *seen, strict=True)])
        known_NT = pack.weights_NT
        weights_NT = step_together(pack, seen)
        assert weights_NT.dtype is expected_NT.dtype
        torch.testing.assert_close(weights_NT, expected_NT, rtol=tolerance, atol=tolerance)
        if all(lane.balancer.weighs_ahead for lane in lanes):
            assert torch.equal(weights_NT, known_NT)
        following_NT = torch.stack([lane.state[WEIGHTS] for lane in lanes])
        torch.testing.assert_close(pack.weights_NT, following_NT, rtol=tolerance, atol=tolerance)
        for index, lane in enumerate(lanes):
            assert_state_is(pack.state_of(index), lane.state, tolerance=tolerance)
        settled = [lane.settle() for lane in lanes]
        if any(settled):
            pack = pack_of(lanes, [pack.state_of(index) for index in range(len(lanes))])


@pytest.mark.parametrize("num_lanes", [1, 2, 5])
@pytest.mark.parametrize("name", BALANCERS)
def test_lanes_of_one_balancer_go_as_each_of_them_alone(name, num_lanes):
    assert_goes_as_alone(lanes_of([name] * num_lanes, 3), seed=num_lanes)


@pytest.mark.parametrize("name", STACKABLE)
def test_so_do_many_lanes_of_two_and_of_ten_tasks(name):
    assert_goes_as_alone(lanes_of([name] * 20, 2), seed=1)
    assert_goes_as_alone(lanes_of([name] * 3, 10), seed=2)


@given(names_of_lanes, sizes, seeds)
@settings(max_examples=40, deadline=None)
def test_lanes_of_several_balancers_in_any_order_go_as_each_of_them_alone(names, num_tasks, seed):
    assert_goes_as_alone(lanes_of(names, num_tasks), seed, num_steps=8)


@given(st.data(), st.lists(st.sampled_from(STACKABLE[:4] * 2 + STACKABLE), min_size=2, max_size=7), seeds)
@settings(max_examples=40, deadline=None)
def test_lanes_that_have_come_further_than_others_go_as_each_of_them_alone(data, names, seed):
    lanes = lanes_of(names, 3)
    for index, lane in enumerate(lanes):
        for losses_NT, gradients_NTD, after_NT in observations(
            1, 3, seed + index, data.draw(st.sampled_from([0, 1, 2, 5, 40]))
        ):
            lane.step(losses_NT[0], gradients_NTD[0], after_NT[0])
            lane.settle()
    assert_goes_as_alone(lanes, seed, num_steps=10)


@pytest.mark.parametrize("name", ["gradnorm", "inverse_initial_loss"])
def test_a_lane_that_has_settled_goes_on_beside_lanes_that_have_not(name):
    lanes = lanes_of([name] * 4, 2)
    unsettled = lanes[2].balancer
    for seen in observations(1, 2, 9, num_steps=unsettled.settling_steps):
        lanes[2].step(*(value[0] for value in seen))
        lanes[2].settle()
    assert lanes[2].balancer is not unsettled
    assert_goes_as_alone(lanes, seed=3, num_steps=12)


@pytest.mark.parametrize("name", STACKABLE)
def test_in_float32_nothing_becomes_float64_and_the_weights_are_those_of_each_lane_alone(name):
    assert_goes_as_alone(lanes_of([name] * 4, 3, torch.float32), seed=4, num_steps=10, tolerance=2e-5)


@given(names_of_lanes, sizes, seeds, st.sampled_from([float("nan"), float("inf"), -float("inf")]), st.data())
@settings(max_examples=60, deadline=None)
def test_a_lane_that_is_not_finite_leaves_the_others_as_they_are_bit_by_bit(names, num_tasks, seed, bad, data):
    names = [*names, names[0], names[-1]]  # never alone of its kind
    broken = data.draw(st.integers(0, len(names) - 1))
    task = data.draw(st.integers(0, num_tasks - 1))
    sound_pack, pack = pack_of(lanes_of(names, num_tasks)), pack_of(lanes_of(names, num_tasks))
    others = [lane for lane in range(len(names)) if lane != broken]
    for step, seen in enumerate(observations(len(names), num_tasks, seed, num_steps=6)):
        sound_NT = step_together(sound_pack, seen)
        losses_NT, gradients_NTD, after_NT = (value.clone() for value in seen)
        if step >= 2:
            losses_NT[broken, task] = gradients_NTD[broken, task] = after_NT[broken, task] = bad
        weights_NT = step_together(pack, (losses_NT, gradients_NTD, after_NT))
        assert torch.equal(weights_NT[others], sound_NT[others])
        for lane in others:
            found, expected = pack.state_of(lane), sound_pack.state_of(lane)
            assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", STACKABLE)
def test_a_lane_that_is_not_finite_becomes_what_it_becomes_alone(name):
    lanes = lanes_of([name] * 3, 2)
    pack = pack_of(lanes)
    for step, seen in enumerate(observations(3, 2, 6, num_steps=6)):
        if step >= 2:
            seen[0][1, 0] = seen[1][1, 0] = float("nan")
        for lane, *row in zip(lanes, *seen, strict=True):
            lane.step(*row)
        step_together(pack, seen)
        for index, lane in enumerate(lanes):
            assert_state_is(pack.state_of(index), lane.state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("num_tasks", [1, 3])
@pytest.mark.parametrize("name", BALANCERS)
def test_a_lane_s_state_is_one_that_a_checkpoint_keeps_and_its_balancer_reads(name, num_tasks, dtype):
    lanes = lanes_of([name] * 3, num_tasks, dtype)
    pack = pack_of(lanes)
    seen = next(iter(observations(3, num_tasks, 7, dtype=dtype)))
    step_together(pack, seen)
    kept = plain(pack.state_of(1))
    ordinary = start(lanes[1].balancer, num_tasks, dtype)
    assert kept.keys() == ordinary.keys()
    for key, value in ordinary.items():
        assert (kept[key].shape, kept[key].dtype) == (value.shape, value.dtype), key
        assert kept[key].untyped_storage().nbytes() == value.nbytes, key  # nothing of the other lanes comes along
    lanes[1].balancer.check(kept, [f"task_{i}" for i in range(num_tasks)])
    assert all(row.shape == (num_tasks,) for row in lanes[1].balancer.metrics(kept).values())


def test_what_a_report_changes_of_a_lane_is_what_it_goes_on_from():
    lanes = lanes_of(["gradnorm", "gradnorm", "equal", "gradnorm"], 3)
    names = ["task_0", "task_1", "task_2"]
    for lane in lanes[:2]:
        lane.balancer = create_balancer(
            "gradnorm", TrainingSettings.from_params({"stuck_reports": 1, "stuck_weight_cap": 0.5}), tasks_of(3)
        )
    pack = pack_of(lanes)
    means_T = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    told = [0, 0]
    for step, seen in enumerate(observations(4, 3, 8)):
        for lane, *row in zip(lanes, *seen, strict=True):
            lane.step(*row)
        step_together(pack, seen)
        if step % 3 == 2:  # a report at which no loss has moved
            following = []
            for index, lane in enumerate(lanes):
                before = pack.state_of(index)
                following.append(lane.balancer.at_report(means_T, before))
                expected = lane.balancer.at_report(means_T, lane.state)
                told[0] += len(lane.balancer.notices(before, following[-1], names))
                told[1] += len(lane.balancer.notices(lane.state, expected, names))
                lane.state = expected
            pack = pack_of(lanes, following)
        for index, lane in enumerate(lanes):
            assert_state_is(pack.state_of(index), lane.state)
    assert told[0] == told[1] > 0
    assert any(pack.state_of(index)[STUCK].any() for index in (0, 1))


def test_only_the_lanes_that_look_after_the_step_are_asked_for_then_in_their_order():
    pack = pack_of(lanes_of(["famo", "equal", "famo", "pcgrad", "famo"], 2))
    assert list(pack.after_step_lanes) == [0, 2, 4]
    pack = pack_of(lanes_of(["equal", "famo"], 2))
    assert list(pack.after_step_lanes) == [1]
    assert list(pack_of(lanes_of(["gradnorm", "mgda"], 2)).after_step_lanes) == []


def test_a_pack_needs_what_its_neediest_lane_needs():
    assert pack_of(lanes_of(["equal", "dwa", "famo"], 2)).needs is Needs.NOTHING
    assert pack_of(lanes_of(["equal", "gradnorm"], 2)).needs is Needs.NORMS
    assert pack_of(lanes_of(["mgda", "gradnorm", "equal"], 2)).needs is Needs.GRAMIAN


def test_a_pack_has_a_lane_and_one_of_each_for_every_lane():
    (lane,) = lanes_of(["equal"], 2)
    with pytest.raises(ValueError, match="at least, not 0, 0 and 0"):
        BalancerLanes([], [], [])
    with pytest.raises(ValueError, match="at least, not 1, 1 and 0"):
        BalancerLanes([lane.balancer], [lane.state], [])


class CallCounter(TorchDispatchMode):
    """Counts the operations on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", [name for name in STACKABLE if name != "rlw"])  # it draws lane by lane
def test_a_step_of_sixty_lanes_is_as_many_calls_as_one_of_two(name):
    counts = []
    for num_lanes in (2, 60):
        of_one_cap = [index for index in range(2 * num_lanes) if index % 5 != 4]
        pack = pack_of([lane_of(name, index, 3) for index in of_one_cap[:num_lanes]])
        losses_NT, _, after_NT = next(iter(observations(num_lanes, 3, 0)))
        with CallCounter() as counter:
            pack.weigh(losses_NT, losses_NT)
            if pack.after_step_lanes:
                pack.after_step(after_NT)
        counts.append(counter.calls)
    assert counts[0] == counts[1]


def test_the_written_out_adam_of_many_lanes_is_torch_s_adam_lane_by_lane():
    rates = [0.5, 0.025, 1e-4]
    values = [torch.nn.Parameter(torch.ones(2, dtype=torch.float64)) for _ in rates]
    optimizers = [torch.optim.Adam([value], lr=rate) for value, rate in zip(values, rates, strict=True)]
    rates_K1 = torch.tensor(rates, dtype=torch.float64).unsqueeze(1)
    mine_KT = torch.ones(3, 2, dtype=torch.float64)
    state = adam_start(mine_KT)
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        gradients_KT = torch.randn(3, 2, generator=generator, dtype=torch.float64) * 10
        for value, optimizer, gradient_T in zip(values, optimizers, gradients_KT, strict=True):
            value.grad = gradient_T.clone()
            optimizer.step()
        mine_KT, state = adam_step(mine_KT, gradients_KT, state, rates_K1)
    torch.testing.assert_close(mine_KT, torch.stack([value.detach() for value in values]), rtol=1e-12, atol=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_lanes_that_call_no_solver_do_not_wait_for_the_gpu():
    lanes = lanes_of([*STACKABLE, "nash_mtl", *STACKABLE], 3, torch.float32)
    device = torch.device("cuda")
    for lane in lanes:
        lane.state = {key: value.to(device) for key, value in lane.state.items()}
    seen = observations(len(lanes), 3, 0, 4, torch.float32)
    first, *others = [(losses.to(device), gradients.to(device), last.to(device)) for losses, gradients, last in seen]
    pack = pack_of(lanes)
    after = list(pack.after_step_lanes)
    step_together(pack, first)  # libraries may wait when they are loaded
    looked = [(losses_NT, gradients_NTD, after_NT[after]) for losses_NT, gradients_NTD, after_NT in others]
    torch.cuda.set_sync_debug_mode("error")  # a wait raises
    try:
        for losses_NT, gradients_NTD, after_KT in looked:
            gramians_NTT = gradients_NTD @ gradients_NTD.mT
            pack.weigh(losses_NT, gramians_NTT.diagonal(dim1=1, dim2=2).sqrt(), gramians_NTT)
            pack.after_step(after_KT)
        pack = pack_of(lanes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.is_cuda for lane in range(len(lanes)) for value in pack.state_of(lane).values())
