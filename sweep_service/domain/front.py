"""The Pareto front of several objectives: the trials that none other dominates. Pure functions of the trials' values.

One trial dominates another that is nowhere better and somewhere worse.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from sweep_service.domain.pruning import cost
from sweep_service.domain.spec import Objective
from sweep_service.domain.trial import Trial


def values_of(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    """The objectives' values in the trial's last report; None: one is missing there, or no finite number."""
    values = [trial.metrics.get(objective.metric, math.nan) for objective in objectives]
    return tuple(values) if all(math.isfinite(value) for value in values) else None


def pareto_front(trials: Iterable[Trial], objectives: Sequence[Objective]) -> list[Trial]:
    """Those of the trials that none of the others dominates, best in the first objective first. Of equal ones all.
    Trials without a finite value of every objective are left out.
    """
    candidates = [(costs, trial.number, trial) for trial in trials if (costs := _costs(trial, objectives)) is not None]
    candidates.sort(key=lambda one: one[:2])
    front: list[tuple[Sequence[float], Trial]] = []
    for costs, _, trial in candidates:  # in this order nobody is dominated by one that comes later
        if all(costs == there or not _is_nowhere_worse(there, costs) for there, _ in front):
            front.append((costs, trial))
    return [trial for _, trial in front]


def last_to_join(trials: Iterable[Trial], objectives: Sequence[Objective]) -> Trial | None:
    """The last trial, by number, that was an improvement when it came: that none before it equalled or dominated."""
    front: list[Sequence[float]] = []
    last: Trial | None = None
    for trial in sorted(trials, key=lambda trial: trial.number):
        costs = _costs(trial, objectives)
        if costs is not None and not any(_is_nowhere_worse(there, costs) for there in front):
            front = [there for there in front if not _is_nowhere_worse(costs, there)] + [costs]
            last = trial
    return last


def _costs(trial: Trial, objectives: Sequence[Objective]) -> tuple[float, ...] | None:
    values = values_of(trial, objectives)
    return None if values is None else tuple(map(cost, values, objectives))


def _is_nowhere_worse(costs: Sequence[float], than: Sequence[float]) -> bool:
    return all(own <= other for own, other in zip(costs, than, strict=True))
