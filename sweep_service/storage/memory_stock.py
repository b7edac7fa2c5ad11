"""How everything stands, of the store in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta

from sweep_service.domain.states import CONDUCTED, SweepReason, SweepState, TrialState
from sweep_service.domain.stock import NOTHING, Stock, Times, Work
from sweep_service.domain.trial import BusyTime, Report, Sweep
from sweep_service.storage.memory_tables import MemoryTables


def stock_of(tables: MemoryTables, now: datetime) -> Stock:
    sweeps = list(tables.sweeps.values())
    queued = [sweep for sweep in sweeps if sweep.state is SweepState.QUEUED]
    conducted = [sweep for sweep in sweeps if sweep.state in CONDUCTED]
    overdue = [sweep for sweep in sweeps if sweep.state.is_ended and sweep.tracking_due_at is not None]
    live = [lease.expires_at - now for s in conducted if (lease := tables.leases.get(s.id)) and lease.expires_at > now]
    waiting = _undelivered(tables, [*(sweep for sweep in sweeps if not sweep.state.is_ended), *overdue])
    return Stock(
        sweeps=Counter(sweep.state for sweep in sweeps),
        num_unschedulable=sum(sweep.reason is SweepReason.UNSCHEDULABLE for sweep in queued),
        longest_wait=max((_since(sweep.queued_at, now) for sweep in queued), default=NOTHING),
        lease_left=min(live, default=None),
        num_unattended=len(conducted) - len(live),
        num_undelivered=sum(len(reports) for reports in waiting),
        longest_undelivered=max((_since(reports[0].reported_at, now) for reports in waiting), default=NOTHING),
        num_overdue=len(overdue),
        cluster=tables.cluster,
        cluster_age=_since(tables.cluster_published_at, now),
        work=Work.together(_work_of(tables, sweep, now) for sweep in sweeps),
    )


def _since(then: datetime | None, now: datetime) -> timedelta:
    return NOTHING if then is None else max(now - then, NOTHING)


def _undelivered(tables: MemoryTables, sweeps: list[Sweep]) -> list[list[Report]]:
    """Of each sweep that has some, in the order of the outbox."""
    up_to = {sweep.id: tables.num_delivered.get(sweep.id, 0) for sweep in sweeps}
    found: defaultdict[str, list[Report]] = defaultdict(list)
    for report in sorted(tables.reports.values(), key=lambda report: report.seq):
        if report.sweep_id in up_to and report.seq > up_to[report.sweep_id]:
            found[report.sweep_id].append(report)
    return list(found.values())


def _work_of(tables: MemoryTables, sweep: Sweep, now: datetime) -> Work:
    trials = tables.trials_of(sweep.id)
    attempts = [attempt for attempt in tables.attempts.values() if attempt.sweep_id == sweep.id]
    busy = BusyTime.of((attempt.pack_key, attempt.started_at, attempt.ended_at) for attempt in attempts)
    gpus = sweep.spec.resources.gpus
    return Work(
        start_waits=Times.of([sweep.started_at - sweep.created_at] if sweep.started_at is not None else []),
        trials_ended=Counter((trial.ending, trial.role) for trial in trials if trial.ending is not None),
        trial_times=Times.of(t.ended_at - t.started_at for t in trials if t.ended_at and t.started_at),
        num_trials_running=sum(trial.state is TrialState.RUNNING for trial in trials),
        attempts=Counter(attempt.state for attempt in attempts),
        num_packs_running=len(busy.running_since),
        gpus_busy=gpus * len(busy.running_since),
        gpu_time=gpus * busy.until(now),
    )
