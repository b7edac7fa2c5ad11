"""What a lane says, as the rows that the store keeps of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from sweep_service.domain.logs import LogLines
from sweep_service.domain.spec import Objective, SweepSpec
from sweep_service.domain.states import TrialEnding
from sweep_service.domain.trial import Report
from sweep_service.ports import TrialEnd
from sweep_service.services.packs import LaneLines, LaneMessage


def report_of(message: LaneMessage, attempt_id: str, objective: Objective, sweep_id: str, now: datetime) -> Report:
    """The report in the message."""
    return Report(
        sweep_id=sweep_id,
        trial_id=message.trial_id,
        attempt_id=attempt_id,
        step=message.step,
        metrics=message.metrics,
        objective=_value(message.metrics, objective),
        checkpoint=message.checkpoint,
        reported_at=now,
    )


def end_of(message: LaneMessage, spec: SweepSpec) -> TrialEnd:
    """The end that the message, a lane's last one, makes of its trial: a completed one has every objective."""
    ending, text = message.ending, message.message
    assert ending is not None
    needed = (spec.objective, *spec.objectives)
    missing = next((one.metric for one in needed if _value(message.metrics, one) is None), None)
    if ending is TrialEnding.COMPLETED and missing is not None:
        ending, text = TrialEnding.ERROR, f"The trial did not report the objective {missing!r}."
    return TrialEnd(
        trial_id=message.trial_id,
        ending=ending,
        objective=_value(message.metrics, spec.objective) if ending is TrialEnding.COMPLETED else None,
        message=text,
        traceback=message.traceback,
        provenance=message.provenance,
    )


def log_lines_of(said: Sequence[LaneLines], attempts: Mapping[str, str]) -> Sequence[LogLines]:
    """The lines of lanes that have an attempt (trial id -> attempt id) in the pack; of others, nothing."""
    return [
        LogLines(trial_id=one.trial_id, attempt_id=attempts[one.trial_id], first=one.first, lines=one.lines)
        for one in said
        if one.trial_id in attempts
    ]


def _value(metrics: Mapping[str, float], objective: Objective) -> float | None:
    """The objective among the metrics; None: it is not there, or no number."""
    value = metrics.get(objective.metric)
    return value if value is not None and math.isfinite(value) else None
