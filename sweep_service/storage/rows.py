"""Rows of the tables as values of the domain, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Row

from sweep_service.domain.audit import AuditAction, AuditRecord
from sweep_service.domain.events import Event, EventKind
from sweep_service.domain.keys import ApiKey, KeyRole
from sweep_service.domain.limits import Demand
from sweep_service.domain.resources import Resources
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import AdoptedTrial, Attempt, Cluster, NodeResources, Report, Role, Sweep, Trial

_SWEEP = tuple(f.name for f in fields(Sweep) if f.name != "adopted")
_SWEEP_WITHOUT_RESULTS = tuple(name for name in _SWEEP if name != "results")
_TRIAL = tuple(f.name for f in fields(Trial))
_ATTEMPT = tuple(f.name for f in fields(Attempt))
_REPORT = tuple(f.name for f in fields(Report))
_EVENT = tuple(f.name for f in fields(Event))
_KEY = tuple(f.name for f in fields(ApiKey))
_AUDIT = tuple(f.name for f in fields(AuditRecord) if f.name != "by")  # a word of SQL's


def _values(row: Row[Any], names: tuple[str, ...]) -> dict[str, Any]:
    mapping = row._mapping
    return {name: mapping[name] for name in names}


def sweep_of(row: Row[Any]) -> Sweep:
    """Without its results, and what it has adopted, where the row is."""
    values = _values(row, _SWEEP if "results" in row._mapping else _SWEEP_WITHOUT_RESULTS)
    values["spec"] = SweepSpec.trusted(values["spec"])
    values["state"] = SweepState(values["state"])
    values["reason"] = None if values["reason"] is None else SweepReason(values["reason"])
    return Sweep(**values, adopted=adopted_of(row._mapping.get("adopted") or ()))


def demand_of(row: Row[Any], *, num_packs: int) -> Demand:
    return Demand(
        id=row.id,
        project=row.project,
        labels=row.labels or {},
        priority=row.priority,
        state=SweepState(row.state),
        reason=None if row.reason is None else SweepReason(row.reason),
        message=row.message,
        resources=Resources.trusted(row.resources or {}),
        num_packs=num_packs,
    )


def trial_of(row: Row[Any]) -> Trial:
    values = _values(row, _TRIAL)
    values["role"] = Role(values["role"])
    values["state"] = TrialState(values["state"])
    values["ending"] = None if values["ending"] is None else TrialEnding(values["ending"])
    return Trial(**values)


def attempt_of(row: Row[Any]) -> Attempt:
    values = _values(row, _ATTEMPT)
    values["state"] = AttemptState(values["state"])
    return Attempt(**values)


def report_of(row: Row[Any]) -> Report:
    return Report(**_values(row, _REPORT))


def event_of(row: Row[Any]) -> Event:
    values = _values(row, _EVENT)
    values["kind"] = EventKind(values["kind"])
    return Event(**values)


def key_of(row: Row[Any]) -> ApiKey:
    values = _values(row, _KEY)
    values["role"] = KeyRole(values["role"])
    return ApiKey(**values)


def key_row(key: ApiKey) -> dict[str, Any]:
    return _columns(key, _KEY)


def audit_of(row: Row[Any]) -> AuditRecord:
    values = _values(row, _AUDIT)
    values["action"] = AuditAction(values["action"])
    return AuditRecord(**values, by=row.by_name)


def audit_row(record: AuditRecord) -> dict[str, Any]:
    return _columns(record, _AUDIT) | {"by_name": record.by}


def sweep_row(sweep: Sweep) -> dict[str, Any]:
    """The columns of the value; the lease's and the counters' are apart, and what it has adopted."""
    return _columns(sweep, _SWEEP) | {"spec": sweep.spec.canonical(), "priority": sweep.spec.priority}


def adopted_documents(adopted: Sequence[AdoptedTrial]) -> list[dict[str, Any]]:
    return [
        asdict(trial) | {"role": str(trial.role), "state": str(trial.state), "point": dict(trial.point)}
        for trial in adopted
    ]


def adopted_of(documents: Sequence[Mapping[str, Any]]) -> tuple[AdoptedTrial, ...]:
    return tuple(
        AdoptedTrial(**{**document, "role": Role(document["role"]), "state": TrialState(document["state"])})
        for document in documents
    )


def trial_row(trial: Trial) -> dict[str, Any]:
    return _columns(trial, _TRIAL)


def attempt_row(attempt: Attempt) -> dict[str, Any]:
    return _columns(attempt, _ATTEMPT)


def report_row(report: Report) -> dict[str, Any]:
    return _columns(report, _REPORT)


def event_row(event: Event) -> dict[str, Any]:
    return _columns(event, _EVENT)


def _columns(value: object, names: tuple[str, ...]) -> dict[str, Any]:
    columns = {name: getattr(value, name) for name in names}
    return {name: str(column) if isinstance(column, StrEnum) else column for name, column in columns.items()}


def cluster_document(cluster: Cluster) -> dict[str, Any]:
    nodes = [{"node": n.node, "cpus": n.cpus, "gpus": n.gpus} for n in cluster.nodes]
    return {"nodes": nodes, "seen_at": cluster.seen_at.isoformat()}


def cluster_of(document: Mapping[str, Any]) -> Cluster:
    nodes = tuple(NodeResources(**node) for node in document["nodes"])
    return Cluster(nodes=nodes, seen_at=datetime.fromisoformat(document["seen_at"]))
