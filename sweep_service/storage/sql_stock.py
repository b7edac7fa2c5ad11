"""How everything stands, of a SQL store.

Nothing changes any more of a sweep that has ended and that nobody has a lease on, until somebody claims it, which is a
new generation; and nearly all trials are of such sweeps. So what was done for it is counted once and remembered. To
count the trials and attempts of a thousand sweeps takes a second; to count those of the unfinished ones, some
milliseconds. What is remembered is lost with the process, and counted again by the next one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Executable, Select, and_, bindparam, case, func, select

from sweep_service.domain.resources import Resources
from sweep_service.domain.states import CONDUCTED, AttemptState, SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.stock import NOTHING, TIME_BOUNDS_S, Stock, Times, Work
from sweep_service.domain.trial import Role
from sweep_service.storage import rows
from sweep_service.storage.database import Database
from sweep_service.storage.tables import attempts, publications, reports, sweeps, trials

CLUSTER = "cluster"
"""The name under which a dispatcher publishes what the cluster has."""

_AT_ONCE = 200  # sweeps whose work is counted by one query
_UNFINISHED = sweeps.c.ended_at.is_(None)


class _Version(NamedTuple):
    """What tells an ended sweep from itself before it was opened again. These columns are stored before ``results``: to
    come to others, SQLite walks through those, tens of kilobytes of each sweep (1.7 ms in place of 79).
    """

    id: str
    state: str
    generation: int
    revision: int


class StockTaker:
    """Takes stock, and remembers what cannot change. Safe to share between threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._counting = _Counting(database)
        self._past = _Past()  # never changed, only replaced

    def take(self) -> Stock:
        with self._database.reading() as connection:
            now = self._database.read_clock(connection)
            found = list(map(_Version._make, connection.execute(_VERSIONS).all()))
            ended = self._ended(connection, {version for version in found if version.state in _ENDED}, now)
            begun = [version.id for version in found if version.state not in _ENDED and version.generation > 0]
            num_in_state = Counter(version.state for version in found)
            return Stock(
                sweeps={SweepState(state): number for state, number in num_in_state.items()},
                **_standing(connection, now),
                **_cluster(connection, now),
                work=Work.together([ended, *self._counting.count(connection, begun).values()]),
            )

    def _ended(self, connection: Connection, versions: Collection[_Version], now: datetime) -> Work:
        """What was done for the ended sweeps."""
        past = self._past
        if past.works.keys() == versions:
            return past.together
        works = {version: work for version, work in past.works.items() if version in versions}
        unknown = {version.id: version for version in versions if version not in works}
        in_hands: list[Work] = []
        for several in _portions(list(unknown)):
            leased = set(connection.execute(_LEASED, {"sweep_ids": several, "now": now}).scalars())
            for sweep_id, work in self._counting.count(connection, several).items():
                if sweep_id in leased:  # whoever has the lease may still write
                    in_hands.append(work)
                else:
                    works[unknown[sweep_id]] = work
        self._past = past = _Past(works=works, together=Work.together(works.values()))
        return Work.together([past.together, *in_hands]) if in_hands else past.together


class _Counting:
    """What was done for certain sweeps. The statements are built once: that takes longer than to execute them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        sweep_ids = bindparam("sweep_ids", expanding=True)
        kind = attempts.c.sweep_id, attempts.c.state
        self._attempts = select(*kind, func.count().label("number")).group_by(*kind)
        self._attempts = self._attempts.where(attempts.c.sweep_id.in_(sweep_ids))
        self._trials = self._trials_query(trials.c.sweep_id.in_(sweep_ids))
        self._packs = self._packs_query(attempts.c.sweep_id.in_(sweep_ids))

    def count(self, connection: Connection, sweep_ids: Sequence[str]) -> Mapping[str, Work]:
        """By sweep, all of them."""
        works: dict[str, Work] = {}
        for several in _portions(sweep_ids):
            works |= self._count(connection, {"sweep_ids": several})
        return works

    def _count(self, connection: Connection, named: Mapping[str, Any]) -> Mapping[str, Work]:
        counted: defaultdict[str, _Trials] = defaultdict(_Trials)
        for row in connection.execute(self._trials, named).all():
            counted[row.sweep_id].add(row)
        parts: dict[str, dict[str, Any]] = {sweep_id: found.part for sweep_id, found in counted.items()}
        for row in connection.execute(self._attempts, named).all():
            parts.setdefault(row.sweep_id, {}).setdefault("attempts", {})[AttemptState(row.state)] = row.number
        packs = {row.sweep_id: row for row in connection.execute(self._packs, named).all()}
        for row in connection.execute(_SWEEPS, named).all():
            part = parts.setdefault(row.id, {})
            if row.started_at is not None:
                part["start_waits"] = Times.of([row.started_at - row.created_at])
            if row.id in packs:
                pack, gpus = packs[row.id], Resources.trusted(row.resources or {}).gpus
                part |= {"num_packs_running": pack.running, "gpus_busy": gpus * pack.running}
                part["gpu_time"] = gpus * timedelta(seconds=float(pack.seconds))
        return {sweep_id: Work(**part) for sweep_id, part in parts.items()}

    def _trials_query(self, is_counted: ColumnElement[bool]) -> Executable:
        columns = trials.c.sweep_id, trials.c.state, trials.c.ending, trials.c.role
        has_time = and_(trials.c.started_at.is_not(None), trials.c.ended_at.is_not(None))
        seconds = case((has_time, self._seconds(trials.c.started_at, trials.c.ended_at))).label("seconds")
        is_waiting = trials.c.state.in_([str(TrialState.PENDING), str(TrialState.RESTING)])
        # By itself SQLite calculates the seconds anew wherever they are mentioned: that took twice as long.
        timed = select(*columns, seconds).where(is_counted, ~is_waiting).cte("timed").prefix_with("MATERIALIZED")
        places = ((timed.c.seconds <= bound, place) for place, bound in enumerate(TIME_BOUNDS_S))
        place = case((timed.c.seconds.is_(None), None), *places, else_=len(TIME_BOUNDS_S)).label("place")
        kind = timed.c.sweep_id, timed.c.state, timed.c.ending, timed.c.role
        sums = func.count().label("number"), func.sum(timed.c.seconds).label("seconds")
        return select(*kind, place, *sums).group_by(*kind, place)

    def _packs_query(self, is_counted: ColumnElement[bool]) -> Executable:
        """The same packs as those of ``SweepStore.busy_time``: of each sweep how many run, and how long all of them
        have taken until now.
        """
        key = attempts.c.sweep_id, attempts.c.generation, func.coalesce(func.nullif(attempts.c.pack, ""), attempts.c.id)
        is_over = func.count() == func.count(attempts.c.ended_at)
        start, end = func.min(attempts.c.started_at), case((is_over, func.max(attempts.c.ended_at)))
        spans = select(attempts.c.sweep_id, start.label("start"), end.label("end"))
        packs = spans.where(is_counted).group_by(*key).subquery()
        until = func.coalesce(packs.c.end, self._database.now())
        num_running = func.count() - func.count(packs.c.end)
        seconds = func.sum(self._seconds(packs.c.start, until))
        return select(packs.c.sweep_id, num_running.label("running"), seconds.label("seconds")).group_by(
            packs.c.sweep_id
        )

    def _seconds(self, start: ColumnElement[datetime], end: ColumnElement[datetime]) -> ColumnElement[float]:
        """Not below nothing: the two may be of clocks that differ, the conductor's and the store's."""
        seconds = self._database.seconds_between(start, end)
        return case((seconds > 0, seconds), else_=0.0)


@dataclass(frozen=True, kw_only=True)
class _Past:
    """What was done for the sweeps that have ended."""

    works: Mapping[_Version, Work] = field(default_factory=dict)
    together: Work = field(default_factory=Work)


class _Trials:
    """Counts trials of one sweep."""

    def __init__(self) -> None:
        self._ended: Counter[tuple[TrialEnding, Role]] = Counter()
        self._places: Counter[int] = Counter()
        self._seconds = 0.0
        self._num_running = 0

    def add(self, row: Any) -> None:
        if row.state == str(TrialState.RUNNING):
            self._num_running += row.number
        if row.ending is not None:
            self._ended[TrialEnding(row.ending), Role(row.role)] += row.number
        if row.place is not None:
            self._places[row.place] += row.number
            self._seconds += float(row.seconds)

    @property
    def part(self) -> dict[str, Any]:
        counts = tuple(self._places[i] for i in range(len(TIME_BOUNDS_S) + 1))
        times = Times(counts=counts, total=timedelta(seconds=self._seconds))
        return {"trials_ended": dict(self._ended), "trial_times": times, "num_trials_running": self._num_running}


_ENDED = frozenset(str(state) for state in SweepState if state.is_ended)
_VERSIONS = select(sweeps.c.id, sweeps.c.state, sweeps.c.generation, sweeps.c.revision)
_IS_NAMED = sweeps.c.id.in_(bindparam("sweep_ids", expanding=True))
_SWEEPS = select(sweeps.c.id, sweeps.c.created_at, sweeps.c.started_at, sweeps.c.spec["resources"].label("resources"))
_SWEEPS = _SWEEPS.where(_IS_NAMED)
_LEASED = select(sweeps.c.id).where(_IS_NAMED, sweeps.c.lease_expires_at > bindparam("now"))
_CLUSTER = select(publications.c.document, publications.c.published_at).where(publications.c.name == CLUSTER)


def _standing(connection: Connection, now: datetime) -> Mapping[str, Any]:
    """What waits: sweeps in the queue, leases that are not renewed, reports in the outbox."""
    is_queued, is_conducted = sweeps.c.state == str(SweepState.QUEUED), sweeps.c.state.in_(sorted(CONDUCTED))
    has_lease = and_(sweeps.c.lease_expires_at.is_not(None), sweeps.c.lease_expires_at > now)
    is_unschedulable = is_queued & (sweeps.c.reason == str(SweepReason.UNSCHEDULABLE))
    query = _outbox(_UNFINISHED).add_columns(
        func.count(case((is_unschedulable, 1))).label("unschedulable"),
        func.min(case((is_queued, sweeps.c.queued_at))).label("queued_at"),
        func.min(case((is_conducted & has_lease, sweeps.c.lease_expires_at))).label("lease_expires_at"),
        func.count(case((is_conducted & ~has_lease, 1))).label("unattended"),
    )
    unfinished = connection.execute(query).one()
    is_overdue = sweeps.c.ended_at.is_not(None) & sweeps.c.tracking_due_at.is_not(None)
    overdue = connection.execute(_outbox(is_overdue)).one()
    return {
        "num_unschedulable": unfinished.unschedulable,
        "longest_wait": _since(unfinished.queued_at, now),
        "lease_left": None if unfinished.lease_expires_at is None else unfinished.lease_expires_at - now,
        "num_unattended": unfinished.unattended,
        "num_undelivered": (unfinished.waiting or 0) + (overdue.waiting or 0),
        "longest_undelivered": max(_since(unfinished.oldest_at, now), _since(overdue.oldest_at, now)),
        "num_overdue": overdue.number,
    }


def _portions(sweep_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (sweep_ids[first : first + _AT_ONCE] for first in range(0, len(sweep_ids), _AT_ONCE))


def _outbox(which: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """How many sweeps these are, how many of their reports wait, and since when the first of those does."""
    is_first = (reports.c.sweep_id == sweeps.c.id) & (reports.c.seq == sweeps.c.num_delivered + 1)
    columns = (
        func.count().label("number"),
        func.sum(sweeps.c.num_reports - sweeps.c.num_delivered).label("waiting"),
        func.min(reports.c.reported_at).label("oldest_at"),
    )
    return select(*columns).join_from(sweeps, reports, is_first, isouter=True).where(which)


def _cluster(connection: Connection, now: datetime) -> Mapping[str, Any]:
    row = connection.execute(_CLUSTER).one_or_none()
    if row is None:
        return {}
    return {"cluster": rows.cluster_of(row.document), "cluster_age": _since(row.published_at, now)}


def _since(then: datetime | None, now: datetime) -> timedelta:
    return NOTHING if then is None else max(now - then, NOTHING)
