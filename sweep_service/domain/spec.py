"""The sweep spec: what a user submits. Strict: an unknown key or a wrong type is an error, never a guess.

The shape is checked here, by pydantic. What depends on the catalogue (does the trainable exist, does it report that
metric) is checked in :mod:`sweep_service.domain.spec_check`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    FiniteFloat,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from sweep_service.domain.resources import Resources
from sweep_service.domain.space import MAX_WHOLE, Choice, Dimension, ScalarValue, Strict, trusted_dimension

_LABEL = r"^[A-Za-z0-9]([A-Za-z0-9_.\-]{0,61}[A-Za-z0-9])?$"
_NAME = r"^[^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$"

# Of a task's own parameter, such as weight/income, what comes after the slash is the task's name.
_PARAMETER = r"^[A-Za-z_][A-Za-z0-9_]*(/[^/\x00-\x1f\x7f]+)?$"

# What MLflow takes, without what its URIs (models:/name@alias, models:/name/3) and its filters would stumble over.
_MODEL_NAME = r"""^[^\x00-\x1f\x7f\s./:@?'"`\\][^\x00-\x1f\x7f/:@?'"`\\]*$"""
_DURATION = r"^[1-9][0-9]{0,6}[smhd]$"
_UNITS: Mapping[str, timedelta] = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}

PATTERN_RULES: Mapping[str, str] = {
    _LABEL: "Must be 1 to 63 letters, digits, '.', '_' or '-', and begin and end with a letter or digit.",
    _NAME: "Must be one line of text, not of spaces alone, without control characters.",
    _MODEL_NAME: "Must be one line of text without / : @ ? \\ and quotes, and not begin with a '.' or a space.",
    _DURATION: "Must be a whole number and a unit: 90s, 30m, 2h or 1d.",
    _PARAMETER: "Must be letters, digits and '_', and not begin with a digit; a task's own ends in / and its name.",
}
"""What each pattern asks for, in words."""

BALANCER = "balancer"
"""The parameter that says which method trains."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_NAME)]
ParameterName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_PARAMETER)]


def _check_param(value: Any) -> Any:
    """One message for all that a parameter cannot be, instead of one for each type that it is not."""
    if isinstance(value, list):
        if len(value) <= 1000 and all(type(item) is int and abs(item) <= MAX_WHOLE for item in value):
            return value
        if len(value) <= 1000 and all(isinstance(item, str) and len(item) <= 10_000 for item in value):
            return value
        raise ValueError(f"a list may hold at most 1000 whole numbers, up to {MAX_WHOLE}, or texts, and nothing else")
    if isinstance(value, dict):
        _check_object(value, depth=3)
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must be a finite number")
    if isinstance(value, int) and abs(value) > MAX_WHOLE:
        raise ValueError(f"must lie between -{MAX_WHOLE} and {MAX_WHOLE}")
    if isinstance(value, str) and len(value) > 10_000:
        raise ValueError("a text may have at most 10000 characters")
    if not isinstance(value, bool | int | float | str):
        raise ValueError("must be true or false, a number, a text, an object or a list of whole numbers or texts")
    return value


def _check_object(value: dict[Any, Any], *, depth: int) -> None:
    """Bounds only, so that nothing endless is stored: what belongs into an object, the catalogue says."""
    if depth == 0 or len(value) > 1000 or not all(isinstance(key, str) and len(key) <= 10_000 for key in value):
        raise ValueError("an object may have at most 1000 entries, and at most two levels of objects in it")
    for item in value.values():
        if isinstance(item, dict):
            _check_object(item, depth=depth - 1)
        elif item is not None:
            _check_param(item)


# Which type each one must have is the catalogue's to say.
ParamValue = Annotated[
    Any,
    AfterValidator(_check_param),
    WithJsonSchema(
        {
            "anyOf": [{"type": t} for t in ("boolean", "number", "string")]
            + [{"type": "array", "items": {"type": t}} for t in ("integer", "string")]
            + [{"type": "object"}]
        }
    ),
]


def is_loss(metric: str) -> bool:
    """Whether less of the metric is better by its very nature; of any other, the spec must say which way is."""
    return metric == "val/normalized_loss" or metric.startswith("val/loss/")


class Objective(Strict):
    """The number that the search drives; where there are ``objectives``, the one that picks a trial of those completed:
    to be compared with the baselines, confirmed and stored.
    """

    metric: Name = Field(
        default="val/normalized_loss",
        examples=["val/normalized_loss", "val/auc/income"],
        description="One that the trainable reports on the validation split.",
    )
    direction: Literal["minimize", "maximize"] = Field(
        default="minimize",
        description="May be left out for a loss only; a submitted spec with any other metric has it.",
    )

    def is_better(self, value: float, than: float) -> bool:
        """Whether ``value`` is strictly better."""
        return value < than if self.direction == "minimize" else value > than


class ListedObjective(Objective):
    """One of the numbers that the search drives together. What came of it is the Pareto front: the trials that none
    other beats in one of them without losing in another.
    """

    metric: Name = Field(  # a list that names none would be a slip
        examples=["val/loss/income"], description="One that the trainable reports on the validation split."
    )


def _check_objectives(value: tuple[ListedObjective, ...]) -> tuple[ListedObjective, ...]:
    if len(value) == 1:
        raise ValueError("list at least 2 objectives; a single one is named in objective")
    return value


class Search(Strict):
    """How new trials are chosen.

    ``tpe`` learns any space. ``gp`` (a Gaussian process, for up to some hundred trials) takes no conditions, ``cmaes``
    no categorical parameter. ``nsga2`` breeds from the best trials and wants many of them.
    ``random`` and ``qmc`` (Sobol points: random, but evenly spread) learn nothing. ``grid`` tries every point of a
    finite space once, in an order shuffled by the seed, and is over when none is left. All but ``cmaes`` take several
    ``objectives``.
    """

    sampler: Literal["tpe", "gp", "cmaes", "nsga2", "random", "qmc", "grid"] = "tpe"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=0, description="Of the sampler, and of every trial unless params or space name a seed."
    )
    from_sweep: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = Field(
        default=None,
        description="An earlier sweep of the same trainable and objective, for tpe, gp, cmaes and nsga2. The search "
        "begins with what its search trials have shown, each baseline with that baseline's; they are copied when the "
        "sweep is submitted, and neither trained again nor counted in the budget. Only those that could be trials of "
        "this sweep are taken.",
    )
    balancers: Literal["equal_effort", "sampled"] | None = Field(
        default=None,
        description="Only where balancer is searched. equal_effort, if not given: each balancer has a search of its "
        "own with as many trials per parameter as the others, so that they can be ranked. sampled: one search, in "
        "which the sampler chooses the balancer too, and soon leaves those that begin badly.",
    )


class EarlyStopping(Strict):
    """Which search trials are ended before their last step. Baselines and repeats always train to their end.

    ``asha`` lets the best 1/reduction_factor of the trials that came so far pass at min_steps, at reduction_factor
    times as many steps, and so on. ``hyperband`` splits the trials into brackets that begin to do so later, the last
    one never: for where early values say little of late ones. ``median`` ends a trial whose best value so far is worse
    than the median of the others' at the same step. Not with several ``objectives``.
    """

    pruner: Literal["median", "asha", "hyperband", "none"] = "asha"
    min_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(
        default=None, description="No trial is ended before that step; a tenth of params.steps if not given."
    )
    reduction_factor: Annotated[int, Field(ge=2, le=100)] | None = Field(
        default=None, description="Of asha and hyperband; 3 if not given."
    )
    startup_trials: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Of median: as many trials must have completed before one is ended; 5 if not given."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        readers = {"min_steps": {"median", "asha", "hyperband"}, "reduction_factor": {"asha", "hyperband"}}
        for name, pruners in {**readers, "startup_trials": {"median"}}.items():
            if getattr(self, name) is not None and self.pruner not in pruners:
                raise ValueError(f"the pruner {self.pruner!r} does not read {name}; remove it")
        return self

    @property
    def factor(self) -> int:
        return 3 if self.reduction_factor is None else self.reduction_factor

    @property
    def num_startup_trials(self) -> int:
        return 5 if self.startup_trials is None else self.startup_trials

    def first_step(self, max_steps: int) -> int:
        """The first step at which a training of so many steps may be ended."""
        return max(1, max_steps // 10) if self.min_steps is None else self.min_steps


class Budget(Strict):
    """When the search is over: at the first bound that is reached. Then no new search trial starts, and those that run
    go on to their end. Baselines get their trials and the comparison is made all the same, but for ``wall_time`` and
    ``gpu_hours``.
    """

    trials: Annotated[int, Field(ge=1, le=100_000)] = Field(
        description="Search trials that ended, cancelled ones not counted."
    )
    wall_time: Annotated[str, StringConstraints(pattern=_DURATION)] | None = Field(
        default=None,
        description="From the start of the sweep, its time in the queue not counted. When it is over nothing new "
        "starts, no baseline and no comparison either; a comparison that has begun is finished. Where it is given, "
        "search and baselines take turns.",
        examples=["90s", "30m", "2h", "1d"],
    )
    gpu_hours: Annotated[FiniteFloat, Field(gt=0)] | None = Field(
        default=None,
        description="resources.gpus times the hours that packs have run, each once however many trials it trained at "
        "the same time; lost ones and baselines' too. When they are used nothing new starts, as with wall_time; what "
        "runs goes on to its end, and may take more.",
    )
    target: FiniteFloat | None = Field(
        default=None,
        description="Enough: a completed search trial whose objective (of objective, also where there are objectives) "
        "is as good as this or better.",
    )
    no_improvement: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None,
        description="As many search trials after the best one, by number, and none of them better; with objectives, "
        "after the last one that joined the front of those before it.",
    )

    @property
    def is_timed(self) -> bool:
        """Whether it bounds all that the sweep does, not the search alone."""
        return self.wall_time is not None or self.gpu_hours is not None

    @property
    def time(self) -> timedelta | None:
        """``wall_time``; None: as long as it takes."""
        if self.wall_time is None:
            return None
        return int(self.wall_time[:-1]) * _UNITS[self.wall_time[-1]]


class Confirm(Strict):
    """The best trial, or the best of each balancer that has a search of its own, and each baseline again, with fresh
    seeds, judged on the test split.
    """

    seeds: Annotated[int, Field(ge=2, le=100)] = Field(
        default=5, description="Fresh seeds, the same for all; more of them narrow the intervals."
    )
    margin: Annotated[FiniteFloat, Field(gt=0)] = Field(
        default=0.01, description="Differences whose interval lies inside ± margin count as equivalent."
    )


class Tracking(Strict):
    """Where the results are kept."""

    experiment: Name | None = Field(default=None, description="MLflow experiment; the trainable's name if not given.")
    register_as: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=_MODEL_NAME)] | None = Field(
        default=None,
        examples=["census-mtl"],
        description="Name in MLflow's model registry. The best trial's model becomes its newest version, with the "
        "alias champion, when the sweep ends completed or stopped: of several sweeps, the one that ends last has it.",
    )


class Checkpoints(Strict):
    """Which checkpoints stay, where the service keeps them. A trial that runs, rests or has failed
    has its last one.
    """

    keep_best: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1,
        description="Completed search trials whose last checkpoint stays, also after the end of the sweep: the best by "
        "the objective. The API shows where: checkpoint of a trial.",
    )


_PARTS: Mapping[str, type[Strict]] = {
    "objective": Objective,
    "search": Search,
    "early_stopping": EarlyStopping,
    "budget": Budget,
    "resources": Resources,
    "confirm": Confirm,
    "checkpoints": Checkpoints,
    "tracking": Tracking,
}
"""The fields of a spec that are objects of their own."""

Baseline = Literal["equal", "inverse_initial_loss", "single_task"]


class SweepSpec(Strict):
    """One search: a problem, a space, an objective, a budget."""

    name: Name = Field(description="For people; need not be unique.")
    trainable: Name = Field(description="The problem to train.")
    params: dict[ParameterName, ParamValue] = Field(
        default_factory=dict, max_length=200, description="Parameters that are fixed; others take their defaults."
    )
    space: dict[ParameterName, Dimension] = Field(
        min_length=1,
        max_length=100,
        description="Parameters that are searched, each with its range, and with the condition under which it is.",
    )
    initial: tuple[Annotated[dict[ParameterName, ScalarValue], Field(min_length=1)], ...] = Field(
        default=(),
        strict=False,
        max_length=1000,
        description="Points to try first, in that order; they count in budget.trials. What a point leaves out the "
        "sampler chooses. Baselines begin with as much of them as they read.",
        examples=[[{"alpha": 1.5, "weight_lr": 0.025}]],
    )
    objective: Objective = Objective()
    objectives: Annotated[tuple[ListedObjective, ...], AfterValidator(_check_objectives)] = Field(
        default=(),
        strict=False,
        max_length=5,
        description="2 to 5 numbers to drive together instead of one; objective then only picks a trial for the "
        "comparison.",
        examples=[[{"metric": "val/loss/income"}, {"metric": "val/auc/never_married", "direction": "maximize"}]],
    )
    search: Search = Search()
    early_stopping: EarlyStopping | None = None
    budget: Budget
    resources: Resources = Resources()
    priority: Annotated[int, Field(ge=-100, le=100)] = Field(
        default=0,
        description="Of sweeps that wait, those with a higher one start first; of equal ones, those that have waited "
        "longest. It also decides who gets more of the packs that a limit of the service allows. What runs goes on.",
    )
    baselines: tuple[Baseline, ...] = Field(
        default=(),
        strict=False,
        max_length=10,
        description="What the search is compared with; each is tuned over the parameters of the space that it reads.",
    )
    confirm: Confirm | None = None
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        default=2,
        description="Failures of a trial's own making after which it is tried again: of its worker, by itself, in a "
        "row, without a new checkpoint in between. What the cluster takes away (a node that goes, a place that is "
        "lost) does not count, nor does a pause.",
    )
    checkpoints: Checkpoints = Checkpoints()
    tracking: Tracking = Tracking()
    labels: dict[
        Annotated[str, StringConstraints(pattern=_LABEL)], Annotated[str, StringConstraints(pattern=_LABEL)]
    ] = Field(default_factory=dict, max_length=50, description="To find sweeps by, such as {team: ads}.")

    @classmethod
    def trusted(cls, document: Mapping[str, Any]) -> Self:
        given = {name: part for name, part in _PARTS.items() if document.get(name) is not None}
        parts: dict[str, Any] = {name: part.trusted(document[name]) for name, part in given.items()}
        parts["space"] = {name: trusted_dimension(dimension) for name, dimension in document["space"].items()}
        parts["initial"] = tuple(document.get("initial", ()))
        parts["objectives"] = tuple(ListedObjective.trusted(item) for item in document.get("objectives", ()))
        parts["baselines"] = tuple(document.get("baselines", ()))
        return super().trusted({**document, **parts})

    @property
    def methods(self) -> tuple[str, ...]:
        """The balancers that are searched each by itself; none: the search is one, whatever balancers it draws.
        ``check_spec`` fills in how balancers are searched; a stored spec that does not say is from before there was a
        choice, and means the latter.
        """
        balancer = self.space.get(BALANCER)
        if self.search.balancers != "equal_effort" or not isinstance(balancer, Choice):
            return ()
        return tuple(str(choice) for choice in balancer.choices)

    @property
    def experiment(self) -> str:
        """The tracking experiment's name."""
        return self.tracking.experiment or self.trainable

    def canonical(self) -> dict[str, Any]:
        """The spec as JSON-compatible values, every default filled in."""
        return self.model_dump(mode="json", warnings=False)  # a trusted one may hold what today's types do not allow
