"""Early stopping: whether a trial's course so far is worth going on with. Pure functions of stored values.

Optuna's pruners judge each report by what arrived before it: of nine lanes that report together, worst first, all are
kept, and best first eight are ended. Here the values of a report are added to the curves first, all of them, and then
each curve is judged: the order of the lanes cannot matter.

A curve is judged when it gets a value and never again for that value, so that what a conductor has decided stands
after a restart, whatever has been reported since.
"""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate

from sweep_service.domain.spec import EarlyStopping, Objective

# Multiples of it, modulo 1, spread evenly over 0 to 1 from the first one on.
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The objective of a trial by step, as costs: less is better, infinity is what is no number."""

    number: int  # the trial's
    steps: tuple[int, ...] = ()  # ascending
    costs: tuple[float, ...] = ()

    def at(self, step: int) -> float | None:
        """The first cost reported at that step or after it; None: the trial has not come so far."""
        index = bisect_left(self.steps, step)
        return self.costs[index] if index < len(self.costs) else None

    def best_until(self, step: int) -> float | None:
        """The least cost up to that step; None: the trial has not come so far."""
        if not self.steps or self.steps[-1] < step:
            return None
        return min(self.costs[: bisect_right(self.steps, step)], default=None)


def cost(value: float | None, objective: Objective) -> float:
    """The objective's value as one of which less is better."""
    if value is None or not math.isfinite(value):
        return math.inf
    return value if objective.direction == "minimize" else -value


def reason_to_stop(
    rule: EarlyStopping, curve: Curve, others: Collection[Curve], *, num_completed: int, max_steps: int
) -> str | None:
    """Why the trial should end at the newest value of its curve, as a sentence; None: it goes on.

    Args:
        rule: how to judge.
        curve: with at least one value.
        others: the curves of the sweep's other search trials, ended ones too; their order does not matter.
        num_completed: how many of those have trained to their last step.
        max_steps: the last step of a whole training; nothing is judged there.
    """
    if rule.pruner == "none" or not rule.first_step(max_steps) <= curve.steps[-1] < max_steps:
        return None
    if rule.pruner == "median":
        return None if num_completed < rule.num_startup_trials else _below_the_median(curve, others)
    rungs = _rungs(rule, max_steps)
    if rule.pruner == "hyperband":
        num_rungs, bracket = len(rungs), _bracket(rule, curve.number, len(rungs))
        others = [other for other in others if _bracket(rule, other.number, num_rungs) == bracket]
        rungs = rungs[bracket:]
    return _below_the_best(rule, curve, others, rungs)


def _below_the_median(curve: Curve, others: Collection[Curve]) -> str | None:
    """The best value so far against the median of what the others had reached by the same step."""
    step = curve.steps[-1]
    own = curve.best_until(step)
    field = [best for other in others if (best := other.best_until(step)) is not None]
    if own is None or not field or own <= statistics.median(field):
        return None
    return f"At step {step} its best value so far is worse than the median of {len(field)} other trials."


def _below_the_best(rule: EarlyStopping, curve: Curve, others: Collection[Curve], rungs: Sequence[int]) -> str | None:
    """Successive halving: at each rung that the newest value is the first to reach, only the best go on."""
    before = (0, *curve.steps)[-2]
    for rung in rungs:
        if not before < rung <= curve.steps[-1]:
            continue
        own = curve.costs[-1]
        field = [there for other in others if (there := other.at(rung)) is not None]
        places = max(1, (len(field) + 1) // rule.factor)
        if sum(there < own for there in field) >= places:
            return f"At step {rung} it is not among the best {places} of {len(field) + 1} trials."
    return None


def _rungs(rule: EarlyStopping, max_steps: int) -> Sequence[int]:
    """The steps at which trials are compared."""
    rungs = [rule.first_step(max_steps)]
    while rungs[-1] * rule.factor < max_steps:
        rungs.append(rungs[-1] * rule.factor)
    return rungs


def _bracket(rule: EarlyStopping, number: int, num_rungs: int) -> int:
    """Which bracket the trial of that number is in: bracket b skips the first b rungs, the last one all of them.

    The shares are Hyperband's: each bracket gets about the same training in all, so that those that stop early have
    the more trials. They are spread over the numbers, since a short search must not see one bracket only.
    """
    shares = [rule.factor**left / (left + 1) for left in range(num_rungs, -1, -1)]
    place = (number * _GOLDEN) % 1 * sum(shares)
    return min(bisect_right(list(accumulate(shares)), place), num_rungs)
