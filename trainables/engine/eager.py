"""The engine that takes any module: lanes are trained one after another, each to its end."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Collection, Sequence

import torch

from trainables.balancers.initial_loss import LossRatioError
from trainables.engine.lane import LaneTraining
from trainables.engine.watch import NonFiniteError
from trainables.protocol import Lane, LaneEnding, LaneReport, Problem, Reporter
from trainables.ranks import Ranks

_OUT_OF_MEMORY = (  # in lower case
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "cuda out of memory",
    "cuda error: out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


def train_eagerly(
    problem: Problem, lanes: Sequence[Lane], report: Reporter, *, device: torch.device, ranks: Ranks
) -> None:
    """Train each lane in turn. What goes wrong in one ends that one; what ``report`` raises ends them all."""
    for lane in lanes:
        _train_lane(problem, lane, report if ranks.rank == 0 else _say_nothing, device, ranks)
        _release_memory()


def _train_lane(problem: Problem, lane: Lane, report: Reporter, device: torch.device, ranks: Ranks) -> None:
    run: LaneTraining | None = None
    while True:
        # Only the lane's own work is guarded. A report that raises is not its fault.
        try:
            run = run if run is not None else LaneTraining(problem, lane, device, ranks)
            lane_report = run.advance()
        except Exception as error:
            lane_report = _failure(lane, run.step if run is not None else _first_step(lane), error)
            if ranks.size > 1 and not isinstance(error, NonFiniteError | LossRatioError):
                # These two come of numbers that all ranks share. Any other fault is this rank's, and the others wait
                # for it in vain: the whole training ends.
                report([lane_report])
                raise
        asked_to_stop = ranks.of_the_first(lane.key in report([lane_report]))
        if lane_report.ending is not None:
            return
        if asked_to_stop:
            report([LaneReport(lane=lane.key, step=lane_report.step, metrics={}, ending=LaneEnding.STOPPED)])
            return


def _say_nothing(reports: Sequence[LaneReport]) -> Collection[str]:
    """What the ranks but the first do with reports that are the same on all of them."""
    return ()


def _failure(lane: Lane, step: int, error: Exception) -> LaneReport:
    """The last report of a lane that raised."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, NonFiniteError):
        ending, message, trace = LaneEnding.NON_FINITE, str(error), ""
    elif is_out_of_memory(error):
        ending, message, trace = LaneEnding.OUT_OF_MEMORY, f"out of memory at step {step}: {error}", ""
    else:
        ending, message, trace = LaneEnding.ERROR, text, "".join(traceback.format_exception(error))
    one_line = " ".join(message.split())
    return LaneReport(lane=lane.key, step=step, metrics={}, ending=ending, message=one_line, traceback=trace)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the GPU or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator, the CUDA driver and a GPU's libraries raise a RuntimeError, the operating system an OSError:
    # their text is all there is to go by.
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(phrase in text for phrase in _OUT_OF_MEMORY)


def _first_step(lane: Lane) -> int:
    return lane.resume_from.step if lane.resume_from is not None else 0


def _release_memory() -> None:
    """Leave the process as it was found: the next lane may need the memory that this one held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
