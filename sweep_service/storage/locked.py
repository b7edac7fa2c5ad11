"""One sweep, locked for the length of a transaction: what all writes of the SQL store to a sweep go through."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, Table, delete, insert

from sweep_service.domain.audit import AuditRecord
from sweep_service.domain.errors import LeaseLostError, NotFoundError, SweepNotFoundError, TrialNotFoundError
from sweep_service.domain.events import Event
from sweep_service.domain.logs import LogLines
from sweep_service.domain.trial import Attempt, Lease, Report, Sweep, Trial
from sweep_service.ports import TrialEnd
from sweep_service.storage import moves, rows, sql_keys, sql_logs, statements
from sweep_service.storage.database import Database
from sweep_service.storage.tables import sweeps

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
        self._loaded_trials: dict[str, Trial] = {}  # by id, as they are stored
        self._columns: dict[str, Any] = {}
        self._events: list[Event] = []

    @classmethod
    def lock(cls, database: Database, connection: Connection, sweep_id: str) -> LockedSweep:
        """Raises SweepNotFoundError."""
        row = connection.execute(statements.LOCK_SWEEP, {"sweep_id": sweep_id}).one_or_none()
        if row is None:
            raise SweepNotFoundError(sweep_id)
        return cls(connection, row, database.read_clock(connection))

    @classmethod
    def lock_leased(cls, database: Database, connection: Connection, lease: Lease) -> LockedSweep:
        """The fence. Raises LeaseLostError."""
        held = {"sweep_id": lease.sweep_id, "token": lease.token}
        row = connection.execute(statements.LOCK_LEASED_SWEEP, held).one_or_none()
        locked_at = database.read_clock(connection)
        if row is None or row.lease_expires_at <= locked_at:
            raise LeaseLostError(f"The lease of {lease.owner!r} on {lease.sweep_id} has ended.")
        return cls(connection, row, locked_at)

    @classmethod
    def lock_first(
        cls, database: Database, connection: Connection, claimable: statements.Claimable
    ) -> LockedSweep | None:
        """The first of them."""
        row = connection.execute(claimable.lock).one_or_none()
        return None if row is None else cls(connection, row, database.read_clock(connection))

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
            self._connection.execute(statements.NEW_EVENTS, [rows.event_row(event) for event in numbered])
        if columns:
            values = {f"new_{name}": value for name, value in columns.items()}
            statement = statements.change_of_sweep(tuple(sorted(columns)))
            self._connection.execute(statement, {"row_id": self.sweep.id, **values})
        return self.sweep

    def audit(self, record: AuditRecord) -> None:
        """Written at once, and last of all: no other change gets on until this transaction has ended."""
        sql_keys.append_audit(self._connection, record)

    def delete(self) -> None:
        """The sweep's row, and by cascade every row that refers to it. Nothing is left to flush."""
        self._connection.execute(delete(sweeps).where(sweeps.c.id == self.sweep.id))

    def trial(self, trial_id: str) -> Trial:
        """Raises TrialNotFoundError, also for a trial of another sweep."""
        return self.trials([trial_id])[trial_id]

    def trials(self, trial_ids: Sequence[str]) -> dict[str, Trial]:
        """By id. Raises TrialNotFoundError if one is missing, also for a trial of another sweep."""
        named = {"sweep_id": self.sweep.id, "trial_ids": trial_ids}
        found = self._load_trials(statements.TRIALS, named)
        for trial_id in trial_ids:
            if trial_id not in found:
                raise TrialNotFoundError(trial_id)
        return found

    def failed_trials(self) -> list[Trial]:
        """By number."""
        return [*self._load_trials(statements.FAILED_TRIALS, {"sweep_id": self.sweep.id}).values()]

    def _load_trials(self, query: Select[Any], parameters: Mapping[str, Any]) -> dict[str, Trial]:
        found = {row.id: rows.trial_of(row) for row in self._connection.execute(query, parameters)}
        self._loaded_trials |= found
        return found

    def save_trials(self, changed: Sequence[Trial]) -> None:
        """Write what is new of trials that have been read before."""
        by_columns: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
        for trial in changed:
            old, new = rows.trial_row(self._loaded_trials[trial.id]), rows.trial_row(trial)
            columns = tuple(name for name in _TRIAL_CHANGES if new[name] != old[name])
            by_columns[columns].append({"row_id": trial.id} | {f"new_{name}": new[name] for name in columns})
            self._loaded_trials[trial.id] = trial
        for columns, parameters in by_columns.items():
            if columns:
                self._connection.execute(statements.change_of_trial(columns), parameters)

    def attempts(self, attempt_ids: Sequence[str]) -> dict[str, Attempt]:
        """By id. Raises NotFoundError if one is missing, also for an attempt of another sweep."""
        named = {"sweep_id": self.sweep.id, "attempt_ids": attempt_ids}
        found = {row.id: rows.attempt_of(row) for row in self._connection.execute(statements.ATTEMPTS, named)}
        for attempt_id in attempt_ids:
            if attempt_id not in found:
                raise NotFoundError(f"There is no attempt {attempt_id!r}.")
        return found

    def running_attempts(self, trial_ids: Sequence[str]) -> dict[str, Attempt]:
        """By trial."""
        found = self._connection.execute(statements.RUNNING_ATTEMPTS, {"trial_ids": trial_ids})
        return {row.trial_id: rows.attempt_of(row) for row in found}

    def save_attempts(self, changed: Sequence[Attempt]) -> None:
        ends = [
            {"row_id": one.id, "new_state": str(one.state), "new_message": one.message, "new_ended_at": one.ended_at}
            for one in changed
        ]
        if ends:
            self._connection.execute(statements.END_OF_ATTEMPT, ends)

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
            self._connection.execute(statements.NEW_REPORTS, [rows.report_row(report) for report in fresh])
            self.set_columns(num_reports=fresh[-1].seq)

    def _known_steps(self, new_reports: Sequence[Report]) -> set[tuple[str, int]]:
        """Which of these (trial, step) are stored already."""
        trial_ids = sorted({report.trial_id for report in new_reports})
        steps = sorted({report.step for report in new_reports})
        named = {"trial_ids": trial_ids, "steps": steps}
        return {(row.trial_id, row.step) for row in self._connection.execute(statements.KNOWN_STEPS, named)}


def _check_trial(attempt: Attempt, trial_id: str) -> None:
    if attempt.trial_id != trial_id:
        raise NotFoundError(f"There is no attempt {attempt.id!r} of {trial_id!r}.")
