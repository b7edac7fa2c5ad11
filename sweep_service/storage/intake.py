"""What every store does with a value before it keeps it, so that all of them hand out the same one.

Databases differ in what they can hold: PostgreSQL takes no NUL in a text, JSON knows no NaN, and tuples come back as
lists. Whatever a trial's code may produce (messages, metrics) is made to fit here; what only our own code produces
(documents) is refused when it does not fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sweep_service.domain.audit import AuditAction, AuditRecord
from sweep_service.domain.keys import Actor, ApiKey, name_fault
from sweep_service.domain.logs import LogLines, clipped
from sweep_service.domain.states import AttemptState, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import AdoptedTrial, Attempt, Report, Sweep, Trial
from sweep_service.ports import TrialEnd

USE_INTERVAL = timedelta(minutes=1)
"""How exactly it is known when a key was used last: to write it at every use would be a write for every request."""


def plain_text(text: str) -> str:
    """The text without what a database cannot hold: NULs and lone surrogates become U+FFFD."""
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def plain_document(value: Mapping[str, Any], *, field: str) -> dict[str, Any]:
    """A copy of the value as JSON gives it back. Raises ValueError, which names the field, if JSON cannot hold it."""
    try:
        return json.loads(json.dumps(value if isinstance(value, dict) else dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{field} cannot be stored as JSON: {error}. Convert it before it is stored.") from error


def plain_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """A copy with nothing but floats; NaN and infinities are kept."""
    return {plain_text(str(key)): float(value) for key, value in metrics.items()}


def utc_time(moment: datetime, *, field: str) -> datetime:
    """The same moment in UTC. Raises ValueError, which names the field, for a time without a zone."""
    if moment.tzinfo is None:
        raise ValueError(f"{field} ({moment}) has no time zone; use an aware time in UTC.")
    return moment.astimezone(UTC)


def accept_sweep(sweep: Sweep) -> Sweep:
    """A new sweep, fit to be stored. Raises ValueError unless it is QUEUED and fresh."""
    has_history = sweep.generation or sweep.revision or sweep.results is not None or sweep.started_at or sweep.ended_at
    if sweep.state is not SweepState.QUEUED or has_history:
        raise ValueError(
            f"A new sweep is queued, of generation and revision 0, without results and times; {sweep.id} is not."
        )
    return replace(
        sweep,
        message=plain_text(sweep.message),
        adopted=tuple(_accept_adopted(trial) for trial in sweep.adopted),
        project=plain_text(sweep.project),
        created_by=plain_text(sweep.created_by),
        created_at=utc_time(sweep.created_at, field="created_at"),
        updated_at=utc_time(sweep.updated_at, field="updated_at"),
        queued_at=utc_time(sweep.queued_at or sweep.created_at, field="queued_at"),
    )


def _accept_adopted(trial: AdoptedTrial) -> AdoptedTrial:
    if not math.isfinite(trial.value):
        raise ValueError(f"An adopted trial has a finite value; that of {trial.trial_id} is {trial.value}.")
    return replace(trial, point=plain_document(trial.point, field="point"), value=float(trial.value))


def accept_trial(trial: Trial, *, sweep_id: str) -> Trial:
    """A new trial, fit to be stored. Raises ValueError unless it is PENDING and belongs to that sweep."""
    is_fresh = trial.num_attempts == 0 and not any(
        (trial.ending, trial.objective is not None, trial.started_at, trial.ended_at)
    )
    if trial.state is not TrialState.PENDING or not is_fresh:
        raise ValueError(f"A new trial is pending, with no attempts nor an end; {trial.id} is not.")
    _check_sweep(trial.id, trial.sweep_id, sweep_id)
    return replace(
        trial,
        params=plain_document(trial.params, field="params"),
        searched=plain_document(trial.searched, field="searched"),
        search_state=plain_document(trial.search_state, field="search_state"),
        provenance=plain_document(trial.provenance, field="provenance"),
        metrics=plain_metrics(trial.metrics),
        message=plain_text(trial.message),
        traceback=plain_text(trial.traceback),
        created_at=utc_time(trial.created_at, field="created_at"),
    )


def accept_attempt(attempt: Attempt, *, sweep_id: str) -> Attempt:
    """A new attempt, fit to be stored. Raises ValueError unless it is RUNNING and belongs to that sweep."""
    if attempt.state is not AttemptState.RUNNING or attempt.ended_at is not None:
        raise ValueError(f"A new attempt is running and has not ended; {attempt.id} is {attempt.state}.")
    _check_sweep(attempt.id, attempt.sweep_id, sweep_id)
    return replace(
        attempt,
        pack=plain_text(attempt.pack),
        node=plain_text(attempt.node),
        message=plain_text(attempt.message),
        started_at=utc_time(attempt.started_at, field="started_at"),
    )


def accept_report(report: Report, *, sweep_id: str) -> Report:
    """A report, fit to be stored; its seq is the store's to give. Raises ValueError if it is of another sweep."""
    _check_sweep(f"A report of {report.trial_id}", report.sweep_id, sweep_id)
    return replace(
        report,
        metrics=plain_metrics(report.metrics),
        objective=_plain_number(report.objective),
        reported_at=utc_time(report.reported_at, field="reported_at"),
        seq=0,
    )


def accept_log_lines(batch: LogLines) -> LogLines:
    """Lines, fit to be stored. Raises ValueError if their place is no number of lines."""
    if batch.first < 0:
        raise ValueError(f"first must be at least 0; it is {batch.first} for {batch.attempt_id}.")
    lines = tuple(
        replace(
            line, at=utc_time(line.at, field="at"), level=plain_text(line.level), text=plain_text(clipped(line.text))
        )
        for line in batch.lines
    )
    return replace(batch, lines=lines)


def accept_end(end: TrialEnd) -> TrialEnd:
    """An end, fit to be stored. Raises ValueError unless it has a finite objective exactly when it is COMPLETED."""
    has_objective = end.objective is not None and math.isfinite(end.objective)
    if has_objective is not (end.ending is TrialEnding.COMPLETED) or (end.objective is not None and not has_objective):
        raise ValueError(
            f"objective must be a finite number when the ending is completed and None otherwise; "
            f"it is {end.objective!r} for {end.ending} of {end.trial_id}."
        )
    return replace(
        end,
        objective=_plain_number(end.objective),
        message=plain_text(end.message),
        traceback=plain_text(end.traceback),
        provenance=plain_document(end.provenance, field="provenance"),
    )


def accept_key(key: ApiKey) -> ApiKey:
    """A new key, fit to be stored. Raises ValueError if it has a history, or a name that no key may have."""
    if key.last_used_at is not None or key.revoked_at is not None:
        raise ValueError(f"A new key has neither been used nor revoked; {key.id} has.")
    if fault := name_fault(key.name):
        raise ValueError(f"The name of a key {fault}; that of {key.id} is {key.name!r}.")
    created_at = utc_time(key.created_at, field="created_at")
    return replace(key, created_by=plain_text(key.created_by), created_at=created_at)


def change_of_key(action: AuditAction, key: ApiKey, by: Actor, *, at: datetime) -> AuditRecord:
    """The record of a key's making or revocation."""
    return AuditRecord.of(by, action, key.id, at=at, name=key.name, role=str(key.role))


def accept_record(record: AuditRecord, *, seq: int) -> AuditRecord:
    """The record of that number, fit to be stored."""
    return replace(
        record,
        seq=seq,
        at=utc_time(record.at, field="at"),
        by=plain_text(record.by),
        detail=plain_document(record.detail, field="detail"),
    )


def _plain_number(value: float | None) -> float | None:
    return None if value is None else float(value) + 0.0  # SQLite has no negative zero, and nobody misses it


def _check_sweep(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise ValueError(f"{name} belongs to the sweep {actual!r}; the lease is for {expected!r}.")
