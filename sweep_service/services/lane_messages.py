"""What a lane says, as the rows that the store keeps of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime

from sweep_service.domain.spec import Objective
from sweep_service.domain.states import TrialEnding
from sweep_service.domain.trial import Report
from sweep_service.ports import TrialEnd
from sweep_service.services.packs import LaneMessage


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


def end_of(message: LaneMessage, objective: Objective) -> TrialEnd:
    """The end that the message, a lane's last one, makes of its trial."""
    ending, text = message.ending, message.message
    assert ending is not None
    value = _value(message.metrics, objective) if ending is TrialEnding.COMPLETED else None
    if ending is TrialEnding.COMPLETED and value is None:
        ending, text = TrialEnding.ERROR, f"The trial did not report the objective {objective.metric!r}."
    return TrialEnd(
        trial_id=message.trial_id,
        ending=ending,
        objective=value,
        message=text,
        traceback=message.traceback,
        provenance=message.provenance,
    )


def _value(metrics: Mapping[str, float], objective: Objective) -> float | None:
    """The objective among the metrics; None: it is not there, or no number."""
    value = metrics.get(objective.metric)
    return value if value is not None and math.isfinite(value) else None
