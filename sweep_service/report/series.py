"""Curves by task, taken from a trial's reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from sweep_service.domain.trial import Report

Series: TypeAlias = tuple[list[int], list[float]]  # steps and values

LINEAR_UP_TO = 30.0  # largest value over smallest, beyond which an axis is logarithmic
_MAX_POINTS = 500  # of a curve: more than there are pixels to tell them apart


def series_by_task(reports: Iterable[Report], prefix: str) -> dict[str, Series]:
    """The metric ``<prefix><task>`` over the optimiser steps, by task in the order of their names. A value that is not
    finite is a NaN, so that its curve has a gap there; a curve without any finite value is left out.
    """
    curves: dict[str, Series] = {}
    for report in sorted(reports, key=lambda report: report.step):
        for key, value in report.metrics.items():
            if key.startswith(prefix):
                steps, values = curves.setdefault(key.removeprefix(prefix), ([], []))
                steps.append(report.step)
                values.append(value if math.isfinite(value) else math.nan)
    finite = {task: curve for task, curve in curves.items() if not all(map(math.isnan, curve[1]))}
    return {task: _thinned(curve) for task, curve in sorted(finite.items())}


def spans_decades(values: Iterable[float], *, beyond: float = LINEAR_UP_TO) -> bool:
    """Whether on a linear axis the small ones would all lie on zero. NaNs do not count."""
    known = [value for value in values if not math.isnan(value)]
    return bool(known) and min(known) > 0 and max(known) / min(known) > beyond


def log_ticks(low: float, high: float) -> list[float]:
    """The powers of ten between two numbers above zero; over few decades twice and five times them too, and over many
    not all of them.
    """
    first, last = math.log10(low), math.log10(high)
    factors = (1, 2, 5) if last - first < 3 else (1,)
    stride = max(1, math.ceil((last - first) / 10))
    powers = range(math.floor(first) // stride * stride, math.floor(last) + 1, stride)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def all_values(curves: Mapping[str, Series]) -> list[float]:
    """The values of all curves together."""
    return [value for _, values in curves.values() for value in values]


def _thinned(curve: Series) -> Series:
    """Evenly, with the first point and the last."""
    steps, values = curve
    if len(steps) <= _MAX_POINTS:
        return curve
    kept = [round(index * (len(steps) - 1) / (_MAX_POINTS - 1)) for index in range(_MAX_POINTS)]
    return _at(steps, kept), _at(values, kept)


def _at(items: Sequence, kept: Sequence[int]) -> list:
    return [items[index] for index in kept]
