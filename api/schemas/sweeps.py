"""Sweeps as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from sweep_service.domain.adoption import LineAdoption
from sweep_service.domain.states import SweepReason, SweepState, TrialState
from sweep_service.domain.trial import Role, Sweep, Trial
from sweep_service.services.sweeps import Preview, Progress, SweepOverview

PREFIX = "/api/v1"

EXAMPLE_SPEC = {
    "name": "census-gradnorm",
    "trainable": "census_income",
    "params": {"hidden": [128, 64], "batch_size": 256, "lr": 0.001, "steps": 1500},
    "space": {
        "alpha": {"type": "float", "low": 0.0, "high": 3.0},
        "weight_lr": {"type": "float", "low": 0.0001, "high": 0.1, "log": True},
    },
    "budget": {"trials": 32},
    "baselines": ["equal", "single_task"],
    "confirm": {"seeds": 5},
    "labels": {"team": "ads"},
}


Position = Annotated[
    int | None,
    Field(
        description="Its place in the queue; 1: the next one to start. null: it does not wait its turn, because it is "
        "not queued, or is passed over until what its reason says has changed (`unschedulable`, `limited`)."
    ),
]


class Links(BaseModel):
    """Where the rest is, relative to this server."""

    self: str
    trials: str
    best: str
    events: str
    logs: str
    report: str
    pause: str
    resume: str
    retry: str
    stop: str
    cancel: str

    @classmethod
    def of(cls, sweep_id: str) -> Links:
        here = f"{PREFIX}/sweeps/{sweep_id}"
        names = ("trials", "best", "events", "logs", "report", "pause", "resume", "retry", "stop", "cancel")
        parts = {part: f"{here}/{part}" for part in names}
        return cls(self=here, **parts)


class ProgressView(BaseModel):
    """How far a sweep has come."""

    budget_trials: int
    used_trials: int = Field(description="Search trials that ended and count in the budget.")
    used_gpu_hours: float | None = Field(
        description="resources.gpus times the hours that its packs have run so far, each once however many trials it "
        "trained at the same time; null: the sweep asks for no GPU."
    )
    trials: dict[Role, dict[TrialState, int]] = Field(description="How many there are, by role and state.")

    @classmethod
    def of(cls, progress: Progress) -> ProgressView:
        counts = {role: dict(states) for role, states in progress.trials.items()}
        return cls(
            budget_trials=progress.budget_trials,
            used_trials=progress.used_trials,
            used_gpu_hours=progress.used_gpu_hours,
            trials=counts,
        )


class Leader(BaseModel):
    """The best completed trial of the search or of a baseline."""

    trial_id: str
    number: int
    role: Role
    balancer: str
    objective: float | None
    searched: dict[str, Any]

    @classmethod
    def of(cls, trial: Trial) -> Leader:
        return cls(
            trial_id=trial.id,
            number=trial.number,
            role=trial.role,
            balancer=trial.balancer,
            objective=trial.objective,
            searched=dict(trial.searched),
        )


class SweepSummary(BaseModel):
    """A sweep in a list."""

    id: str
    name: str
    trainable: str
    project: str
    created_by: str
    labels: dict[str, str]
    state: SweepState
    reason: SweepReason | None = Field(description="Why it is in that state, where that needs explaining.")
    message: str
    priority: int
    position: Position
    budget_trials: int
    best_trial_id: str | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    links: Links

    @classmethod
    def of(cls, sweep: Sweep, *, place: int | None) -> SweepSummary:
        spec = sweep.spec
        return cls(**_common(sweep), priority=spec.priority, position=place, budget_trials=spec.budget.trials)


class SweepPage(BaseModel):
    """Sweeps, newest first unless asked otherwise."""

    sweeps: list[SweepSummary]
    next_page_token: str | None = Field(description="null: this is the last page.")


class SweepView(BaseModel):
    """A sweep and where it stands."""

    id: str
    name: str
    trainable: str
    project: str
    created_by: str
    labels: dict[str, str]
    state: SweepState
    reason: SweepReason | None = Field(description="Why it is in that state, where that needs explaining.")
    message: str
    position: Position
    spec: dict[str, Any] = Field(description="What was submitted and amended since, with every default filled in.")
    generation: int = Field(description="How many times a conductor was started for it.")
    revision: int = Field(description="How often it was changed since it was submitted: amended, or retried.")
    progress: ProgressView
    leaders: list[Leader] = Field(
        description="The best of the search so far, then of each other balancer that has a search of its own, then of "
        "each baseline."
    )
    adopted: int = Field(description="Trials of search.from_sweep that the samplers began with; none of this sweep's.")
    best_trial_id: str | None
    results: dict[str, Any] | None = Field(
        description="Once it has ended: `leaderboard`, `methods` (ranked; old sweeps lack them), "
        "`best`, `front` (null: there is one objective only), `baselines`, `verdict`, and `importance`: the share of "
        "the objective's variance that each searched parameter explains, the largest first; null: too few trials."
    )
    tracking_ref: str | None = Field(description="Its MLflow run.")
    experiment: str = Field(description="Its MLflow experiment.")
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    links: Links

    @classmethod
    def of(cls, overview: SweepOverview) -> SweepView:
        sweep = overview.sweep
        return cls(
            **_common(sweep),
            position=overview.place,
            spec=sweep.spec.canonical(),
            generation=sweep.generation,
            revision=sweep.revision,
            progress=ProgressView.of(overview.progress),
            leaders=[Leader.of(trial) for trial in overview.leaders],
            adopted=len(sweep.adopted),
            results=None if sweep.results is None else dict(sweep.results),
            tracking_ref=sweep.tracking_ref,
            experiment=sweep.spec.experiment,
        )


class SampleView(BaseModel):
    """A configuration that a trial could have."""

    searched: dict[str, Any] = Field(description="The part that is drawn.")
    params: dict[str, Any] = Field(description="All of them: fixed, searched and default ones.")


class FusionView(BaseModel):
    """Whether trials would be trained together, as one batched model."""

    fused: bool
    lanes: int | Literal["auto"] = Field(description="Trials that one pack would train: resources.lanes.")
    reason: str | None = Field(
        description="Why they would not; null if they would, as far as is known before the first pack has tried."
    )


class LeftOutView(BaseModel):
    """Trials that cannot be adopted."""

    reason: str
    trials: int


class LineAdoptionView(BaseModel):
    """What the search, or a baseline, would begin with."""

    role: Role
    balancer: str | None = Field(description="null: each trial's own is drawn.")
    considered: int = Field(description="Trials of that kind that completed or were stopped early.")
    adopted: int
    left_out: list[LeftOutView]

    @classmethod
    def of(cls, found: LineAdoption) -> LineAdoptionView:
        return cls(
            role=found.line.role,
            balancer=found.line.balancer,
            considered=found.considered,
            adopted=len(found.adopted),
            left_out=[LeftOutView(reason=one.reason, trials=one.trials) for one in found.left_out],
        )


class AdoptionView(BaseModel):
    """What would be adopted of another sweep."""

    from_sweep: str
    lines: list[LineAdoptionView] = Field(description="The search, then each baseline.")


class PreviewView(BaseModel):
    """What a spec would become. Nothing of it is stored."""

    spec: dict[str, Any] = Field(description="What was sent, with every default filled in.")
    trials: dict[Role, int] = Field(description="How many there would be of each role, at the most.")
    shares: dict[str, int] | None = Field(
        description="Where each balancer has a search of its own, how many of the search trials each would get; else "
        "null."
    )
    fusion: FusionView
    samples: list[SampleView]
    samples_from: Literal["uniform_draws"] = Field(
        default="uniform_draws", description="Drawn uniformly from the space; the sampler chooses otherwise."
    )

    adoption: AdoptionView | None = Field(description="What search.from_sweep would give; null: it is not asked for.")

    @classmethod
    def of(cls, preview: Preview) -> PreviewView:
        reason, found = preview.not_fused_because, preview.adoption
        lines = [LineAdoptionView.of(line) for line in found.lines] if found else []
        return cls(
            spec=preview.spec.canonical(),
            trials=dict(preview.most_trials),
            shares=None if preview.shares is None else dict(preview.shares),
            fusion=FusionView(fused=not reason, lanes=preview.lanes, reason=reason or None),
            samples=[SampleView(searched=dict(s.searched), params=dict(s.params)) for s in preview.samples],
            adoption=AdoptionView(from_sweep=found.sweep_id, lines=lines) if found else None,
        )


def _common(sweep: Sweep) -> dict[str, Any]:
    return {
        "id": sweep.id,
        "name": sweep.spec.name,
        "trainable": sweep.spec.trainable,
        "project": sweep.project,
        "created_by": sweep.created_by,
        "labels": dict(sweep.spec.labels),
        "state": sweep.state,
        "reason": sweep.reason,
        "message": sweep.message,
        "best_trial_id": sweep.best_trial_id,
        "created_at": sweep.created_at,
        "updated_at": sweep.updated_at,
        "started_at": sweep.started_at,
        "ended_at": sweep.ended_at,
        "links": Links.of(sweep.id),
    }
