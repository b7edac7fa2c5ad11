"""Trials as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from sweep_service.domain.states import TrialEnding, TrialState
from sweep_service.domain.trial import Role, Trial


class TrialView(BaseModel):
    """One hyperparameter set, trained once to a result."""

    id: str
    sweep_id: str
    number: int
    role: Role
    balancer: str
    state: TrialState
    ending: TrialEnding | None = Field(description="Why it ended; null while it has not.")
    message: str
    traceback: str = Field(description="Where the problem's code raised; empty if it did not.")
    params: dict[str, Any] = Field(description="All of them: fixed, searched and default ones.")
    searched: dict[str, Any] = Field(description="The part that the sampler chose.")
    seed: int
    confirms: str | None = Field(description="For role confirm: the trial that it repeats.")
    objective: float | None = Field(description="The objective at the last step; only of completed trials.")
    metrics: dict[str, float] = Field(description="Of the last report.")
    last_step: int
    num_attempts: int
    tracking_ref: str | None = Field(description="Its MLflow run.")
    provenance: dict[str, Any] = Field(description="Code version, data hash, package versions.")
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def of(cls, trial: Trial) -> TrialView:
        return cls(
            id=trial.id,
            sweep_id=trial.sweep_id,
            number=trial.number,
            role=trial.role,
            balancer=trial.balancer,
            state=trial.state,
            ending=trial.ending,
            message=trial.message,
            traceback=trial.traceback,
            params=dict(trial.params),
            searched=dict(trial.searched),
            seed=trial.seed,
            confirms=trial.confirms,
            objective=trial.objective,
            metrics=dict(trial.metrics),
            last_step=trial.last_step,
            num_attempts=trial.num_attempts,
            tracking_ref=trial.tracking_ref,
            provenance=dict(trial.provenance),
            created_at=trial.created_at,
            started_at=trial.started_at,
            ended_at=trial.ended_at,
        )


class TrialPage(BaseModel):
    """Trials of a sweep, by number."""

    trials: list[TrialView]
    next_page_token: str | None = Field(description="null: this is the last page.")


class BestView(BaseModel):
    """The best completed search trial so far."""

    best: TrialView | None
    reason: str | None = Field(description="Why there is none; null where there is one.")
