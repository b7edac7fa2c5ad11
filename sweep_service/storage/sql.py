"""The store in a SQL database: SQLite on one machine, PostgreSQL on a cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, insert, update
from sqlalchemy.exc import IntegrityError

from sweep_service.clock import SystemClock
from sweep_service.domain.audit import AuditAction
from sweep_service.domain.events import Event
from sweep_service.domain.keys import ANONYMOUS, Actor
from sweep_service.domain.logs import LogLines
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import CONDUCTED, AttemptState, SweepReason, SweepState, Verb, check_deletable
from sweep_service.domain.trial import Attempt, Lease, Report, Sweep, Trial
from sweep_service.ports import Clock, SubmissionKey, TrialEnd
from sweep_service.storage import intake, moves, rows, statements
from sweep_service.storage.database import Database, open_engine
from sweep_service.storage.locked import LockedSweep
from sweep_service.storage.sql_keys import KeyTables, append_audit
from sweep_service.storage.sql_shared import SharedTables
from sweep_service.storage.tables import adoptions, attempts, events, submission_keys, sweeps, trials


def open_sql_store(url: str) -> SqlSweepStore:
    """The store at a SQLAlchemy URL (sqlite:///file or postgresql://…); connects to nothing yet.

    Raises:
        ValueError: the URL cannot be the store's.
        StoreUnavailableError: the folder of the SQLite file cannot be made.
    """
    return SqlSweepStore(open_engine(url))


class SqlSweepStore(SharedTables, KeyTables):
    """A SweepStore in SQL. Safe to share between threads; other processes open their own.

    Besides what the port says: an id that does not exist, or is of another sweep than the lease's, raises
    TrialNotFoundError or NotFoundError, and a value that makes no sense (a new trial that has ended, an id or a number
    used twice) ValueError. Any method may raise SchemaOutdatedError.

    The clock is used with SQLite only, where the machine's time is the store's; PostgreSQL has its own.
    """

    def __init__(self, engine: Engine, clock: Clock | None = None) -> None:
        super().__init__(Database(engine, clock or SystemClock()))
        now = self._database.now()
        self._winding_up = statements.abandoned_sweeps(now, moves.ON_THE_WAY)
        self._abandoned = statements.abandoned_sweeps(now, CONDUCTED)
        self._late = statements.late_sweeps(now)

    def close(self) -> None:
        """Close the idle connections. The store may be used again."""
        self._database.engine.dispose()

    @contextmanager
    def _locked(self, sweep_id: str) -> Iterator[LockedSweep]:
        """A write to a sweep. Raises SweepNotFoundError."""
        with self._database.writing() as connection:
            yield LockedSweep.lock(self._database, connection, sweep_id)

    @contextmanager
    def _fenced(self, lease: Lease) -> Iterator[LockedSweep]:
        """A write of the lease's holder. Raises LeaseLostError."""
        with self._database.writing() as connection:
            yield LockedSweep.lock_leased(self._database, connection, lease)

    # --- anybody ------------------------------------------------------------------------------------------------------

    def add_sweep(
        self, sweep: Sweep, *, key: SubmissionKey | None = None, notice: str = "", by: Actor = ANONYMOUS
    ) -> Sweep:
        sweep = intake.accept_sweep(sweep)
        try:
            self._insert_sweep(sweep, key, moves.signed(moves.told_of(sweep, notice), by), by)
        except IntegrityError as error:  # one that waited for another's commit, on PostgreSQL, comes here as well
            owner = {"project": sweep.project, "created_by": sweep.created_by}
            earlier = None if key is None else self.find_submitted(**owner, key=key)
            if earlier is None:
                raise ValueError(f"There is a sweep {sweep.id} already.") from error
            return earlier
        return sweep

    def _insert_sweep(self, sweep: Sweep, key: SubmissionKey | None, told: Sequence[Event], by: Actor) -> None:
        numbered = [replace(event, seq=seq) for seq, event in enumerate(told, start=1)]
        with self._database.writing() as connection:
            counters = {"num_events": len(numbered), "num_reports": 0, "num_delivered": 0}
            connection.execute(insert(sweeps), rows.sweep_row(sweep) | counters)
            connection.execute(insert(events), [rows.event_row(event) for event in numbered])
            if sweep.adopted:
                documents = rows.adopted_documents(sweep.adopted)
                connection.execute(insert(adoptions), {"sweep_id": sweep.id, "trials": documents})
            if key is not None:
                named = {"project": sweep.project, "created_by": sweep.created_by, "sweep_id": sweep.id}
                connection.execute(insert(submission_keys), named | {"key": key.key, "digest": key.digest})
            append_audit(connection, moves.submission(sweep, by))

    def control_sweep(self, sweep_id: str, verb: Verb, *, message: str = "", by: Actor = ANONYMOUS) -> Sweep:
        with self._locked(sweep_id) as locked:
            failed = locked.failed_trials() if verb is Verb.RETRY else ()
            locked.sweep, changed, told = moves.control_sweep(
                locked.sweep, verb, failed=failed, message=message, now=locked.now
            )
            locked.save_trials(changed)
            return _changed_by(by, AuditAction.of(verb), locked, told)

    def amend_sweep(self, sweep_id: str, spec: SweepSpec, *, revision: int, by: Actor = ANONYMOUS) -> Sweep:
        with self._locked(sweep_id) as locked:
            locked.sweep, told = moves.amend_sweep(locked.sweep, spec, revision=revision, now=locked.now)
            return _changed_by(by, AuditAction.SWEEP_AMEND, locked, told)

    def delete_sweep(self, sweep_id: str, *, by: Actor = ANONYMOUS) -> None:
        with self._locked(sweep_id) as locked:
            check_deletable(locked.sweep.state)
            locked.delete()
            locked.audit(moves.deleted(locked.sweep, by, now=locked.now))

    # --- the dispatcher -----------------------------------------------------------------------------------------------

    def claim_sweep(
        self, *, owner: str, ttl: timedelta, winding_up_only: bool = False, queued: Collection[str] | None = None
    ) -> Lease | None:
        if winding_up_only:
            return self._claim_first(self._winding_up, owner=owner, ttl=ttl)
        return self._claim_first(self._abandoned, statements.queued_sweeps(queued), owner=owner, ttl=ttl)

    def claim_late(self, *, owner: str, ttl: timedelta) -> Lease | None:
        return self._claim_first(self._late, owner=owner, ttl=ttl)

    def _claim_first(self, *kinds: statements.Claimable, owner: str, ttl: timedelta) -> Lease | None:
        """The first sweep of the first kind that has one. Most often there is none, which reading tells: dispatchers
        ask twice a second, and SQLite has one writer at a time.
        """
        with self._database.reading() as connection:
            if not any(connection.execute(kind.look).first() for kind in kinds):
                return None
        with self._database.writing() as connection:
            for kind in kinds:
                locked = LockedSweep.lock_first(self._database, connection, kind)
                if locked is not None:
                    return _claim(locked, owner=owner, ttl=ttl)
        return None

    def explain_wait(self, sweep_id: str, reason: SweepReason | None, message: str = "") -> None:
        with self._locked(sweep_id) as locked:
            locked.sweep, told = moves.explain_wait(locked.sweep, reason, message, now=locked.now)
            locked.append(*told)
            locked.flush()

    def renew_lease(self, lease: Lease, *, ttl: timedelta) -> Lease:
        with self._fenced(lease) as locked:
            renewed = replace(lease, expires_at=locked.now + ttl)
            locked.set_columns(lease_expires_at=renewed.expires_at)
            locked.flush()
            return renewed

    def release_lease(self, lease: Lease) -> None:
        holds = (sweeps.c.id == lease.sweep_id) & (sweeps.c.lease_token == lease.token)
        with self._database.writing() as connection:
            connection.execute(
                update(sweeps).where(holds).values(lease_token=None, lease_owner=None, lease_expires_at=None)
            )

    # --- the conductor ------------------------------------------------------------------------------------------------

    def move_sweep(
        self,
        lease: Lease,
        target: SweepState,
        *,
        reason: SweepReason | None = None,
        message: str = "",
        revision: int | None = None,
    ) -> Sweep:
        with self._fenced(lease) as locked:
            moves.check_revision(locked.sweep, revision)
            if target is locked.sweep.state:
                return locked.sweep
            locked.sweep, event = moves.move_sweep(locked.sweep, target, reason=reason, message=message, now=locked.now)
            locked.append(event)
            return locked.flush()

    def add_notice(self, lease: Lease, message: str, *, trial_id: str | None = None) -> None:
        with self._fenced(lease) as locked:
            if trial_id is not None:
                locked.trial(trial_id)
            locked.append(moves.notice(lease.sweep_id, message, trial_id=trial_id, now=locked.now))
            locked.flush()

    def set_results(self, lease: Lease, results: Mapping[str, Any]) -> None:
        results = intake.plain_document(results, field="results")
        with self._fenced(lease) as locked:
            locked.sweep, event = moves.new_results(locked.sweep, results, now=locked.now)
            locked.append(event)
            locked.flush()

    def set_tracking_due(self, lease: Lease, wait: timedelta | None) -> None:
        with self._fenced(lease) as locked:
            locked.sweep = replace(locked.sweep, tracking_due_at=None if wait is None else locked.now + wait)
            locked.flush()

    def set_tracking_ref(self, lease: Lease, ref: str, *, trial_id: str | None = None) -> None:
        with self._fenced(lease) as locked:
            if trial_id is None:
                locked.sweep = replace(locked.sweep, tracking_ref=ref)
                locked.flush()
            else:
                locked.save_trials([replace(locked.trial(trial_id), tracking_ref=ref)])

    def add_trials(self, lease: Lease, new_trials: Sequence[Trial]) -> None:
        accepted = [intake.accept_trial(trial, sweep_id=lease.sweep_id) for trial in new_trials]
        with _duplicates_named("A new trial's id or number is stored already."), self._fenced(lease) as locked:
            locked.insert(trials, [rows.trial_row(trial) for trial in accepted])
            locked.append(*(moves.created(trial, now=locked.now) for trial in accepted))
            locked.flush()

    def start_attempt(self, lease: Lease, attempt: Attempt) -> Trial:
        attempt = intake.accept_attempt(attempt, sweep_id=lease.sweep_id)
        with _duplicates_named(f"The attempt {attempt.id} is stored already."), self._fenced(lease) as locked:
            trial = locked.trial(attempt.trial_id)
            is_one_running = bool(locked.running_attempts([trial.id]))
            started, told = moves.start_attempt(trial, attempt, is_one_running=is_one_running, now=locked.now)
            locked.insert(attempts, [rows.attempt_row(attempt)])
            locked.save_trials([started])
            locked.append(*told)
            locked.flush()
            return started

    def end_attempt(self, lease: Lease, attempt_id: str, state: AttemptState, *, message: str = "") -> None:
        with self._fenced(lease) as locked:
            attempt = locked.attempts([attempt_id])[attempt_id]
            ended, event = moves.end_attempt(attempt, state, message=message, now=locked.now)
            locked.save_attempts([ended])
            locked.append(event)
            locked.flush()

    def record(
        self,
        lease: Lease,
        *,
        reports: Sequence[Report] = (),
        ends: Sequence[TrialEnd] = (),
        rests: Collection[str] = (),
        best: str | None = None,
    ) -> None:
        new_reports = [intake.accept_report(report, sweep_id=lease.sweep_id) for report in reports]
        ends = [intake.accept_end(end) for end in ends]
        with self._fenced(lease) as locked:
            locked.record(new_reports, ends, rests)
            if best is not None:
                locked.sweep, told = moves.new_best(locked.sweep, locked.trial(best), now=locked.now)
                locked.append(*told)
            locked.flush()

    def append_logs(self, lease: Lease, batches: Sequence[LogLines]) -> None:
        accepted = [intake.accept_log_lines(batch) for batch in batches]
        with self._fenced(lease) as locked:
            locked.append_logs(accepted)

    def mark_delivered(self, lease: Lease, *, up_to: int) -> None:
        with self._fenced(lease) as locked:
            locked.set_columns(num_delivered=max(locked.num_delivered, min(up_to, locked.num_reports)))
            locked.flush()


def _changed_by(by: Actor, action: AuditAction, locked: LockedSweep, told: Sequence[Event]) -> Sweep:
    """Write what a user's wish has changed, if anything, with their name."""
    locked.append(*moves.signed(told, by))
    sweep = locked.flush()
    if told:
        locked.audit(moves.audited(action, sweep, told, by, now=locked.now))
    return sweep


def _claim(locked: LockedSweep, *, owner: str, ttl: timedelta) -> Lease:
    locked.sweep, lease, told = moves.claim_sweep(locked.sweep, owner=owner, ttl=ttl, now=locked.now)
    locked.append(*told)
    locked.set_columns(lease_token=lease.token, lease_owner=owner, lease_expires_at=lease.expires_at)
    locked.flush()
    return lease


@contextmanager
def _duplicates_named(message: str) -> Iterator[None]:
    """Turn the database's refusal of a row into the ValueError that the caller deserves."""
    try:
        yield
    except IntegrityError as error:
        raise ValueError(message) from error
