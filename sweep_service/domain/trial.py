"""Sweeps, trials, attempts, reports and leases as values: what the store keeps and hands out.

All times are aware and in UTC.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState


class Role(StrEnum):
    """Why a trial exists."""

    SEARCH = "search"  # asked of the sampler; the only role that counts in budget.trials
    BASELINE = "baseline"
    CONFIRM = "confirm"  # the best trial or a baseline again, with a fresh seed, measured on the test split


@dataclass(frozen=True, kw_only=True)
class AdoptedTrial:
    """What a sweep took over of an earlier one's trial when it was submitted: for its sampler to learn from."""

    trial_id: str  # of the earlier sweep, which may be gone
    role: Role  # SEARCH or BASELINE
    balancer: str
    point: Mapping[str, Any]  # in the space of the sweep that has adopted it
    state: TrialState  # COMPLETED or EARLY_STOPPED
    value: float  # of the objective; the last one where it was stopped early
    last_step: int


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """One search and where it stands."""

    id: str
    project: str
    created_by: str
    spec: SweepSpec
    state: SweepState
    reason: SweepReason | None = None
    message: str = ""  # one sentence for people; empty where the state says it all
    generation: int = 0  # how many conductors have been started for it
    revision: int = 0  # how often a user has changed what it is to do since it was submitted
    best_trial_id: str | None = None
    tracking_ref: str | None = None  # the parent run's id
    results: Mapping[str, Any] | None = None  # leaderboard, verdict and the like, once the sweep has ended
    adopted: tuple[AdoptedTrial, ...] = ()  # in the order of their making; no trials of this sweep
    created_at: datetime
    updated_at: datetime
    queued_at: datetime | None = None  # since when it is QUEUED; None: it is not
    started_at: datetime | None = None  # first moment in RUNNING
    ended_at: datetime | None = None
    tracking_due_at: datetime | None = None  # from when to try again what the tracking server has not taken by the end
    active_since: datetime | None = None  # since when its conductor runs; None: it waits, rests or has ended
    active_before_s: float = 0.0  # for how long conductors have run before that

    def active_time(self, now: datetime) -> timedelta:
        """How long it has run until now, without what it waited in the queue and rested in pauses."""
        before = timedelta(seconds=self.active_before_s)
        return before if self.active_since is None else before + (now - self.active_since)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What a conductor must know of its sweep at any time: where it stands, and which changes were made."""

    state: SweepState
    revision: int


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One hyperparameter set, trained once to a result."""

    id: str
    sweep_id: str
    number: int  # 0, 1, 2, … in the order of making, over all roles
    role: Role
    balancer: str
    params: Mapping[str, Any]  # complete: fixed, searched and default ones
    searched: Mapping[str, Any]  # the part that the sampler chose; empty for what was not asked of it
    seed: int
    confirms: str | None = None  # for role CONFIRM: the trial that it repeats
    state: TrialState
    ending: TrialEnding | None = None
    message: str = ""
    traceback: str = ""
    objective: float | None = None  # the objective at the last step; only of completed trials
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last report
    last_step: int = 0  # of the last report
    checkpoint: str | None = None  # of the last report that had one: the only resumable one
    tracking_ref: str | None = None  # its run's id, stored before its first metric
    search_state: Mapping[str, Any] = field(default_factory=dict)  # the sampler's own attributes of this trial
    provenance: Mapping[str, Any] = field(default_factory=dict)  # code version, data hash, package versions
    num_attempts: int = 0
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One try at a trial."""

    id: str
    trial_id: str
    sweep_id: str
    number: int  # 0, 1, 2, … within the trial
    state: AttemptState
    generation: int  # of the conductor that started it
    pack: str = ""  # the name that its pack has in that generation; empty: it was a pack by itself
    node: str = ""  # where it ran
    resumed_from: str | None = None  # checkpoint
    message: str = ""
    started_at: datetime
    ended_at: datetime | None = None

    @property
    def pack_key(self) -> tuple[int, str]:
        """The same of all attempts of one pack, and of no others of the sweep."""
        return self.generation, self.pack or self.id


@dataclass(frozen=True, kw_only=True)
class BusyTime:
    """How long packs have taken, one added to the other: each from the first start of its attempts to their last end,
    however many of them ran at once.
    """

    ended: timedelta = timedelta(0)  # those of which no attempt runs
    running_since: tuple[datetime, ...] = ()  # when each of the others has started; in order

    @classmethod
    def of(cls, spans: Iterable[tuple[Hashable, datetime, datetime | None]]) -> BusyTime:
        """Of attempts, each with the key of its pack, its start and its end; None: it runs. In any order; several of
        one pack may also come as one, from their first start to their last end.
        """
        packs: dict[Hashable, tuple[datetime, datetime | None]] = {}
        for pack, start, end in spans:
            first, last = packs.get(pack, (start, end))
            packs[pack] = min(first, start), None if last is None or end is None else max(last, end)
        ended = sum((_length(start, end) for start, end in packs.values() if end is not None), timedelta(0))
        return cls(ended=ended, running_since=tuple(sorted(start for start, end in packs.values() if end is None)))

    def until(self, now: datetime) -> timedelta:
        """All of it, of those that run up to now."""
        return self.ended + sum((_length(start, now) for start in self.running_since), timedelta(0))


def _length(start: datetime, end: datetime) -> timedelta:
    """Not below nothing: the two may be of clocks that differ, the conductor's and the store's."""
    return max(end - start, timedelta(0))


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an attempt said at a step; also a row of the outbox to the tracking server."""

    sweep_id: str
    trial_id: str
    attempt_id: str
    step: int  # optimiser steps done
    metrics: Mapping[str, float]
    objective: float | None  # the intermediate value at this step
    checkpoint: str | None = None
    reported_at: datetime  # goes along to the tracking server, so that a repeated delivery changes nothing
    seq: int = 0  # given by the store: position in the outbox


@dataclass(frozen=True, kw_only=True)
class Lease:
    """The time-limited right to run a sweep. Every write of a conductor carries its token."""

    sweep_id: str
    token: str
    owner: str
    generation: int
    expires_at: datetime  # by the database's clock


@dataclass(frozen=True, kw_only=True)
class NodeResources:
    """What one node of the cluster has in all, busy or not."""

    node: str
    cpus: float
    gpus: float


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster's nodes when the dispatcher last looked."""

    nodes: tuple[NodeResources, ...]
    seen_at: datetime

    def can_ever_hold(self, *, cpus: float, gpus: float) -> bool:
        """Whether some node, when idle, has room for that much."""
        return any(node.cpus >= cpus and node.gpus >= gpus for node in self.nodes)
