"""The tags of runs: what people filter by, and what the tracker finds a run again by."""

from __future__ import annotations

import json
from typing import Any

from sweep_service.domain.trial import Sweep, Trial


def sweep_tags(sweep: Sweep) -> dict[str, str]:
    tags = {
        "kind": "sweep",
        "sweep_id": sweep.id,
        "project": sweep.project,
        "trainable": sweep.spec.trainable,
        "state": str(sweep.state),
        "mlflow.user": sweep.created_by,
        "mlflow.source.name": "sweep_service",
    }
    if sweep.reason is not None:
        tags["reason"] = str(sweep.reason)
    if sweep.message:
        tags["message"] = sweep.message
    return tags | {f"label.{name}": value for name, value in sweep.spec.labels.items()}


def trial_tags(sweep: Sweep, sweep_ref: str, trial: Trial) -> dict[str, str]:
    return {
        "kind": "trial",
        "mlflow.parentRunId": sweep_ref,
        "mlflow.user": sweep.created_by,
        "mlflow.source.name": "sweep_service",
        "sweep_id": sweep.id,
        "trial": str(trial.number),
        "trial_id": trial.id,
        "role": str(trial.role),
        "balancer": trial.balancer,
        **({"confirms": trial.confirms} if trial.confirms else {}),
        **ending_tags(trial),
    }


def ending_tags(trial: Trial) -> dict[str, str]:
    """What is known for good only at the end; the provenance too, which comes with it."""
    tags = {"state": str(trial.state)} | {f"provenance.{k}": as_text(v) for k, v in trial.provenance.items()}
    if trial.ending is not None:
        tags |= {"ending": str(trial.ending), "attempts": str(trial.num_attempts)}
    if trial.message:
        tags |= {"message": trial.message, "mlflow.note.content": trial.message}
    return tags


def as_text(value: Any) -> str:
    """Texts as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
