"""One sweep, locked for the length of a transaction: what all writes of the SQL store to a sweep go through."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, bindparam, delete, insert, select, update
from sqlalchemy.sql import ColumnElement

from sweep_service.domain.errors import LeaseLostError, NotFoundError, SweepNotFoundError, TrialNotFoundError
from sweep_service.domain.events import Event
from sweep_service.domain.logs import LogLines
from sweep_service.domain.states import AttemptState, SweepState, TrialState
from sweep_service.domain.trial import Attempt, Lease, Report, Sweep, Trial
from sweep_service.ports import TrialEnd
from sweep_service.storage import moves, rows, sql_logs
from sweep_service.storage.tables import (
    IN_QUEUE,
    QUEUE_ORDER,
    SWEEP_WITHOUT_RESULTS,
    attempts,
    events,
    reports,
    sweeps,
    trials,
)

_TRIAL_CHANGES = (  # the columns of a trial that may change after its making
    "state", "ending", "message", "traceback", "objective", "metrics", "last_step", "checkpoint", "tracking_ref",
    "provenance", "num_attempts", "started_at", "ended_at",
)  # fmt: skip


class LockedSweep:
    """The locked row of a sweep, its rows of other tables, and the events to write. ``flush`` writes what is left.

    The sweep is without its results: nothing that is decided under a lock rests on them. New ones can be set.

    The clock is read when the row is locked: PostgreSQL evaluates what a query selects before it waits for the lock,
    and a lease may run out meanwhile.
    """

    def __init__(self, connection: Connection, row: Row[Any], now: datetime) -> None:
        self.sweep: Sweep = rows.sweep_of(row)
        self.now = now
        self.num_reports: int = row._mapping["num_reports"]
        self.num_delivered: int = row._mapping["num_delivered"]
        self._num_events: int = row._mapping["num_events"]
        self._connection = connection
        self._loaded = self.sweep
        self._columns: dict[str, Any] = {}
        self._events: list[Event] = []

    @classmethod
    def lock(cls, connection: Connection, sweep_id: str, now: ColumnElement[datetime]) -> LockedSweep:
        """Raises SweepNotFoundError."""
        query = select(*SWEEP_WITHOUT_RESULTS).where(sweeps.c.id == sweep_id).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            raise SweepNotFoundError(sweep_id)
        return cls(connection, row, _read_clock(connection, now))

    @classmethod
    def lock_leased(cls, connection: Connection, lease: Lease, now: ColumnElement[datetime]) -> LockedSweep:
        """The fence. Raises LeaseLostError."""
        is_held = (sweeps.c.id == lease.sweep_id) & (sweeps.c.lease_token == lease.token)
        query = select(*SWEEP_WITHOUT_RESULTS).where(is_held).with_for_update()
        row = connection.execute(query).one_or_none()
        locked_at = _read_clock(connection, now)
        if row is None or row.lease_expires_at <= locked_at:
            raise LeaseLostError(f"The lease of {lease.owner!r} on {lease.sweep_id} has ended.")
        return cls(connection, row, locked_at)

    @classmethod
    def lock_abandoned(
        cls, connection: Connection, now: ColumnElement[datetime], states: Collection[SweepState]
    ) -> LockedSweep | None:
        """The first one in one of these states that nobody has a lease on."""
        is_abandoned = sweeps.c.ended_at.is_(None) & sweeps.c.state.in_(sorted(states)) & _has_no_lease(now)
        query = select(*SWEEP_WITHOUT_RESULTS).where(is_abandoned).order_by(sweeps.c.priority.desc(), sweeps.c.id)
        return cls._lock_first(connection, now, query)

    @classmethod
    def lock_queued(
        cls, connection: Connection, now: ColumnElement[datetime], among: Collection[str] | None
    ) -> LockedSweep | None:
        """The first one of the queue, or of those in it that are named."""
        query = select(*SWEEP_WITHOUT_RESULTS).where(IN_QUEUE).order_by(*QUEUE_ORDER)
        return cls._lock_first(connection, now, query if among is None else query.where(sweeps.c.id.in_(sorted(among))))

    @classmethod
    def lock_late(cls, connection: Connection, now: ColumnElement[datetime]) -> LockedSweep | None:
        """The ended one that the tracking server is due to be tried again for, and that nobody has a lease on."""
        is_late = sweeps.c.ended_at.is_not(None) & (sweeps.c.tracking_due_at <= now) & _has_no_lease(now)
        query = select(*SWEEP_WITHOUT_RESULTS).where(is_late).order_by(sweeps.c.tracking_due_at, sweeps.c.id)
        return cls._lock_first(connection, now, query)

    @classmethod
    def _lock_first(
        cls, connection: Connection, now: ColumnElement[datetime], query: Select[Any]
    ) -> LockedSweep | None:
        """Passes over the rows that somebody else has locked: they are being claimed or changed right now."""
        row = connection.execute(query.limit(1).with_for_update(skip_locked=True)).one_or_none()
        return None if row is None else cls(connection, row, _read_clock(connection, now))

    def insert(self, table: Table, values: Sequence[dict[str, Any]]) -> None:
        if values:
            self._connection.execute(insert(table), values)

    def append(self, *new: Event) -> None:
        self._events += new

    def set_columns(self, **columns: Any) -> None:
        """Columns of the sweep's row that are no field of the value."""
        self._columns |= columns

    def flush(self) -> Sweep:
        """Write the sweep's row and the events; the sweep as it is stored now, but for results that it had before."""
        first = self._num_events + 1
        numbered = [replace(event, seq=seq) for seq, event in enumerate(self._events, start=first)]
        columns = dict(self._columns)
        if self.sweep is not self._loaded:
            self.sweep = replace(self.sweep, updated_at=self.now)
            old = rows.sweep_row(self._loaded)
            columns |= {name: value for name, value in rows.sweep_row(self.sweep).items() if value != old[name]}
            if self._loaded.state.is_ended and not self.sweep.state.is_ended:
                columns["results"] = None  # they were not read, so that nothing says that they are there
        if numbered:
            columns["num_events"] = numbered[-1].seq
            self._connection.execute(insert(events), [rows.event_row(event) for event in numbered])
        if columns:
            self._connection.execute(update(sweeps).where(sweeps.c.id == self.sweep.id).values(**columns))
        return self.sweep

    def delete(self) -> None:
        """The sweep's row, and by cascade every row that refers to it. Nothing is left to flush."""
        self._connection.execute(delete(sweeps).where(sweeps.c.id == self.sweep.id))

    def trial(self, trial_id: str) -> Trial:
        """Raises TrialNotFoundError, also for a trial of another sweep."""
        return self.trials([trial_id])[trial_id]

    def trials(self, trial_ids: Sequence[str]) -> dict[str, Trial]:
        """By id. Raises TrialNotFoundError if one is missing, also for a trial of another sweep."""
        query = select(trials).where(trials.c.sweep_id == self.sweep.id, trials.c.id.in_(trial_ids))
        found = {row.id: rows.trial_of(row) for row in self._connection.execute(query)}
        for trial_id in trial_ids:
            if trial_id not in found:
                raise TrialNotFoundError(trial_id)
        return found

    def failed_trials(self) -> list[Trial]:
        """By number."""
        is_failed = (trials.c.sweep_id == self.sweep.id) & (trials.c.state == str(TrialState.FAILED))
        query = select(trials).where(is_failed).order_by(trials.c.number)
        return [rows.trial_of(row) for row in self._connection.execute(query)]

    def save_trials(self, changed: Sequence[Trial]) -> None:
        if not changed:
            return
        statement = (
            update(trials)
            .where(trials.c.id == bindparam("row_id"))
            .values({name: bindparam(f"new_{name}") for name in _TRIAL_CHANGES})
        )
        values = [rows.trial_row(trial) for trial in changed]
        parameters = [{"row_id": row["id"]} | {f"new_{name}": row[name] for name in _TRIAL_CHANGES} for row in values]
        self._connection.execute(statement, parameters)

    def attempts(self, attempt_ids: Sequence[str]) -> dict[str, Attempt]:
        """By id. Raises NotFoundError if one is missing, also for an attempt of another sweep."""
        query = select(attempts).where(attempts.c.sweep_id == self.sweep.id, attempts.c.id.in_(attempt_ids))
        found = {row.id: rows.attempt_of(row) for row in self._connection.execute(query)}
        for attempt_id in attempt_ids:
            if attempt_id not in found:
                raise NotFoundError(f"There is no attempt {attempt_id!r}.")
        return found

    def running_attempts(self, trial_ids: Sequence[str]) -> dict[str, Attempt]:
        """By trial."""
        query = select(attempts).where(
            attempts.c.trial_id.in_(trial_ids), attempts.c.state == str(AttemptState.RUNNING)
        )
        return {row.trial_id: rows.attempt_of(row) for row in self._connection.execute(query)}

    def save_attempts(self, changed: Sequence[Attempt]) -> None:
        for attempt in changed:
            values = {"state": str(attempt.state), "message": attempt.message, "ended_at": attempt.ended_at}
            self._connection.execute(update(attempts).where(attempts.c.id == attempt.id).values(**values))

    def record(self, new_reports: Sequence[Report], ends: Sequence[TrialEnd], rests: Collection[str]) -> None:
        """Reports, then ends, then rests. Raises IllegalMoveError, NotFoundError."""
        leaving = [*(end.trial_id for end in ends), *rests]
        named = self.trials(sorted({*(report.trial_id for report in new_reports), *leaving}))
        current = dict(named)
        self._take_reports(new_reports, current)
        running = self.running_attempts(leaving) if leaving else {}
        ended: list[Attempt] = []
        for end in ends:
            trial = current[end.trial_id]
            current[trial.id], attempt, told = moves.end_trial(trial, running.get(trial.id), end, now=self.now)
            ended += [] if attempt is None else [attempt]
            self.append(*told)
        for trial_id in rests:
            current[trial_id], attempt, told = moves.rest_trial(current[trial_id], running.get(trial_id), now=self.now)
            ended += [] if attempt is None else [attempt]
            self.append(*told)
        self.save_attempts(ended)
        self.save_trials([trial for trial in current.values() if trial is not named[trial.id]])

    def append_logs(self, batches: Sequence[LogLines]) -> None:
        """Raises NotFoundError, also for an attempt of another trial than is said."""
        saying = self.attempts(sorted({batch.attempt_id for batch in batches}))
        for batch in batches:
            _check_trial(saying[batch.attempt_id], batch.trial_id)
        sql_logs.append(self._connection, self.sweep.id, batches)

    def _take_reports(self, new_reports: Sequence[Report], current: dict[str, Trial]) -> None:
        if not new_reports:
            return
        reporting = self.attempts(sorted({report.attempt_id for report in new_reports}))
        known = self._known_steps(new_reports)
        fresh: list[Report] = []
        for report in new_reports:
            attempt = reporting[report.attempt_id]
            _check_trial(attempt, report.trial_id)
            key = (report.trial_id, report.step)
            is_new = key not in known
            trial = moves.take_report(current[report.trial_id], attempt, report, is_new=is_new)
            current[trial.id] = trial
            if is_new:
                known.add(key)
                fresh.append(replace(report, seq=self.num_reports + len(fresh) + 1))
        if fresh:
            self._connection.execute(insert(reports), [rows.report_row(report) for report in fresh])
            self.set_columns(num_reports=fresh[-1].seq)

    def _known_steps(self, new_reports: Sequence[Report]) -> set[tuple[str, int]]:
        """Which of these (trial, step) are stored already."""
        trial_ids = sorted({report.trial_id for report in new_reports})
        steps = sorted({report.step for report in new_reports})
        query = select(reports.c.trial_id, reports.c.step).where(
            reports.c.trial_id.in_(trial_ids), reports.c.step.in_(steps)
        )
        return {(row.trial_id, row.step) for row in self._connection.execute(query)}


def _check_trial(attempt: Attempt, trial_id: str) -> None:
    if attempt.trial_id != trial_id:
        raise NotFoundError(f"There is no attempt {attempt.id!r} of {trial_id!r}.")


def _has_no_lease(now: ColumnElement[datetime]) -> ColumnElement[bool]:
    return sweeps.c.lease_expires_at.is_(None) | (sweeps.c.lease_expires_at <= now)


def _read_clock(connection: Connection, now: ColumnElement[datetime]) -> datetime:
    return connection.execute(select(now)).scalar_one()
