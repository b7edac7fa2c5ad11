"""What a sweep takes of the cluster, as a spec says it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, FiniteFloat

from sweep_service.domain.space import Strict

MOST_LANES = 1024
_UNITS_OF_RAY = 10_000  # in one CPU or GPU: Ray takes what is less for nothing, and more exactly than it can


def _check_share(value: float) -> float:
    if not math.isclose(value * _UNITS_OF_RAY, round(value * _UNITS_OF_RAY), abs_tol=1e-6):
        raise ValueError(f"must be a multiple of {1 / _UNITS_OF_RAY:.4f}, the smallest part that can be reserved")
    return value


def _check_gpus(value: float) -> float:
    if value > 1 and value != int(value):
        raise ValueError("above 1 it must be a whole number; a fraction shares one GPU")
    return value


def _check_lanes(value: Any) -> Any:
    """One fault for both forms in place of one each."""
    is_number = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST_LANES
    if value != "auto" and not is_number:
        raise ValueError(f"must be auto, or a whole number from 1 to {MOST_LANES}; 1 trains each trial by itself")
    return value


Lanes = Annotated[Annotated[int, Field(ge=1, le=MOST_LANES)] | Literal["auto"], BeforeValidator(_check_lanes)]


class Resources(Strict):
    """What one pack takes of a node, and how many packs run at once."""

    cpus: Annotated[FiniteFloat, Field(gt=0, le=1024), AfterValidator(_check_share)] = Field(
        default=1.0, description="Of one pack; the whole part is its number of threads."
    )
    gpus: Annotated[FiniteFloat, Field(ge=0, le=64), AfterValidator(_check_share), AfterValidator(_check_gpus)] = Field(
        default=0.0,
        description="Of one pack, whose trials see these and no others (CUDA_VISIBLE_DEVICES); a fraction shares one "
        "GPU, 0 trains on the CPU.",
    )
    parallel: Annotated[int, Field(ge=1, le=1000)] = Field(default=1, description="Packs that may run at once.")
    lanes: Lanes = Field(
        default="auto",
        description="Trials that one pack trains together, as one batched network. auto: as many as make each of them "
        "cheaper (measured when the first pack starts) and fit into the memory, and never so many that a sampler which "
        "learns from results has more than a quarter of its trials running; a number is kept to, memory permitting; 1: "
        "each trial by itself. Trials that differ in more than numbers (layers, batch_size, steps, ...) go into "
        "different packs.",
    )
