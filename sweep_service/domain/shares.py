"""How the trials of the budget are shared out among the lines of a sweep.

Where the search is one line it has them all. Where each balancer of the space has a line of its own (``methods`` of
the spec), each gets as many trials *per parameter that it has to tune*: a method with four knobs, given as many trials
as one with a single knob, would be compared half-tuned with tuned. With p_m the parameters of method m, the balancer
itself not counted,

    quota_m = trials · p_m / Σ p

in whole numbers by the largest remainder, at least 1, and at most as many as there are different points. What one
cannot use, the others get in proportion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import islice

from sweep_service.domain.branches import branches, free, grid_size, within
from sweep_service.domain.space import Space
from sweep_service.domain.spec import BALANCER, SweepSpec

_MAX_BRANCHES = 10_000  # looked at for the largest


def search_quotas(spec: SweepSpec) -> Mapping[str | None, int]:
    """How many trials each line of the search gets, by its balancer; None: the search is one line."""
    trials, sampler = spec.budget.trials, spec.search.sampler
    if spec.methods:
        return {**method_quotas(spec.space, spec.methods, trials=trials, sampler=sampler)}
    (quota,) = apportion(trials, *_weights_and_caps([spec.space], sampler))
    return {None: quota}


def method_quotas(space: Space, methods: Sequence[str], *, trials: int, sampler: str) -> Mapping[str, int]:
    """How many of so many trials each method gets."""
    spaces = [within(space, {BALANCER: method}) for method in methods]
    return dict(zip(methods, apportion(trials, *_weights_and_caps(spaces, sampler)), strict=True))


def baseline_quota(spec: SweepSpec, space: Space) -> int:
    """How many trials a baseline over that space gets: as many as the search, or as many per parameter as the methods
    of the search, each of which is a line.
    """
    trials, sampler = spec.budget.trials, spec.search.sampler
    (weight,), (cap,) = _weights_and_caps([space], sampler)
    most = trials if cap is None else min(cap, trials)
    of_methods = [within(spec.space, {BALANCER: method}) for method in spec.methods]
    rate = _rate(trials, *_weights_and_caps(of_methods, sampler)) if of_methods else None
    return most if rate is None else int(_clamped(rate * weight + Fraction(1, 2), most))


def num_parameters(space: Space) -> int:
    """The parameters of the largest branch of the space."""
    if not any(dimension.when for dimension in space.values()):
        return len(space)
    return max(len(branch) + len(free(space, branch)) for branch in islice(branches(space), _MAX_BRANCHES))


def apportion(total: int, weights: Sequence[int], caps: Sequence[int | None]) -> Sequence[int]:
    """Whole numbers in proportion to the weights, each from 1 to its cap, that add up to the total, or to the caps
    where these are less; each is within one of its exact share.
    """
    rate = _rate(total, weights, caps)
    if rate is None:
        return [cap or 1 for cap in caps]
    exact = [_clamped(rate * weight, cap) for weight, cap in zip(weights, caps, strict=True)]
    whole = [math.floor(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: whole[place] - exact[place])
    for place in by_remainder[: max(0, total - sum(whole))]:
        whole[place] += 1
    return whole


def _weights_and_caps(spaces: Sequence[Space], sampler: str) -> tuple[list[int], list[int | None]]:
    """The parameters of each space, none counted as one; how many different points there are to try, None: enough."""
    weights = [max(1, num_parameters(space)) for space in spaces]
    return weights, [grid_size(space) if sampler == "grid" or not space else None for space in spaces]


def _rate(total: int, weights: Sequence[int], caps: Sequence[int | None]) -> Fraction | None:
    """How many trials a parameter gets: at that rate the shares, kept from 1 to their caps, add up to the total. None:
    the caps add up to no more than it.
    """

    def handed_out(rate: Fraction) -> Fraction:
        return sum((_clamped(rate * w, cap) for w, cap in zip(weights, caps, strict=True)), Fraction(0))

    if None not in caps and sum(cap or 0 for cap in caps) <= total:
        return None
    # The sum grows in straight lines between the rates at which a share leaves 1 or comes to its cap.
    rates = {Fraction(bound, w) for w, cap in zip(weights, caps, strict=True) for bound in (1, cap or 1)}
    low = Fraction(0)
    for rate in sorted(rates):
        if handed_out(rate) >= total:
            break
        low = rate
    growing = [w for w, cap in zip(weights, caps, strict=True) if low * w >= 1 and (cap is None or low * w < cap)]
    return low + (total - handed_out(low)) / sum(growing) if growing else low


def _clamped(share: Fraction, cap: int | None) -> Fraction:
    share = max(share, Fraction(1))
    return share if cap is None else min(share, Fraction(cap))
