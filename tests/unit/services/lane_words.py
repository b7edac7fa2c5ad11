"""What lanes of a pack say that is to rest."""

from __future__ import annotations

from typing import Any

from sweep_service.services.packs import LaneMessage


def at_work(trial_id: str, step: int, **changes: Any) -> LaneMessage:
    return LaneMessage(trial_id=trial_id, step=step, metrics={"val/normalized_loss": 0.5}, **changes)


def resting(trial_id: str, step: int) -> LaneMessage:
    """The last word of a lane that has been asked to rest."""
    checkpoint = f"/checkpoints/{trial_id}/{step}.pt"
    return LaneMessage(trial_id=trial_id, step=step, metrics={}, checkpoint=checkpoint, rests=True)
