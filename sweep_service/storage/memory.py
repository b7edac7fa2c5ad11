"""A store that lives in this process alone: for tests, and for trying things out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sweep_service.domain.audit import AuditAction
from sweep_service.domain.errors import CatalogMissingError, LeaseLostError
from sweep_service.domain.events import Event
from sweep_service.domain.keys import ANONYMOUS, Actor
from sweep_service.domain.limits import Demand
from sweep_service.domain.logs import KeptLine, LogLines
from sweep_service.domain.spec import Objective, SweepSpec
from sweep_service.domain.states import (
    AttemptState,
    SweepReason,
    SweepState,
    TrialState,
    Verb,
    check_deletable,
)
from sweep_service.domain.stock import Stock
from sweep_service.domain.trial import Attempt, BusyTime, Cluster, Lease, Report, Role, Standing, Sweep, Trial
from sweep_service.ports import ALL_SWEEPS, SubmissionKey, SweepFilter, TrialEnd
from sweep_service.storage import intake, moves
from sweep_service.storage.memory_keys import MemoryKeys
from sweep_service.storage.memory_stock import stock_of
from sweep_service.storage.memory_tables import MemoryTables
from trainables.catalog import Trainable


class MemorySweepStore(MemoryKeys):
    """A SweepStore in memory. Safe to share between threads.

    Besides what the port says: an id that does not exist, or is of another sweep than the lease's, raises
    TrialNotFoundError or NotFoundError, and a value that makes no sense (a new trial that has ended, an id or a number
    used twice) ValueError.
    """

    @contextmanager
    def _fenced(self, lease: Lease) -> Iterator[tuple[MemoryTables, datetime]]:
        """A write of the lease's holder. Raises LeaseLostError."""
        with self._writing() as (tables, now):
            current = tables.leases.get(lease.sweep_id)
            if current is None or current.token != lease.token or current.expires_at <= now:
                raise LeaseLostError(f"The lease of {lease.owner!r} on {lease.sweep_id} has ended.")
            yield tables, now

    # --- anybody ------------------------------------------------------------------------------------------------------

    def check_ready(self) -> None:
        """Memory is always ready."""

    def add_sweep(
        self, sweep: Sweep, *, key: SubmissionKey | None = None, notice: str = "", by: Actor = ANONYMOUS
    ) -> Sweep:
        sweep = intake.accept_sweep(sweep)
        with self._writing() as (tables, _):
            if key is not None and (earlier := tables.submitted(sweep.project, sweep.created_by, key)):
                return _without_results(earlier)
            if sweep.id in tables.sweeps:
                raise ValueError(f"There is a sweep {sweep.id} already.")
            tables.sweeps[sweep.id] = sweep
            tables.append(*moves.signed(moves.told_of(sweep, notice), by))
            tables.add_record(moves.submission(sweep, by))
            if key is not None:
                tables.keys[sweep.project, sweep.created_by, key.key] = (key.digest, sweep.id)
            return sweep

    def find_submitted(self, *, project: str, created_by: str, key: SubmissionKey) -> Sweep | None:
        found = self._tables.submitted(project, created_by, key)
        return None if found is None else _without_results(found)

    def get_sweep(self, sweep_id: str) -> Sweep:
        return self._tables.sweep(sweep_id)

    def get_standing(self, sweep_id: str) -> Standing:
        sweep = self._tables.sweep(sweep_id)
        return Standing(state=sweep.state, revision=sweep.revision)

    def list_sweeps(
        self,
        *,
        before: str | None = None,
        after: str | None = None,
        only: SweepFilter = ALL_SWEEPS,
        oldest_first: bool = False,
        limit: int = 50,
    ) -> Sequence[Sweep]:
        wanted = [
            sweep
            for sweep in self._tables.sweeps.values()
            if (before is None or sweep.id < before) and (after is None or sweep.id > after) and only.takes(sweep)
        ]
        in_order = sorted(wanted, key=lambda sweep: sweep.id, reverse=not oldest_first)
        return [_without_results(sweep) for sweep in in_order[:limit]]

    def queue_places(self, sweep_ids: Collection[str]) -> Mapping[str, int]:
        queue = sorted(filter(moves.waits_turn, self._tables.sweeps.values()), key=moves.claim_order)
        return {sweep.id: place for place, sweep in enumerate(queue, start=1) if sweep.id in sweep_ids}

    def control_sweep(self, sweep_id: str, verb: Verb, *, message: str = "", by: Actor = ANONYMOUS) -> Sweep:
        with self._writing() as (tables, now):
            failed = [trial for trial in tables.trials_of(sweep_id) if trial.state is TrialState.FAILED]
            controlled, changed, told = moves.control_sweep(
                tables.sweep(sweep_id), verb, failed=failed, message=message, now=now
            )
            for trial in changed:
                tables.trials[trial.id] = trial
            tables.append_signed(AuditAction.of(verb), controlled, told, by, now=now)
            return _without_results(tables.update_sweep(controlled, now=now))

    def amend_sweep(self, sweep_id: str, spec: SweepSpec, *, revision: int, by: Actor = ANONYMOUS) -> Sweep:
        with self._writing() as (tables, now):
            amended, told = moves.amend_sweep(tables.sweep(sweep_id), spec, revision=revision, now=now)
            tables.append_signed(AuditAction.SWEEP_AMEND, amended, told, by, now=now)
            return _without_results(tables.update_sweep(amended, now=now))

    def delete_sweep(self, sweep_id: str, *, by: Actor = ANONYMOUS) -> None:
        with self._writing() as (tables, now):
            sweep = tables.sweep(sweep_id)
            check_deletable(sweep.state)
            tables.forget(sweep_id)
            tables.add_record(moves.deleted(sweep, by, now=now))

    def get_trial(self, trial_id: str) -> Trial:
        return self._tables.trial(trial_id)

    def list_trials(self, sweep_id: str, *, after: int = -1, limit: int | None = None) -> Sequence[Trial]:
        tables = self._tables
        tables.sweep(sweep_id)
        return [trial for trial in tables.trials_of(sweep_id) if trial.number > after][:limit]

    def count_trials(self, sweep_id: str) -> Mapping[tuple[Role, TrialState], int]:
        tables = self._tables
        tables.sweep(sweep_id)
        return Counter((trial.role, trial.state) for trial in tables.trials_of(sweep_id))

    def busy_time(self, sweep_id: str) -> BusyTime:
        tables = self._tables
        tables.sweep(sweep_id)
        attempts = [attempt for attempt in tables.attempts.values() if attempt.sweep_id == sweep_id]
        return BusyTime.of((attempt.pack_key, attempt.started_at, attempt.ended_at) for attempt in attempts)

    def find_leader(
        self, sweep_id: str, role: Role, *, objective: Objective, balancer: str | None = None
    ) -> Trial | None:
        leader: Trial | None = None
        for trial in self.list_trials(sweep_id):
            if trial.role is not role or trial.objective is None or balancer not in (None, trial.balancer):
                continue
            if leader is None or objective.is_better(trial.objective, leader.objective or 0.0):
                leader = trial
        return leader

    def list_attempts(self, trial_id: str) -> Sequence[Attempt]:
        tables = self._tables
        tables.trial(trial_id)
        attempts = (a for a in tables.attempts.values() if a.trial_id == trial_id)
        return sorted(attempts, key=lambda attempt: attempt.number)

    def list_reports(self, trial_id: str) -> Sequence[Report]:
        tables = self._tables
        tables.trial(trial_id)
        reports = (r for r in tables.reports.values() if r.trial_id == trial_id)
        return sorted(reports, key=lambda report: report.step)

    def list_reports_after(self, trial_id: str, *, after: int = 0, limit: int = 50) -> Sequence[Report]:
        reports = [r for r in self.list_reports(trial_id) if r.seq > after]
        return sorted(reports, key=lambda report: report.seq)[:limit]

    def list_events(self, sweep_id: str, *, after: int = 0, limit: int = 50) -> Sequence[Event]:
        tables = self._tables
        tables.sweep(sweep_id)
        last = tables.num_events[sweep_id]
        first = max(after, 0) + 1
        return [tables.events[sweep_id, seq] for seq in range(first, min(first + limit, last + 1))]

    def publish_catalog(self, trainables: Sequence[Trainable]) -> None:
        with self._writing() as (tables, _):
            tables.catalog = {trainable.name: trainable for trainable in trainables}

    def read_catalog(self) -> Mapping[str, Trainable]:
        catalog = self._tables.catalog
        if catalog is None:
            raise CatalogMissingError("No dispatcher has published what can be trained yet; start one, or wait.")
        return dict(catalog)

    def publish_cluster(self, cluster: Cluster) -> None:
        with self._writing() as (tables, now):
            tables.cluster, tables.cluster_published_at = cluster, now

    def read_cluster(self) -> Cluster | None:
        return self._tables.cluster

    def take_stock(self) -> Stock:
        return stock_of(self._tables, self._clock.now())

    # --- the dispatcher -----------------------------------------------------------------------------------------------

    def list_demands(self, states: Collection[SweepState]) -> Sequence[Demand]:
        return self._tables.demands(states)

    def explain_wait(self, sweep_id: str, reason: SweepReason | None, message: str = "") -> None:
        with self._writing() as (tables, now):
            sweep, told = moves.explain_wait(tables.sweep(sweep_id), reason, message, now=now)
            tables.append(*told)
            tables.update_sweep(sweep, now=now)

    def claim_sweep(
        self, *, owner: str, ttl: timedelta, winding_up_only: bool = False, queued: Collection[str] | None = None
    ) -> Lease | None:
        with self._writing() as (tables, now):
            waiting = [
                sweep
                for sweep in tables.sweeps.values()
                if tables.is_claimable(sweep, now)
                and (sweep.state in moves.ON_THE_WAY or not winding_up_only)
                and (sweep.state is not SweepState.QUEUED or queued is None or sweep.id in queued)
            ]
            if not waiting:
                return None
            return _claim(tables, min(waiting, key=moves.claim_order), owner=owner, ttl=ttl, now=now)

    def claim_late(self, *, owner: str, ttl: timedelta) -> Lease | None:
        with self._writing() as (tables, now):
            late = [sweep for sweep in tables.sweeps.values() if tables.is_late(sweep, now)]
            if not late:
                return None
            return _claim(tables, min(late, key=moves.late_order), owner=owner, ttl=ttl, now=now)

    def renew_lease(self, lease: Lease, *, ttl: timedelta) -> Lease:
        with self._fenced(lease) as (tables, now):
            renewed = tables.leases[lease.sweep_id] = replace(lease, expires_at=now + ttl)
            return renewed

    def release_lease(self, lease: Lease) -> None:
        with self._writing() as (tables, _):
            current = tables.leases.get(lease.sweep_id)
            if current is not None and current.token == lease.token:
                del tables.leases[lease.sweep_id]

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
        with self._fenced(lease) as (tables, now):
            sweep = tables.sweep(lease.sweep_id)
            moves.check_revision(sweep, revision)
            if target is sweep.state:
                return _without_results(sweep)
            moved, event = moves.move_sweep(sweep, target, reason=reason, message=message, now=now)
            tables.append(event)
            return _without_results(tables.update_sweep(moved, now=now))

    def add_notice(self, lease: Lease, message: str, *, trial_id: str | None = None) -> None:
        with self._fenced(lease) as (tables, now):
            if trial_id is not None:
                tables.trial(trial_id, of=lease.sweep_id)
            tables.append(moves.notice(lease.sweep_id, message, trial_id=trial_id, now=now))

    def set_results(self, lease: Lease, results: Mapping[str, Any]) -> None:
        results = intake.plain_document(results, field="results")
        with self._fenced(lease) as (tables, now):
            sweep, event = moves.new_results(tables.sweep(lease.sweep_id), results, now=now)
            tables.append(event)
            tables.update_sweep(sweep, now=now)

    def set_tracking_due(self, lease: Lease, wait: timedelta | None) -> None:
        with self._fenced(lease) as (tables, now):
            due_at = None if wait is None else now + wait
            tables.update_sweep(replace(tables.sweep(lease.sweep_id), tracking_due_at=due_at), now=now)

    def set_tracking_ref(self, lease: Lease, ref: str, *, trial_id: str | None = None) -> None:
        with self._fenced(lease) as (tables, now):
            if trial_id is None:
                tables.update_sweep(replace(tables.sweep(lease.sweep_id), tracking_ref=ref), now=now)
            else:
                trial = tables.trial(trial_id, of=lease.sweep_id)
                tables.trials[trial_id] = replace(trial, tracking_ref=ref)

    def add_trials(self, lease: Lease, new_trials: Sequence[Trial]) -> None:
        accepted = [intake.accept_trial(trial, sweep_id=lease.sweep_id) for trial in new_trials]
        with self._fenced(lease) as (tables, now):
            numbers = {trial.number for trial in tables.trials_of(lease.sweep_id)}
            for trial in accepted:
                if trial.id in tables.trials or trial.number in numbers:
                    raise ValueError(f"The trial {trial.id} or its number {trial.number} is stored already.")
                numbers.add(trial.number)
                tables.trials[trial.id] = trial
                tables.append(moves.created(trial, now=now))

    def start_attempt(self, lease: Lease, attempt: Attempt) -> Trial:
        attempt = intake.accept_attempt(attempt, sweep_id=lease.sweep_id)
        with self._fenced(lease) as (tables, now):
            trial = tables.trial(attempt.trial_id, of=lease.sweep_id)
            is_one_running = tables.running_attempt(trial.id) is not None
            started, events = moves.start_attempt(trial, attempt, is_one_running=is_one_running, now=now)
            if attempt.id in tables.attempts:
                raise ValueError(f"The attempt {attempt.id} is stored already.")
            tables.trials[trial.id] = started
            tables.attempts[attempt.id] = attempt
            tables.append(*events)
            return started

    def end_attempt(self, lease: Lease, attempt_id: str, state: AttemptState, *, message: str = "") -> None:
        with self._fenced(lease) as (tables, now):
            attempt = tables.attempt(attempt_id, of=lease.sweep_id)
            tables.attempts[attempt_id], event = moves.end_attempt(attempt, state, message=message, now=now)
            tables.append(event)

    def record(
        self,
        lease: Lease,
        *,
        reports: Sequence[Report] = (),
        ends: Sequence[TrialEnd] = (),
        rests: Collection[str] = (),
        best: str | None = None,
    ) -> None:
        reports = [intake.accept_report(report, sweep_id=lease.sweep_id) for report in reports]
        ends = [intake.accept_end(end) for end in ends]
        with self._fenced(lease) as (tables, now):
            for trial_id in [*(report.trial_id for report in reports), *(end.trial_id for end in ends), *rests]:
                tables.trial(trial_id, of=lease.sweep_id)
            for report in reports:
                tables.attempt(report.attempt_id, of=lease.sweep_id)
            for report in reports:
                tables.take_report(report)
            for end in ends:
                tables.end_trial(tables.trial(end.trial_id), end, now=now)
            for trial_id in rests:
                tables.rest_trial(tables.trial(trial_id), now=now)
            if best is not None:
                sweep, events = moves.new_best(
                    tables.sweep(lease.sweep_id), tables.trial(best, of=lease.sweep_id), now=now
                )
                tables.append(*events)
                tables.update_sweep(sweep, now=now)

    def append_logs(self, lease: Lease, batches: Sequence[LogLines]) -> None:
        accepted = [intake.accept_log_lines(batch) for batch in batches]
        with self._fenced(lease) as (tables, _):
            for batch in accepted:
                tables.append_logs(lease.sweep_id, batch)

    def list_trial_logs(self, trial_id: str, *, after: int = 0, limit: int = 50) -> Sequence[KeptLine]:
        tables = self._tables
        sweep_id = tables.trial(trial_id).sweep_id
        return [line for line in tables.kept_lines(sweep_id, after=after) if line.trial_id == trial_id][:limit]

    def list_sweep_logs(self, sweep_id: str, *, after: int = 0, limit: int = 50) -> Sequence[KeptLine]:
        tables = self._tables
        tables.sweep(sweep_id)
        return list(tables.kept_lines(sweep_id, after=after))[:limit]

    def undelivered(self, sweep_id: str, *, limit: int) -> Sequence[Report]:
        tables = self._tables
        delivered = tables.num_delivered.get(sweep_id, 0)
        waiting = (r for r in tables.reports.values() if r.sweep_id == sweep_id and r.seq > delivered)
        return sorted(waiting, key=lambda report: report.seq)[:limit]

    def mark_delivered(self, lease: Lease, *, up_to: int) -> None:
        with self._fenced(lease) as (tables, _):
            recorded = tables.num_reports.get(lease.sweep_id, 0)
            delivered = tables.num_delivered.get(lease.sweep_id, 0)
            tables.num_delivered[lease.sweep_id] = max(delivered, min(up_to, recorded))


def _claim(tables: MemoryTables, sweep: Sweep, *, owner: str, ttl: timedelta, now: datetime) -> Lease:
    claimed, lease, events = moves.claim_sweep(sweep, owner=owner, ttl=ttl, now=now)
    tables.append(*events)
    tables.update_sweep(claimed, now=now)
    tables.leases[claimed.id] = lease
    return lease


def _without_results(sweep: Sweep) -> Sweep:
    return replace(sweep, results=None, adopted=())
