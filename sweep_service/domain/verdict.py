"""Did it help? Paired differences over the same seeds, their interval, and one word for each baseline.

Where several balancers are searched, the best of each other one is compared as a baseline is, and called one here.

Every metric judged here is a loss: lower is better, so a negative difference (best minus baseline) speaks for the best.

A repeat either was not measured (its worker was lost, the code raised, memory ran out, a user ended it), which says
nothing of its side and only takes the pair away, or it *diverged* (:func:`diverged`), which is a result, and the worst
there is. It has no difference to enter into a mean, so that it limits what may be said instead (rule 5).

The rule, in this order:

1. fewer than two seeds on which both sides have a finite number: ``inconclusive``, with the reason;
2. the 95 % t-interval of the mean difference lies strictly inside ± margin: ``equivalent``. This comes before the next
   rule on purpose: a difference can be real and too small to matter, and the margin says what is too small;
3. the interval lies on one side of zero **and** Holm's p is below 0.05: ``helped`` below zero, ``hurt`` above it;
4. anything else: ``inconclusive``;
5. where the best diverged on a seed on which the baseline got through, ``helped`` and ``equivalent`` become
   ``inconclusive``, with the reason; where the baseline diverged and the best got through, ``hurt`` and ``equivalent``
   do. A seed on which both diverged speaks for neither.

Holm's correction runs over all the baselines that were to be compared on that metric; one that could not be compared
counts as a p of 1, so that a failed repeat never makes the others look better. The interval itself is not corrected.
Differences that are all the same have an interval of no width, and p = 0 (p = 1 where they are all zero).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
COVERS = (
    "The intervals cover what changes from seed to seed (initial weights, order of the training data). They do not "
    "cover the sampling of the test split: another test split could move all of them together."
)

DIVERGED = math.inf  # the value of a repeat that ended without a number, because its training diverged
_LARGEST = 1e100  # beyond it squares overflow; a loss of that size says "diverged", as infinity does


class Outcome(StrEnum):
    HELPED = "helped"
    HURT = "hurt"
    EQUIVALENT = "equivalent"  # the whole interval is inside ± margin
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """What is to be compared on one metric: the best against one baseline, each a value by seed.

    A seed that a side lacks was not measured there.
    """

    baseline: str
    best: Mapping[int, float]
    other: Mapping[int, float]
    margin: float  # in units of the metric, > 0
    best_name: str = "the best trial"  # as the reason calls it


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What came out of a contrast. The first three numbers are None where there are too few pairs for them."""

    baseline: str
    outcome: Outcome
    mean_difference: float | None  # best minus baseline; None: no pair
    interval: tuple[float, float] | None  # None: fewer than two pairs
    p_value: float | None  # two-sided paired t-test
    p_value_holm: float | None
    margin: float
    num_pairs: int
    num_best_diverged: int  # repeats of the best, on whatever seed
    num_other_diverged: int
    reason: str | None  # which side diverged how often, and why there is no interval; None: neither


@dataclass(frozen=True, kw_only=True)
class _Estimate:
    mean: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    num_pairs: int


def compare(contrasts: Sequence[Contrast]) -> tuple[Comparison, ...]:
    """One comparison for each contrast, in their order; together they are the family of Holm's correction."""
    estimates = [_estimate(paired_differences(contrast.best, contrast.other)) for contrast in contrasts]
    corrected = holm([estimate.p_value for estimate in estimates])
    return tuple(
        _conclude(contrast, estimate, p_value_holm)
        for contrast, estimate, p_value_holm in zip(contrasts, estimates, corrected, strict=True)
    )


def paired_differences(best: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """Best minus other on the seeds where both were measured and neither diverged, by seed."""
    both = sorted(set(best) & set(other))
    return [best[seed] - other[seed] for seed in both if not (diverged(best[seed]) or diverged(other[seed]))]


def diverged(loss: float) -> bool:
    """Whether a loss says that the training diverged: not a number, infinite, or too large to compute with."""
    return not (math.isfinite(loss) and abs(loss) < _LARGEST)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction, in the order given. None (not tested) stays None and counts as 1."""
    order = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(p_values) - rank)))
        corrected[index] = largest
    return corrected


def _estimate(differences: Sequence[float]) -> _Estimate:
    """Mean, t-interval and p-value of the mean being zero."""
    num_pairs = len(differences)
    if num_pairs < 2:
        return _Estimate(mean=next(iter(differences), None), interval=None, p_value=None, num_pairs=num_pairs)
    mean = statistics.fmean(differences)
    standard_error = statistics.stdev(differences) / math.sqrt(num_pairs)
    if standard_error == 0.0:
        return _Estimate(mean=mean, interval=(mean, mean), p_value=float(mean == 0.0), num_pairs=num_pairs)
    from scipy.special import stdtr, stdtrit  # here: whoever only reads a verdict does not pay for scipy

    freedom = num_pairs - 1
    half_width = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * standard_error
    p_value = 2 * float(stdtr(freedom, -abs(mean) / standard_error))
    return _Estimate(mean=mean, interval=(mean - half_width, mean + half_width), p_value=p_value, num_pairs=num_pairs)


def _conclude(contrast: Contrast, estimate: _Estimate, p_value_holm: float | None) -> Comparison:
    by_pairs = _outcome(estimate.interval, p_value_holm, contrast.margin)
    outcome = _limited(by_pairs, contrast)
    return Comparison(
        baseline=contrast.baseline,
        outcome=outcome,
        mean_difference=estimate.mean,
        interval=estimate.interval,
        p_value=estimate.p_value,
        p_value_holm=p_value_holm,
        margin=contrast.margin,
        num_pairs=estimate.num_pairs,
        num_best_diverged=_num_diverged(contrast.best),
        num_other_diverged=_num_diverged(contrast.other),
        reason=_reason(contrast, estimate, is_limited=outcome is not by_pairs),
    )


def _outcome(interval: tuple[float, float] | None, p_value_holm: float | None, margin: float) -> Outcome:
    if interval is None or p_value_holm is None:
        return Outcome.INCONCLUSIVE
    low, high = interval
    if -margin < low and high < margin:
        return Outcome.EQUIVALENT
    if p_value_holm < SIGNIFICANCE and high < 0:
        return Outcome.HELPED
    if p_value_holm < SIGNIFICANCE and low > 0:
        return Outcome.HURT
    return Outcome.INCONCLUSIVE


def _limited(outcome: Outcome, contrast: Contrast) -> Outcome:
    """The outcome of the pairs, or inconclusive where a side diverged that it would speak well of."""
    best_failed = _diverged_alone(contrast.best, contrast.other)
    other_failed = _diverged_alone(contrast.other, contrast.best)
    if best_failed and outcome in (Outcome.HELPED, Outcome.EQUIVALENT):
        return Outcome.INCONCLUSIVE
    if other_failed and outcome in (Outcome.HURT, Outcome.EQUIVALENT):
        return Outcome.INCONCLUSIVE
    return outcome


def _diverged_alone(side: Mapping[int, float], against: Mapping[int, float]) -> bool:
    """Whether a side diverged on a seed on which the one against it did not."""
    return any(diverged(side[seed]) and not diverged(against[seed]) for seed in set(side) & set(against))


def _num_diverged(side: Mapping[int, float]) -> int:
    return sum(diverged(value) for value in side.values())


def _reason(contrast: Contrast, estimate: _Estimate, *, is_limited: bool) -> str | None:
    sides = ((contrast.best_name, contrast.best), (contrast.baseline, contrast.other))
    counts = [(name, _num_diverged(side), len(side)) for name, side in sides]
    told = " and ".join(f"{name} diverged on {num} of {total} seeds" for name, num, total in counts if num)
    if is_limited:
        told += ", so that the other seeds do not decide"
    too_few = _too_few(contrast, estimate.num_pairs) if estimate.interval is None else ""
    return "; ".join(part for part in (told, too_few) if part) or None


def _too_few(contrast: Contrast, num_pairs: int) -> str:
    num_best, num_other = (len(side) - _num_diverged(side) for side in (contrast.best, contrast.other))
    return (
        f"a comparison needs at least 2 seeds on which both have a finite result, and there "
        f"{'is 1' if num_pairs == 1 else 'are none'}: "
        f"{num_best} of the best trial's repeats and {num_other} of {contrast.baseline}'s have one"
    )
