"""What the store in memory keeps, in place of a database's tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sweep_service.domain.audit import AuditAction, AuditRecord
from sweep_service.domain.errors import KeyReusedError, NotFoundError, SweepNotFoundError, TrialNotFoundError
from sweep_service.domain.events import Event
from sweep_service.domain.keys import Actor, StoredKey
from sweep_service.domain.limits import Demand
from sweep_service.domain.logs import KeptLine, LogLines
from sweep_service.domain.states import CONDUCTED, SweepState
from sweep_service.domain.trial import Attempt, Cluster, Lease, Report, Sweep, Trial
from sweep_service.ports import SubmissionKey, TrialEnd
from sweep_service.storage import intake, moves
from sweep_service.storage.log_chunks import LogChunk, drop_before, new_chunks
from trainables.catalog import Trainable


@dataclass(kw_only=True)
class MemoryTables:
    """Everything that is stored. A write changes a copy, which takes the place of the original when all went well."""

    sweeps: dict[str, Sweep] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)  # by sweep
    trials: dict[str, Trial] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    reports: dict[tuple[str, int], Report] = field(default_factory=dict)  # by trial and step
    events: dict[tuple[str, int], Event] = field(default_factory=dict)  # by sweep and seq
    log_chunks: dict[tuple[str, int], LogChunk] = field(default_factory=dict)  # by sweep and last seq, in that order
    num_reports: dict[str, int] = field(default_factory=dict)  # by sweep
    num_events: dict[str, int] = field(default_factory=dict)  # by sweep
    num_delivered: dict[str, int] = field(default_factory=dict)  # by sweep: reports up to this seq
    keys: dict[tuple[str, str, str], tuple[str, str]] = field(default_factory=dict)  # to digest and sweep
    api_keys: dict[str, StoredKey] = field(default_factory=dict)
    audit: tuple[AuditRecord, ...] = ()  # by seq
    catalog: Mapping[str, Trainable] | None = None
    cluster: Cluster | None = None
    cluster_published_at: datetime | None = None

    def copy(self) -> MemoryTables:
        return MemoryTables(
            sweeps=dict(self.sweeps),
            leases=dict(self.leases),
            trials=dict(self.trials),
            attempts=dict(self.attempts),
            reports=dict(self.reports),
            events=dict(self.events),
            log_chunks=dict(self.log_chunks),
            num_reports=dict(self.num_reports),
            num_events=dict(self.num_events),
            num_delivered=dict(self.num_delivered),
            keys=dict(self.keys),
            api_keys=dict(self.api_keys),
            audit=self.audit,
            catalog=self.catalog,
            cluster=self.cluster,
            cluster_published_at=self.cluster_published_at,
        )

    def sweep(self, sweep_id: str) -> Sweep:
        """Raises SweepNotFoundError."""
        try:
            return self.sweeps[sweep_id]
        except KeyError:
            raise SweepNotFoundError(sweep_id) from None

    def submitted(self, project: str, created_by: str, key: SubmissionKey) -> Sweep | None:
        """Raises KeyReusedError."""
        found = self.keys.get((project, created_by, key.key))
        if found is None:
            return None
        digest, sweep_id = found
        if digest != key.digest:
            raise KeyReusedError(key.key)
        return self.sweeps[sweep_id]

    def forget(self, sweep_id: str) -> None:
        """Everything of that sweep."""
        del self.sweeps[sweep_id]
        for by_sweep in (self.leases, self.num_reports, self.num_events, self.num_delivered):
            by_sweep.pop(sweep_id, None)
        self.trials = {key: row for key, row in self.trials.items() if row.sweep_id != sweep_id}
        self.attempts = {key: row for key, row in self.attempts.items() if row.sweep_id != sweep_id}
        self.reports = {key: row for key, row in self.reports.items() if row.sweep_id != sweep_id}
        self.events = {key: row for key, row in self.events.items() if row.sweep_id != sweep_id}
        self.log_chunks = {key: row for key, row in self.log_chunks.items() if row.sweep_id != sweep_id}
        self.keys = {key: named for key, named in self.keys.items() if named[1] != sweep_id}

    def trial(self, trial_id: str, *, of: str | None = None) -> Trial:
        """Raises TrialNotFoundError, also for a trial of another sweep than ``of``."""
        trial = self.trials.get(trial_id)
        if trial is None or (of is not None and trial.sweep_id != of):
            raise TrialNotFoundError(trial_id)
        return trial

    def trials_of(self, sweep_id: str) -> list[Trial]:
        return sorted((t for t in self.trials.values() if t.sweep_id == sweep_id), key=lambda trial: trial.number)

    def attempt(self, attempt_id: str, *, of: str) -> Attempt:
        """Raises NotFoundError."""
        attempt = self.attempts.get(attempt_id)
        if attempt is None or attempt.sweep_id != of:
            raise NotFoundError(f"There is no attempt {attempt_id!r}.")
        return attempt

    def running_attempt(self, trial_id: str) -> Attempt | None:
        running = (a for a in self.attempts.values() if a.trial_id == trial_id and not a.state.is_ended)
        return next(running, None)

    def update_sweep(self, sweep: Sweep, *, now: datetime) -> Sweep:
        if sweep is not self.sweeps.get(sweep.id):
            sweep = self.sweeps[sweep.id] = replace(sweep, updated_at=now)
        return sweep

    def demands(self, states: Collection[SweepState]) -> list[Demand]:
        packs = {(a.sweep_id, a.pack_key) for a in self.attempts.values() if not a.state.is_ended}
        num_packs = Counter(sweep_id for sweep_id, _ in packs)
        asking = [sweep for sweep in self.sweeps.values() if sweep.state in states and not sweep.state.is_ended]
        return [
            Demand(
                id=sweep.id,
                project=sweep.project,
                labels=sweep.spec.labels,
                priority=sweep.spec.priority,
                state=sweep.state,
                reason=sweep.reason,
                message=sweep.message,
                resources=sweep.spec.resources,
                num_packs=num_packs[sweep.id],
            )
            for sweep in sorted(asking, key=moves.claim_order)
        ]

    def append(self, *events: Event) -> None:
        for event in events:
            seq = self.num_events[event.sweep_id] = self.num_events.get(event.sweep_id, 0) + 1
            self.events[event.sweep_id, seq] = replace(event, seq=seq)

    def append_signed(
        self, action: AuditAction, sweep: Sweep, told: Sequence[Event], by: Actor, *, now: datetime
    ) -> None:
        """What a user's wish has changed, if anything, with their name."""
        self.append(*moves.signed(told, by))
        if told:
            self.add_record(moves.audited(action, sweep, told, by, now=now))

    def add_record(self, record: AuditRecord) -> None:
        self.audit = (*self.audit, intake.accept_record(record, seq=len(self.audit) + 1))

    def take_report(self, report: Report) -> None:
        trial = self.trial(report.trial_id)
        attempt = self.attempt(report.attempt_id, of=report.sweep_id)
        if attempt.trial_id != trial.id:
            raise NotFoundError(f"There is no attempt {attempt.id!r} of {trial.id!r}.")
        key = (report.trial_id, report.step)
        is_new = key not in self.reports
        self.trials[trial.id] = moves.take_report(trial, attempt, report, is_new=is_new)
        if is_new:
            seq = self.num_reports[report.sweep_id] = self.num_reports.get(report.sweep_id, 0) + 1
            self.reports[key] = replace(report, seq=seq)

    def append_logs(self, sweep_id: str, batch: LogLines) -> None:
        attempt = self.attempt(batch.attempt_id, of=sweep_id)
        if attempt.trial_id != batch.trial_id:
            raise NotFoundError(f"There is no attempt {attempt.id!r} of {batch.trial_id!r}.")
        own = [chunk for chunk in self.log_chunks.values() if chunk.attempt_id == attempt.id]
        end_line, end_byte = (own[-1].end_line, own[-1].end_byte) if own else (0, 0)
        last_seq = max((seq for of, seq in self.log_chunks if of == sweep_id), default=0)
        new = new_chunks(batch, sweep_id=sweep_id, end_line=end_line, end_byte=end_byte, last_seq=last_seq)
        if not new:
            return
        self.log_chunks |= {(sweep_id, chunk.last_seq): chunk for chunk in new}
        for chunk in own + new:
            if chunk.is_droppable and chunk.end_byte <= drop_before(new[-1].end_byte):
                del self.log_chunks[sweep_id, chunk.last_seq]

    def kept_lines(self, sweep_id: str, *, after: int) -> Iterator[KeptLine]:
        """Those of a sweep with a seq above ``after``, by seq."""
        ends: dict[str, int] = {}  # by attempt: where the chunk before ends
        for chunk in self.log_chunks.values():
            if chunk.sweep_id != sweep_id:
                continue
            end_before, ends[chunk.attempt_id] = ends.get(chunk.attempt_id, 0), chunk.end_line
            numbers = {
                "trial_number": self.trials[chunk.trial_id].number,
                "attempt": self.attempts[chunk.attempt_id].number,
            }
            yield from chunk.kept_lines(end_before=end_before, after=after, **numbers)

    def end_trial(self, trial: Trial, end: TrialEnd, *, now: datetime) -> None:
        ended, attempt, events = moves.end_trial(trial, self.running_attempt(trial.id), end, now=now)
        self.trials[trial.id] = ended
        if attempt is not None:
            self.attempts[attempt.id] = attempt
        self.append(*events)

    def rest_trial(self, trial: Trial, *, now: datetime) -> None:
        self.trials[trial.id], attempt, events = moves.rest_trial(trial, self.running_attempt(trial.id), now=now)
        if attempt is not None:
            self.attempts[attempt.id] = attempt
        self.append(*events)

    def is_claimable(self, sweep: Sweep, now: datetime) -> bool:
        if sweep.state is SweepState.QUEUED:
            return True
        return sweep.state in CONDUCTED and not self._has_live_lease(sweep, now)

    def is_late(self, sweep: Sweep, now: datetime) -> bool:
        """Whether the tracking server is to be tried again for it."""
        is_due = sweep.tracking_due_at is not None and sweep.tracking_due_at <= now
        return sweep.state.is_ended and is_due and not self._has_live_lease(sweep, now)

    def _has_live_lease(self, sweep: Sweep, now: datetime) -> bool:
        lease = self.leases.get(sweep.id)
        return lease is not None and lease.expires_at > now
