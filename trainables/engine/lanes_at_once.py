"""How many lanes of a kind to train at once: whether they can be, and as many as make each of them cheaper.

Small networks leave a GPU idle and keep a CPU busy with dispatching, so that two lanes cost little more than one. From
some number on the arithmetic itself takes the time, and more lanes bring nothing but memory used and a search that asks
for more before it has learnt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trainables.balancers import Needs
from trainables.engine.endings import is_out_of_memory, release_memory
from trainables.engine.fusable import check_alike, prove
from trainables.engine.lane import LaneTraining
from trainables.engine.lane_stack import LaneStack
from trainables.gradients import trained_parameters
from trainables.memory import available_bytes
from trainables.protocol import Lane, Problem, SeparateModels
from trainables.seeding import capture_rng, restore_rng
from trainables.settings import TrainingSettings

logger = logging.getLogger(__name__)

# Repetitions of a measured step: so many at least, and more until so much time has been measured. The fastest counts,
# since whatever else runs makes it only slower; a step of few milliseconds must have the time to be left alone once.
REPETITIONS, MEASURED_S, MOST_REPETITIONS = 3, 0.05, 50
AS_GOOD = 1.1  # times the least time per lane: fewer lanes that are as good as that are better
MOST_MEASURED = 256
_SHARE_OF_MEMORY = 0.4  # that a pack may take of what is available: there may be another beside it
_MATRICES = 6  # values, gradients, two moments, and what a step and a change of the stack need besides


Clock = Callable[[], float]  # seconds
Available = Callable[[torch.device], int | None]  # the bytes that a process could still take; None: nobody knows


def find_lanes_at_once(
    problem: Problem,
    lane: Lane,
    *,
    most: int,
    is_measured: bool,
    device: torch.device,
    available: Available = available_bytes,
    clock: Clock = time.perf_counter,
) -> int:
    """See :func:`trainables.training.lanes_at_once`."""
    before = capture_rng()
    try:
        moved = problem.to(device=device, dtype=TrainingSettings.from_params(lane.params).torch_dtype)
        lanes = _Lanes(moved, lane, device)
        unused = prove(moved, lanes.first(2))
        if not is_measured:
            return most
        most = min(most, MOST_MEASURED)
        free = available(device)
        if free is not None:
            most = min(most, _most_by_memory(moved, lanes.first(1), unused, free))
        return _paying(moved, lanes, unused, most, clock)
    finally:
        restore_rng(before)
        release_memory()


class _Lanes:
    """Lanes made to be looked at, each of a seed of its own, made when they are asked for."""

    def __init__(self, problem: Problem, lane: Lane, device: torch.device) -> None:
        self._problem = problem
        self._lane = lane
        self._device = device
        self._made: list[LaneTraining] = []

    def first(self, num_lanes: int) -> Sequence[LaneTraining]:
        while len(self._made) < num_lanes:
            seed = TrainingSettings.from_params(self._lane.params).seed + len(self._made)
            lane = replace(self._lane, params={**self._lane.params, "seed": seed}, resume_from=None)
            training = LaneTraining(self._problem, lane, self._device)
            training.draw_apart()
            self._made.append(training)
            check_alike([self._made[0], training])
        return self._made[:num_lanes]


def _paying(problem: Problem, lanes: _Lanes, unused: Collection[str], most: int, clock: Clock) -> int:
    """The least number of lanes at which a lane's step takes hardly longer than at the best."""
    times: dict[int, float] = {}
    for num_lanes in _numbers(most):
        try:
            times[num_lanes] = _seconds(problem, lanes.first(num_lanes), unused, clock) / num_lanes
        except Exception as error:
            if not (times and is_out_of_memory(error)):
                raise
            break
        *before, last, latest = (torch.inf, torch.inf, *times.values())
        if len(times) > 2 and min(last, latest) >= min(before):
            break  # two numbers in a row that were no better
    least = min(times.values())
    chosen = min(num_lanes for num_lanes, seconds in times.items() if seconds <= AS_GOOD * least)
    told = ", ".join(f"{1e3 * seconds:.2g} ms of {num_lanes}" for num_lanes, seconds in times.items())
    logger.info("%d lanes at once are worth it: a lane's step takes %s", chosen, told)
    return chosen


def _numbers(most: int) -> Iterator[int]:
    """1, 2, 4, … and the most there may be."""
    num_lanes = 1
    while num_lanes < most:
        yield num_lanes
        num_lanes *= 2
    yield most


def _seconds(problem: Problem, lanes: Sequence[LaneTraining], unused: Collection[str], clock: Clock) -> float:
    """That a step of them takes, without the optimiser's part."""
    stack = LaneStack(problem, lanes, unused=unused)
    batch = stack.batch([lane.batches.first_rows() for lane in lanes])
    seconds: list[float] = []
    for _ in range(1 + MOST_REPETITIONS):  # the first finds nothing prepared
        start = clock()
        found = stack.network.task_gradients(*batch)
        found.put_gradients(torch.ones_like(found.losses_NT))
        _ = found.norms_NT
        if stack.parameters.values_NP.device.type == "cuda":
            torch.cuda.synchronize(stack.parameters.values_NP.device)
        seconds.append(clock() - start)
        if len(seconds) > REPETITIONS and sum(seconds[1:]) >= MEASURED_S:
            break
    return min(seconds[1:])


def _most_by_memory(problem: Problem, lanes: Sequence[LaneTraining], unused: Collection[str], available: int) -> int:
    """As many as fit, by what one lane keeps: for its backward pass, of its own and in the stack."""
    stack = LaneStack(problem, lanes, unused=unused)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stack.network.task_gradients(*stack.batch([lane.batches.first_rows() for lane in lanes]))
    values_NP = stack.parameters.values_NP
    # The gradients of what is kept are as large again. What is not trained is in the lane's network and in the stack.
    bytes_per_lane = (
        2 * sum(kept.values())
        + _MATRICES * _bytes([values_NP])
        + 2 * _bytes(_constants(lanes[0], stack))
        + _bytes_of_rows(lanes[0], len(problem.tasks))
    )
    return max(1, int(_SHARE_OF_MEMORY * available / max(1, bytes_per_lane)))


def _constants(lane: LaneTraining, stack: LaneStack) -> Sequence[Tensor]:
    """What of the lane's network is not trained."""
    tensors = [*lane.model.parameters(), *lane.model.buffers()]
    return [tensor for tensor in tensors if stack.parameters.place(tensor) is None]


def _bytes_of_rows(lane: LaneTraining, num_tasks: int) -> int:
    """Of every task's gradient at the shared layer; where a balancer needs the Gramian, they are joined besides."""
    model = lane.model
    is_separate = isinstance(model, SeparateModels)
    networks = [model.network(name) for name in model.models] if is_separate else [model] * num_tasks
    once = sum(_bytes(trained_parameters(network.shared_layer)) for network in networks)
    return 2 * once if lane.balancer.needs >= Needs.GRAMIAN and not is_separate else once


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
