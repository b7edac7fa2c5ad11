"""What the service has and does at one moment, in numbers: for whoever watches over it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from sweep_service.domain.states import AttemptState, SweepState, TrialEnding
from sweep_service.domain.trial import Cluster, Role

NOTHING = timedelta(0)
TIME_BOUNDS_S = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)  # of waits and of trainings, from toys to days


@dataclass(frozen=True, kw_only=True)
class Times:
    """How long something took, of many: ``counts[i]`` took at most ``TIME_BOUNDS_S[i]`` and longer than the bound
    before; the last one longer than any.
    """

    counts: tuple[int, ...] = (0,) * (len(TIME_BOUNDS_S) + 1)
    total: timedelta = NOTHING

    @classmethod
    def of(cls, times: Iterable[timedelta]) -> Times:
        found = [max(time, NOTHING) for time in times]
        places = Counter(bisect_left(TIME_BOUNDS_S, time.total_seconds()) for time in found)
        return cls(counts=tuple(places[i] for i in range(len(TIME_BOUNDS_S) + 1)), total=sum(found, NOTHING))


@dataclass(frozen=True, kw_only=True)
class Work:
    """What has been done, and is being done, for one sweep or for several."""

    start_waits: Times = field(default_factory=Times)  # from a sweep's making to the first moment in RUNNING
    trials_ended: Mapping[tuple[TrialEnding, Role], int] = field(default_factory=dict)  # only pairs that some trial has
    trial_times: Times = field(default_factory=Times)  # of those that have ended, from their first start
    num_trials_running: int = 0
    attempts: Mapping[AttemptState, int] = field(default_factory=dict)
    num_packs_running: int = 0
    gpus_busy: float = 0.0  # held by these
    gpu_time: timedelta = NOTHING  # of all packs, up to now: the time of each, times its GPUs

    @classmethod
    def together(cls, parts: Iterable[Work]) -> Work:
        """All of it as one."""
        found = list(parts)
        trials: Counter[tuple[TrialEnding, Role]] = Counter()
        attempts: Counter[AttemptState] = Counter()
        for part in found:
            trials.update(part.trials_ended)
            attempts.update(part.attempts)
        return cls(
            start_waits=_sum(part.start_waits for part in found),
            trials_ended=dict(trials),
            trial_times=_sum(part.trial_times for part in found),
            num_trials_running=sum(part.num_trials_running for part in found),
            attempts=dict(attempts),
            num_packs_running=sum(part.num_packs_running for part in found),
            gpus_busy=sum(part.gpus_busy for part in found),
            gpu_time=sum((part.gpu_time for part in found), NOTHING),
        )


def _sum(several: Iterable[Times]) -> Times:
    found = list(several)
    if not found:
        return Times()
    counts = tuple(map(sum, zip(*(times.counts for times in found), strict=True)))
    return Times(counts=counts, total=sum((times.total for times in found), NOTHING))


@dataclass(frozen=True, kw_only=True)
class Stock:
    """All of the service, by the store's clock. What has been deleted is in none of these numbers."""

    sweeps: Mapping[SweepState, int]  # only states that some sweep is in
    num_unschedulable: int = 0  # of the queued ones: no node could ever hold one of their trials
    longest_wait: timedelta = NOTHING  # of the queued one that waits for longest
    lease_left: timedelta | None = (
        None  # of the live leases on unfinished sweeps the one that runs out first; None: no such
    )
    num_unattended: int = 0  # sweeps that a conductor should run, and nobody has a live lease on
    num_undelivered: int = 0  # reports that wait for the tracking server
    longest_undelivered: timedelta = NOTHING  # since the first of one sweep was reported, of the sweeps the longest
    num_overdue: int = 0  # ended sweeps of which the tracking server has yet to take something
    cluster: Cluster | None = None  # None: no dispatcher has looked yet
    cluster_age: timedelta = NOTHING  # since a dispatcher has published it
    work: Work = field(default_factory=Work)
