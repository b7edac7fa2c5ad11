"""Trials as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from api.schemas.sweeps import PREFIX
from sweep_service.domain.states import AttemptState, TrialEnding, TrialState
from sweep_service.domain.trial import Attempt, Report, Role, Trial
from sweep_service.services.sweeps import BestTrial, FrontTrial
from sweep_service.services.trials import TrialHistory


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
    metrics: dict[str, float | None] = Field(description="Of the last report; null: not a finite number.")
    last_step: int
    checkpoint: str | None = Field(
        description="Where its last checkpoint is: a file on the nodes, or s3://bucket/key. Of a trial that has ended "
        "it stays if it is among the best (checkpoints.keep_best of the spec) or has failed."
    )
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
            checkpoint=trial.checkpoint,
            num_attempts=trial.num_attempts,
            tracking_ref=trial.tracking_ref,
            provenance=dict(trial.provenance),
            created_at=trial.created_at,
            started_at=trial.started_at,
            ended_at=trial.ended_at,
        )


class AttemptView(BaseModel):
    """One try at a trial."""

    id: str
    number: int = Field(description="0, 1, 2, … within the trial.")
    state: AttemptState
    generation: int = Field(description="Of the conductor that started it.")
    pack: str = Field(
        description="The worker process that made it, by the name that this generation has given it: attempts of a "
        "sweep with the same generation and pack were trained together. Empty for an attempt that had a process to "
        "itself before packs had names."
    )
    node: str = Field(description="Where it ran: the name that its node was started with, or its host's.")
    resumed_from: str | None = Field(description="The checkpoint that it went on from; null: from the beginning.")
    message: str
    started_at: datetime
    ended_at: datetime | None

    @classmethod
    def of(cls, attempt: Attempt) -> AttemptView:
        return cls(
            id=attempt.id,
            number=attempt.number,
            state=attempt.state,
            generation=attempt.generation,
            pack=attempt.pack,
            node=attempt.node,
            resumed_from=attempt.resumed_from,
            message=attempt.message,
            started_at=attempt.started_at,
            ended_at=attempt.ended_at,
        )


class TrialLinks(BaseModel):
    """Where the rest is, relative to this server."""

    self: str
    sweep: str
    metrics: str
    logs: str


class TrialDetail(TrialView):
    """A trial with every try at it."""

    attempts: list[AttemptView] = Field(description="By number; each after the first went on for a worker that died.")
    links: TrialLinks

    @classmethod
    def of_history(cls, history: TrialHistory) -> TrialDetail:
        trial = history.trial
        here = f"{PREFIX}/trials/{trial.id}"
        return cls(
            **dict(TrialView.of(trial)),
            attempts=[AttemptView.of(attempt) for attempt in history.attempts],
            links=TrialLinks(
                self=here,
                sweep=f"{PREFIX}/sweeps/{trial.sweep_id}",
                metrics=f"{here}/metrics",
                logs=f"{here}/logs",
            ),
        )


class CurvePoint(BaseModel):
    """What a trial reported at a step."""

    seq: int = Field(description="Rises in the order of recording; has gaps: a sweep's trials share the numbers.")
    step: int = Field(description="Optimiser steps done.")
    attempt_id: str
    reported_at: datetime
    metrics: dict[str, float | None] = Field(description="By name; null: not a finite number.")

    @classmethod
    def of(cls, report: Report) -> CurvePoint:
        return cls(
            seq=report.seq,
            step=report.step,
            attempt_id=report.attempt_id,
            reported_at=report.reported_at,
            metrics=dict(report.metrics),
        )


class CurvePage(BaseModel):
    """A trial's reports, in the order of their recording: by step, unless an attempt went back to a checkpoint."""

    points: list[CurvePoint] = Field(description="May be fewer than page_size, even none, where `key` leaves some out.")
    next_after: int = Field(description="What to ask for next as `after`; more may have been reported by then.")
    has_more: bool = Field(description="Whether more had been reported already.")


class TrialPage(BaseModel):
    """Trials of a sweep, by number."""

    trials: list[TrialView]
    next_page_token: str | None = Field(description="null: this is the last page.")


class FrontTrialView(TrialView):
    """A trial of the Pareto front."""

    values: dict[str, float] = Field(description="Of the spec's objectives, by metric.")


class ConfirmedView(BaseModel):
    """What the repeats of a method's best trial, with fresh seeds, measured on the test split."""

    metric: str
    mean: float | None = Field(description="Of those that came to a finite number; null: none did.")
    std: float | None = Field(description="null: fewer than two of them.")
    seeds: int = Field(description="Repeats that ended by themselves.")
    diverged: int = Field(description="How many of them came to no finite number.")
    values: list[float] = Field(description="Of the others, in the order of their seeds.")


class MethodView(BaseModel):
    """A balancer of the search, or a baseline, with its best trial."""

    rank: int | None = Field(description="null: none of its trials completed.")
    balancer: str
    role: Role
    trials: int = Field(description="Its trials that ended and count.")
    parameters: int = Field(description="How many it had to tune.")
    objective: float | None = Field(description="Of its best trial.")
    trial_id: str | None
    number: int | None
    params: dict[str, Any] = Field(description="What the sampler chose for its best trial.")
    confirmed: ConfirmedView | None = Field(description="null: its best trial has not been trained again.")


class BestView(BaseModel):
    """The best completed search trial so far; of several objectives, the Pareto front too; where each balancer has a
    search of its own, the ranking of the methods.
    """

    best: TrialView | None = Field(description="By the spec's `objective`, also where there are `objectives`.")
    reason: str | None = Field(description="Why there is none; null where there is one.")
    front: list[FrontTrialView] | None = Field(
        description="The completed search trials that none other beats in one of the `objectives` without losing in "
        "another, best in the first of them first. null: the sweep has a single objective."
    )
    methods: list[MethodView] | None = Field(
        description="The balancers and the baselines, best first: by the mean over fresh seeds where they were trained "
        "again, else by their objective. null: the search is one for all balancers."
    )

    @classmethod
    def of(cls, found: BestTrial) -> BestView:
        front = found.front
        return cls(
            best=None if found.trial is None else TrialView.of(found.trial),
            reason=found.reason or None,
            front=None if front is None else [_of_front(one) for one in front],
            methods=None if found.methods is None else [MethodView.model_validate(row) for row in found.methods],
        )


def _of_front(found: FrontTrial) -> FrontTrialView:
    return FrontTrialView(**dict(TrialView.of(found.trial)), values=dict(found.values))
