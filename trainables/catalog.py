"""The catalogue: which problems can be trained, and what may be set on each.

This module imports no torch, so that a process that only *describes* problems (the API) stays light. A problem's code
is imported by :func:`load_problem` alone, in the process that trains it.

A package adds its own problems through the entry point group ``sweep_service.trainables``: each entry point names a
:class:`Trainable` (not the problem itself), in a module that should import no torch either.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from enum import StrEnum
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, model_validator

if TYPE_CHECKING:
    from trainables.protocol import Problem, TableCodec

ENTRY_POINT_GROUP = "sweep_service.trainables"

logger = logging.getLogger(__name__)

ParameterValue: TypeAlias = bool | int | float | str | list[int] | list[str] | dict[str, dict[str, str]]


class TaskKind(StrEnum):
    """What a task predicts; decides its loss and its metrics."""

    BINARY = "binary"  # one logit, binary cross-entropy
    MULTICLASS = "multiclass"  # one logit per class, cross-entropy
    REGRESSION = "regression"  # mean squared error
    COUNT = "count"  # the logarithm of a rate, Poisson deviance


METRICS_OF_KIND: Mapping[TaskKind, tuple[str, ...]] = {
    TaskKind.BINARY: ("auc", "accuracy"),
    TaskKind.MULTICLASS: ("accuracy",),
    TaskKind.REGRESSION: ("rmse", "mae"),
    TaskKind.COUNT: ("rmse", "mae"),
}
"""What a task that a spec itself describes reports, besides its loss."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parameter(_Frozen):
    """One parameter of a trainable: what may be fixed in ``params`` and, if searchable, searched in ``space``."""

    name: str
    # tasks: an object of tasks by name, each an object of texts: its kind, and what else its problem reads
    type: Literal["float", "int", "bool", "categorical", "int_list", "string", "string_list", "tasks"]
    default: ParameterValue | None = None  # None: it has none, so that a spec must give it
    description: str
    low: float | None = None  # smallest value allowed, inclusive unless exclusive_low; of each element for int_list
    high: float | None = None  # largest value allowed, inclusive
    exclusive_low: bool = False
    choices: tuple[str, ...] = ()  # what a categorical accepts; empty for the other types
    searchable: bool = True
    scalar: bool = False  # may differ between the lanes of one pack (a learning rate may, a layer size may not)
    used_by: tuple[str, ...] | None = None  # the balancers that read it; None: all of them

    def for_task(self, task: str) -> Parameter:
        """The parameter of one task that this one, of :data:`TASK_PARAMETERS`, stands for."""
        return self.model_copy(update={"name": task_parameter_name(self.name, task)})


class TaskInfo(_Frozen):
    """What can be said of a task without its data."""

    name: str
    kind: TaskKind
    metrics: tuple[str, ...] = ()  # reported as val/<metric>/<task>


def task_parameter_name(parameter: str, task: str) -> str:
    """What a spec calls a parameter that each task has for itself: ``weight/income``, as metrics are called."""
    return f"{parameter}/{task}"


TASK_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(name="weight", type="float", default=1.0, low=0.0, exclusive_low=True, high=1e6, scalar=True,
              used_by=("static",), description="The task's weight, scaled with the others' to a sum of T."),
    Parameter(name="initial_loss", type="float", default=0.0, low=0.0, high=1e12, searchable=False,
              used_by=("gradnorm", "inverse_initial_loss"),
              description="L(0) of the task, given; 0: as initial_loss says."),
)  # fmt: skip
"""What each task may have for itself; a spec names one by ``task_parameter_name``, and may leave any of them out."""


class Trainable(_Frozen):
    """A problem as the catalogue lists it."""

    name: str
    summary: str
    factory: str  # "package.module:callable"; called with the problem's own parameters by name
    tasks: tuple[TaskInfo, ...]  # empty where ``tasks_from`` describes them
    # The parameter that decides the tasks: of type int, so many of ``tasks`` from the first on; of type tasks, those.
    tasks_from: str | None = None
    parameters: tuple[Parameter, ...]  # the problem's own and the training loop's
    problem_parameters: tuple[str, ...]  # the names among them that the factory takes
    task_parameters: tuple[Parameter, ...] = TASK_PARAMETERS
    default_objective: str = "val/normalized_loss"
    # "package.module:callable"; called with the document of a stored codec (``trainables.protocol.TableCodec``) and, by
    # name, the problem's own parameters; gives the codec again. None: a model cannot be asked about rows of a table.
    codec: str | None = None

    def parameter(self, name: str) -> Parameter | None:
        """The parameter of that name, or None. That of a task is found whether there is such a task or not, since only
        a spec's other parameters tell which tasks there are (``parameters_for``).
        """
        own = next((p for p in self.parameters if p.name == name), None)
        kind, _, task = name.partition("/")
        return own or next((p.for_task(task) for p in self.task_parameters if task and p.name == kind), None)

    def parameters_for(self, params: Mapping[str, ParameterValue]) -> tuple[Parameter, ...]:
        """Every parameter of a problem with those parameters, which are valid ones: its own, then its tasks'."""
        of_tasks = (p.for_task(task.name) for p in self.task_parameters for task in self.tasks_for(params))
        return (*self.parameters, *of_tasks)

    @model_validator(mode="after")
    def _has_tasks(self) -> Self:
        source = None if self.tasks_from is None else self.parameter(self.tasks_from)
        if self.tasks_from is not None and (source is None or source.type not in ("int", "tasks")):
            raise ValueError(f"tasks_from names {self.tasks_from!r}, which is no parameter of type int or tasks")
        if not self.tasks and (source is None or source.type != "tasks"):
            raise ValueError("a trainable has at least one task")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric key that a trial with the default parameters reports on the validation split."""
        return self.metrics_for({})

    def tasks_for(self, params: Mapping[str, ParameterValue]) -> tuple[TaskInfo, ...]:
        """The tasks of a problem with those parameters, which are valid ones; missing ones take their default."""
        if self.tasks_from is None:
            return self.tasks
        source = params.get(self.tasks_from, self.defaults().get(self.tasks_from, {}))
        if isinstance(source, int):
            return self.tasks[:source]
        assert isinstance(source, dict)
        return described_tasks(source)

    def metrics_for(self, params: Mapping[str, ParameterValue]) -> tuple[str, ...]:
        """Every metric key that a trial with those parameters reports on the validation split."""
        tasks = self.tasks_for(params)
        per_task = [f"val/loss/{task.name}" for task in tasks]
        per_task += [f"val/{metric}/{task.name}" for task in tasks for metric in task.metrics]
        return (*per_task, "val/normalized_loss")

    def defaults(self) -> dict[str, ParameterValue]:
        """The default of each parameter that has one, by name."""
        return {p.name: p.default for p in self.parameters if p.default is not None}


def described_tasks(descriptions: Mapping[str, Any]) -> tuple[TaskInfo, ...]:
    """The tasks that a valid parameter of type ``tasks`` describes.

    In the order of their names: the order of an object's keys does not survive every store, and a checkpoint's tasks
    must be those of the trial.
    """
    kinds = {name: TaskKind(descriptions[name]["kind"]) for name in sorted(descriptions)}
    return tuple(TaskInfo(name=name, kind=kind, metrics=METRICS_OF_KIND[kind]) for name, kind in kinds.items())


BALANCERS: tuple[str, ...] = ("gradnorm", "equal", "static", "inverse_initial_loss", "single_task")

TRAINING_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(name="steps", type="int", default=1500, low=1, high=10_000_000, searchable=False,
              description="Optimiser steps of a trial."),
    Parameter(name="batch_size", type="int", default=256, low=1, high=1_000_000,
              description="Rows of a training batch."),
    Parameter(name="lr", type="float", default=1e-3, low=0.0, exclusive_low=True, high=100.0, scalar=True,
              description="Learning rate of the network's Adam."),
    Parameter(name="weight_decay", type="float", default=0.0, low=0.0, high=10.0, scalar=True,
              description="Decoupled weight decay of the network (AdamW); 0 is plain Adam."),
    Parameter(name="balancer", type="categorical", default="gradnorm", choices=BALANCERS, scalar=True,
              description="The rule that sets the task weights of the search trials."),
    Parameter(name="alpha", type="float", default=1.5, low=-10.0, high=10.0, scalar=True, used_by=("gradnorm",),
              description="GradNorm's asymmetry: how strongly a task that trains slowly is pulled back."),
    Parameter(name="weight_lr", type="float", default=0.025, low=0.0, exclusive_low=True, high=10.0, scalar=True,
              used_by=("gradnorm",), description="Learning rate of the task weights' own Adam (the paper uses 0.025)."),
    Parameter(name="initial_loss", type="categorical", default="first_batch", searchable=False,
              choices=("first_batch", "mean_of_batches", "log_classes"), used_by=("gradnorm", "inverse_initial_loss"),
              description="Where L_i(0) comes from: the first batch, the mean of the first initial_loss_batches, or "
                          "log C of a C-class cross-entropy (regression tasks then take the first batch)."),
    Parameter(name="initial_loss_batches", type="int", default=10, low=1, high=100_000, searchable=False,
              used_by=("gradnorm", "inverse_initial_loss"),
              description="Batches that L_i(0) is the mean of, with initial_loss: mean_of_batches."),
    Parameter(name="stuck_reports", type="int", default=3, low=0, high=100_000, searchable=False,
              used_by=("gradnorm",),
              description="A task counts as stuck when its weight has climbed over so many reports while its loss did"
                          " not fall by 1 %: metric stuck/<task>, and an event; 0: never."),
    Parameter(name="stuck_weight_cap", type="float", default=0.0, low=0.0, high=1e6, scalar=True,
              used_by=("gradnorm",),
              description="Largest weight of a task while it is stuck (all weights sum to the number of tasks);"
                          " 0: none."),
    Parameter(name="micro_batches", type="int", default=1, low=1, high=100_000, searchable=False,
              description="Parts in which a batch is gone through, to save memory; the step is that of the whole"
                          " batch. Balancers whose weights follow from the step itself save less."),
    Parameter(name="clip_norm", type="float", default=0.0, low=0.0, high=1e12, scalar=True,
              description="Largest norm of the network's gradient at a step, after weighting; 0: as it is."),
    Parameter(name="autocast", type="categorical", default="none", choices=("none", "bfloat16"), searchable=False,
              description="Type of the forward pass's large products; parameters, losses and gradient norms keep"
                          " dtype."),
    Parameter(name="seed", type="int", default=0, low=0, high=2**31 - 1, scalar=True,
              description="Seed of the initial weights and of the order of the data."),
    Parameter(name="report_every", type="int", default=0, low=0, high=10_000_000, searchable=False,
              description="Steps between reports; 0: a twenty-fifth of steps."),
    Parameter(name="checkpoint_every", type="int", default=0, low=0, high=10_000_000, searchable=False,
              description="Steps between checkpoints, rounded up to a report; 0: a fifth of steps."
                          " The last step always has one."),
    Parameter(name="dtype", type="categorical", default="float32", choices=("float32", "float64"), searchable=False,
              description="Floating-point type of data and network."),
)  # fmt: skip


def load_catalog() -> dict[str, Trainable]:
    """Every trainable by name: the built-in ones, then those that installed packages name as entry points.

    An entry point that cannot be loaded, is no :class:`Trainable` or takes a name that is taken already is left out,
    and a warning names it: one broken package must not take the others' problems away.
    """
    catalog = {trainable.name: trainable for trainable in builtin_trainables()}
    for entry in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name):
        try:
            trainable = entry.load()
        except Exception as error:  # noqa: BLE001  # it runs another package's code
            logger.warning(
                "entry point %s = %s cannot be loaded: %s: %s", entry.name, entry.value, type(error).__name__, error
            )
            continue
        if not isinstance(trainable, Trainable):
            logger.warning(
                "entry point %s = %s is not a Trainable but %s", entry.name, entry.value, type(trainable).__name__
            )
        elif trainable.name in catalog:
            logger.warning("entry point %s = %s: the name %r is taken", entry.name, entry.value, trainable.name)
        else:
            catalog[trainable.name] = trainable
    return catalog


def load_problem(trainable: str | Trainable, params: Mapping[str, ParameterValue]) -> Problem:
    """Import a problem's code and build it with its own parameters among ``params``; missing ones take their default.

    Raises:
        KeyError: there is no trainable of that name, or a parameter without a default is missing.
        ImportError, AttributeError: the factory is not where the catalogue says.
    """
    if isinstance(trainable, str):
        trainable = find_trainable(trainable)
    return _load_code(trainable.factory)(**_own_parameters(trainable, params))


def load_codec(
    trainable: Trainable, params: Mapping[str, ParameterValue], document: Mapping[str, Any]
) -> TableCodec | None:
    """The codec whose document that is; needs no data. None: the problem has none.

    Raises:
        KeyError: a parameter without a default is missing.
        ImportError, AttributeError: the code is not where the catalogue says.
        ValueError: the document cannot be read.
    """
    if trainable.codec is None:
        return None
    return _load_code(trainable.codec)(document, **_own_parameters(trainable, params))


def find_trainable(name: str) -> Trainable:
    """The trainable of that name.

    Raises:
        KeyError: there is none.
    """
    catalog = load_catalog()
    if name not in catalog:
        raise KeyError(f"unknown trainable {name!r}; there are {', '.join(sorted(catalog))}")
    return catalog[name]


def _load_code(place: str) -> Any:
    module_name, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module_name), attribute)


def _own_parameters(trainable: Trainable, params: Mapping[str, ParameterValue]) -> Mapping[str, ParameterValue]:
    values = {**trainable.defaults(), **params}
    if missing := [name for name in trainable.problem_parameters if name not in values]:
        raise KeyError(f"{trainable.name} needs a value for {', '.join(missing)}")
    return {name: values[name] for name in trainable.problem_parameters}


def builtin_trainables() -> tuple[Trainable, ...]:
    """The trainables that ship with the package."""
    return (_census_income(), _digits(), _tabular(), _toy_regression())


def _census_income() -> Trainable:
    own = (
        _hidden([128, 64]),
        _embedding_dim(),
        _dropout(),
    )
    return Trainable(
        name="census_income",
        summary="Census-Income (KDD), 20,000 rows: income above 50k, never married, weeks worked (in weeks).",
        factory="trainables.problems.census_income:census_income",
        codec="trainables.problems.table_codec:column_codec",
        tasks=(
            TaskInfo(name="income", kind=TaskKind.BINARY, metrics=("auc", "accuracy")),
            TaskInfo(name="never_married", kind=TaskKind.BINARY, metrics=("auc", "accuracy")),
            TaskInfo(name="weeks_worked", kind=TaskKind.REGRESSION, metrics=("rmse", "mae")),
        ),
        parameters=(*own, *TRAINING_PARAMETERS),
        problem_parameters=tuple(parameter.name for parameter in own),
    )


def _digits() -> Trainable:
    own = (_hidden([64, 32]), _dropout())
    return Trainable(
        name="digits",
        summary="Handwritten digits from their upper halves, 1,797 rows: digit, lower half's pixels, odd or even.",
        factory="trainables.problems.digits:digits",
        tasks=(
            TaskInfo(name="digit", kind=TaskKind.MULTICLASS, metrics=("accuracy",)),
            TaskInfo(name="lower_half", kind=TaskKind.REGRESSION, metrics=("rmse",)),
            TaskInfo(name="odd", kind=TaskKind.BINARY, metrics=("auc", "accuracy")),
        ),
        parameters=(*own, *TRAINING_PARAMETERS),
        problem_parameters=tuple(parameter.name for parameter in own),
    )


def _tabular() -> Trainable:
    own = (
        Parameter(name="data", type="string", searchable=False,
                  description="A .csv, .csv.gz or .parquet file inside one of the folders of SWEEP_DATA_ROOTS; a"
                              " relative path is looked up in them."),
        Parameter(name="tasks", type="tasks", searchable=False,
                  description="Tasks by name: {kind: binary, multiclass, regression or count, column: the task's name"
                              " if not given, positive: the value that is 1 in a binary task, any other being 0}."),
        Parameter(name="drop", type="string_list", default=[], searchable=False,
                  description="Columns that are no inputs. Those of the tasks never are."),
        Parameter(name="categorical", type="string_list", default=[], searchable=False,
                  description="Columns of numbers that stand for categories, such as postal codes. Texts always do."),
        Parameter(name="split", type="categorical", default="random", choices=("random", "in_order", "column"),
                  searchable=False,
                  description="random: 60, 20, 20 % of the rows by a fixed permutation; in_order: the first 60 % train,"
                              " the last 20 % test; column: as split_column says, row by row."),
        Parameter(name="split_column", type="string", default="", searchable=False,
                  description="With split: column, the column that says train, validation or test."),
        Parameter(name="missing_targets", type="categorical", default="refuse", choices=("refuse", "drop_rows"),
                  searchable=False, description="What becomes of rows in which a task's column is empty."),
        _hidden([128, 64]),
        _embedding_dim(),
        _dropout(),
    )  # fmt: skip
    return Trainable(
        name="tabular",
        summary="A table of your own, CSV or Parquet: each task is a column.",
        factory="trainables.problems.own_table:tabular",
        codec="trainables.problems.table_codec:column_codec",
        tasks=(),
        tasks_from="tasks",
        parameters=(*own, *TRAINING_PARAMETERS),
        problem_parameters=tuple(parameter.name for parameter in own),
    )


def _toy_regression() -> Trainable:
    own = (
        Parameter(name="num_tasks", type="int", default=2, low=2, high=10, searchable=False,
                  description="Functions to learn: 2 of the scales 1 and 100; more, of scales drawn once for all."),
        Parameter(name="spread", type="categorical", default="std", choices=("std", "variance"), searchable=False,
                  description="What the 10 of B ~ N(0, 10) and the 3.5 of eps_i ~ N(0, 3.5) are."),
        Parameter(name="rows", type="int", default=20_000, low=100, high=100_000, searchable=False,
                  description="Rows generated, of all three splits together."),
        Parameter(name="data_seed", type="int", default=0, low=0, high=2**31 - 1, searchable=False,
                  description="Seed of the functions and the rows; a trial's own seed does not touch them."),
        _hidden([100, 100, 100, 100]),
        _dropout(),
    )  # fmt: skip
    return Trainable(
        name="toy_regression",
        summary="The toy of the GradNorm paper, section 4: functions of one input that differ in scale.",
        factory="trainables.problems.toy_regression:toy_regression",
        tasks=tuple(TaskInfo(name=f"f{i}", kind=TaskKind.REGRESSION, metrics=("rmse",)) for i in range(1, 11)),
        tasks_from="num_tasks",
        parameters=(*own, *TRAINING_PARAMETERS),
        problem_parameters=tuple(parameter.name for parameter in own),
    )


def _hidden(default: list[int]) -> Parameter:
    return Parameter(name="hidden", type="int_list", default=default, low=1, high=65_536, searchable=False,
                     description="Widths of the shared layers; gradients are compared at the last.")  # fmt: skip


def _dropout() -> Parameter:
    return Parameter(name="dropout", type="float", default=0.0, low=0.0, high=0.95,
                     description="Share of a layer's outputs set to 0 in training.")  # fmt: skip


def _embedding_dim() -> Parameter:
    return Parameter(name="embedding_dim", type="int", default=4, low=1, high=256,
                     description="Width of each categorical column's embedding.")  # fmt: skip
