"""Who may run how many packs where the service limits them. A function of what the store holds, so that every conductor
comes to the same result by itself: there is no lock, and nobody who hands out turns.

Each sweep gets one pack, as far as there are enough, in the order of their priorities; of equal ones the older first.
Then those with the highest priority are served, in turns of a pack each, until none of them wants more or may have it;
then the next lower ones. So nobody gets more than it wants, nothing is left unused that somebody may have, and a sweep
with a low priority goes on with one pack rather than be held up, unless there are more sweeps than packs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from sweep_service.domain.limits import Demand, PackLimit


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """How many packs of a sweep may run."""

    most: int  # those beyond give way
    startable: int  # those beyond do not begin: fewer than ``most`` while others have yet to give way
    told: str = ""  # what holds it back, if anything


UNLIMITED = Allowance(most=1_000_000, startable=1_000_000)


def limits_of(project: str, labels: Mapping[str, str], limits: Iterable[PackLimit]) -> Sequence[PackLimit]:
    """Those that such a sweep is under."""
    return [limit for limit in limits if limit.applies_to(project, labels)]


def allowance_of(sweep_id: str, demands: Collection[Demand], limits: Collection[PackLimit]) -> Allowance:
    """That of one of the sweeps, all of which run, or are to. One that is not among them has just ended, or is under no
    limit.
    """
    return allowances(demands, limits).get(sweep_id, UNLIMITED)


def allowances(demands: Collection[Demand], limits: Collection[PackLimit]) -> Mapping[str, Allowance]:
    """Of those that are under a limit, by id."""
    limited = [found for d in demands if (found := _Limited(d, limits_of(d.project, d.labels, limits))).limits]
    limited.sort(key=lambda one: (-one.demand.priority, one.demand.id))
    left = {limit: limit.packs for limit in limits}
    shares = dict.fromkeys((one.demand.id for one in limited), 0)
    _share_out(limited, shares, {one.demand.id: one.demand.wanted for one in limited}, left)

    # What runs beyond a share still takes its place: nobody may start a pack for which there is none yet.
    free = {limit: limit.packs for limit in limits}
    for demand, own in limited:
        for limit in own:
            free[limit] -= demand.num_packs
    startable = {demand.id: min(demand.num_packs, shares[demand.id]) for demand, _ in limited}
    _share_out(limited, startable, shares, free)
    return {
        demand.id: Allowance(
            most=shares[demand.id],
            startable=startable[demand.id],
            told=next((x.told for x in own if not left[x]), "") if shares[demand.id] < demand.wanted else "",
        )
        for demand, own in limited
    }


class _Limited(NamedTuple):
    demand: Demand
    limits: Sequence[PackLimit]


def _share_out(
    limited: Sequence[_Limited], shares: dict[str, int], most: Mapping[str, int], left: dict[PackLimit, int]
) -> None:
    """Add to the shares what is left, up to ``most`` for each. ``limited``: in order."""

    def serve(some: Iterable[_Limited]) -> bool:
        """One more for each of them; False: there was none for anybody."""
        has_any = False
        for demand, limits in some:
            if shares[demand.id] < most[demand.id] and all(left[limit] > 0 for limit in limits):
                shares[demand.id] += 1
                for limit in limits:
                    left[limit] -= 1
                has_any = True
        return has_any

    serve([one for one in limited if not shares[one.demand.id]])
    for _, equals in groupby(limited, key=lambda one: one.demand.priority):
        some = list(equals)
        while serve(some):
            pass
