"""What every variant of the throughput benchmark is given, and what is measured of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

METRIC = "val/normalized_loss"
PARALLEL = 2  # trials, or packs of them, that run at once; the processors that Ray hands out
NUM_REPORTS = 15  # of a trial
SEED = 0  # of the sampler, the initial weights and the order of the data
LR = 1e-3
ALPHA = (0.0, 3.0)
WEIGHT_LR = (1e-4, 1e-1)  # on a logarithmic scale
REDUCTION_FACTOR = 3  # of ASHA

PROBLEMS = ("census_income", "digits", "toy_regression")
BATCH_SIZE = 64  # rows; the larger it is, the less is gained by training lanes together on a processor

Curve = Sequence[tuple[float, float]]  # seconds since the start and METRIC of every report of every trial, by time


@dataclass(frozen=True, kw_only=True)
class Workload:
    """So many trials of a problem."""

    problem: str
    trials: int
    steps: int
    batch_size: int

    @property
    def report_every(self) -> int:
        return math.ceil(self.steps / NUM_REPORTS)

    @property
    def min_steps(self) -> int:
        """No trial is stopped by ASHA before that step: its second report, the first that every later rung meets."""
        return min(self.steps, 2 * self.report_every)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One variant in one round."""

    seconds: float  # warm: until everything is in MLflow
    cold_seconds: float  # with the start of Ray and of all else that has to be up
    peak_mb: float
    completed: int  # trials that came to their last step
    curve: Curve
    best: float | None  # METRIC at the last step, the lowest of the completed trials; None: none has completed


class VariantFailedError(Exception):
    """It did not do what it was asked for; the message says what happened."""


class NotAvailableError(Exception):
    """The service refuses what the variant asks for; the message is the refusal."""


def lowest(curve: Curve) -> float:
    """The lowest value that any trial has reported."""
    return min((value for _, value in curve), default=math.inf)


def seconds_to(curve: Curve, target: float) -> float:
    """When a trial first reported the target or better; infinity: never."""
    return min((at for at, value in curve if value <= target), default=math.inf)
