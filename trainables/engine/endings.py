"""How a lane ends by an error: what the error means, and what is said of it."""

from __future__ import annotations

import gc
import traceback

import torch

from trainables.engine.watch import NonFiniteError
from trainables.protocol import Lane, LaneEnding, LaneReport

_OUT_OF_MEMORY = (  # in lower case
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "cuda out of memory",
    "cuda error: out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


def failure(lane: Lane, step: int, error: Exception) -> LaneReport:
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


def first_step(lane: Lane) -> int:
    """Optimiser steps done when it starts."""
    return lane.resume_from.step if lane.resume_from is not None else 0


def release_memory() -> None:
    """Leave the process as it was found: the next lane may need the memory that this one held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
