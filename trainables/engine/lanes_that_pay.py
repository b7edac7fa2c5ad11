"""How many lanes of a pack to train at once: as many as make each of them cheaper, and fit into the memory.

Small networks leave a GPU idle and a CPU busy with dispatching, so that two lanes cost little more than one. From some
number on the arithmetic itself takes the time, and more lanes bring nothing but memory used and a search that asks for
more before it has learnt.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from trainables.engine.endings import is_out_of_memory, release_memory
from trainables.engine.lane import LaneTraining
from trainables.engine.lane_stack import LaneStack
from trainables.memory import available_bytes
from trainables.protocol import Problem

logger = logging.getLogger(__name__)

REPETITIONS = 3  # of a measured step; the fastest counts, since whatever else runs makes it only slower
AS_GOOD = 1.1  # times the least time per lane: fewer lanes that are as good as that are better
_SHARE_OF_MEMORY = 0.4  # that a pack may take of what is available: there may be another beside it
_MATRICES = 6  # values, gradients, two moments, and what a step and a change of the stack need besides

Available = Callable[[torch.device], int | None]  # the bytes that a process could still take; None: nobody knows


def lanes_that_pay(
    problem: Problem,
    lanes: Sequence[LaneTraining],
    unused: Collection[str],
    *,
    available: Available = available_bytes,
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """How many of these lanes to train at once, by differentiating the first 1, 2, 4, … of them. Moves nothing."""
    starts = [lane.draws.get_state() for lane in lanes]
    try:
        size = available(lanes[0].draws.device)
        most = len(lanes) if size is None else _most_by_memory(problem, lanes[0], unused, size)
        times = _times_per_lane(problem, lanes[:most], unused, clock)
    finally:
        for lane, state in zip(lanes, starts, strict=True):
            lane.draws.set_state(state)
        release_memory()
    least = min(times.values())
    chosen = min(num_lanes for num_lanes, seconds in times.items() if seconds <= AS_GOOD * least)
    told = ", ".join(f"{num_lanes}: {1e3 * seconds:.2g} ms" for num_lanes, seconds in times.items())
    logger.info("%d lanes at once; a step takes, a lane, of %s", chosen, told)
    return chosen


def _times_per_lane(
    problem: Problem, lanes: Sequence[LaneTraining], unused: Collection[str], clock: Callable[[], float]
) -> dict[int, float]:
    times: dict[int, float] = {}
    for num_lanes in _numbers(len(lanes)):
        try:
            times[num_lanes] = _seconds(problem, lanes[:num_lanes], unused, clock) / num_lanes
        except Exception as error:
            if not (times and is_out_of_memory(error)):
                raise
            break
    return times


def _numbers(most: int) -> list[int]:
    """1, 2, 4, … and the most there may be."""
    powers = [1 << exponent for exponent in range(most.bit_length())]
    return powers if powers[-1] == most else [*powers, most]


def _seconds(
    problem: Problem, lanes: Sequence[LaneTraining], unused: Collection[str], clock: Callable[[], float]
) -> float:
    """That a step of them takes, without the optimiser's part."""
    stack = LaneStack(problem, lanes, unused=unused)
    batch = stack.batch([lane.batches.first_rows() for lane in lanes])
    seconds = []
    for _ in range(1 + REPETITIONS):  # the first finds nothing prepared
        start = clock()
        found = stack.network.task_gradients(*batch)
        found.put_gradients(torch.ones_like(found.losses_NT))
        _ = found.norms_NT
        _wait(stack.parameters.values_NP.device)
        seconds.append(clock() - start)
    return min(seconds[1:])


def _most_by_memory(problem: Problem, lane: LaneTraining, unused: Collection[str], available: int) -> int:
    """As many as fit, by what one lane keeps for its backward pass."""
    stack = LaneStack(problem, [lane], unused=unused)
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stack.network.task_gradients(*stack.batch([lane.batches.first_rows()]))
    values_NP = stack.parameters.values_NP
    # The gradients of what is kept are as large again.
    bytes_per_lane = 2 * sum(kept.values()) + _MATRICES * values_NP.numel() * values_NP.element_size()
    return max(1, int(_SHARE_OF_MEMORY * available / max(1, bytes_per_lane)))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
