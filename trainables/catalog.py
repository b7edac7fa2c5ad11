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
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, model_validator

from trainables.parameters import BALANCERS as BALANCERS  # here for those who look for it in the catalogue
from trainables.parameters import TASK_PARAMETERS, TRAINING_PARAMETERS, Parameter, ParameterValue
from trainables.parameters import task_parameter_name as task_parameter_name

if TYPE_CHECKING:
    from trainables.protocol import Problem, TableCodec

ENTRY_POINT_GROUP = "sweep_service.trainables"

logger = logging.getLogger(__name__)


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


class TaskInfo(_Frozen):
    """What can be said of a task without its data."""

    name: str
    kind: TaskKind
    metrics: tuple[str, ...] = ()  # reported as val/<metric>/<task>


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
    # Why trials of it are trained one by one, as far as that is known without trying; empty: they can be trained
    # together, or it is not known. A pack finds out for itself before it trains.
    not_fused_because: str = ""

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
    return _load_code(trainable.factory)(**own_parameters(trainable, params))


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
    return _load_code(trainable.codec)(document, **own_parameters(trainable, params))


def own_parameters(trainable: Trainable, params: Mapping[str, ParameterValue]) -> Mapping[str, ParameterValue]:
    """What the trainable's factory is called with: its own parameters among ``params``, and their defaults.

    Raises:
        KeyError: one without a default is missing.
    """
    values = {**trainable.defaults(), **params}
    if missing := [name for name in trainable.problem_parameters if name not in values]:
        raise KeyError(f"{trainable.name} needs a value for {', '.join(missing)}")
    return {name: values[name] for name in trainable.problem_parameters}


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
    return Parameter(name="dropout", type="float", default=0.0, low=0.0, high=0.95, scalar=True,
                     description="Share of a layer's outputs set to 0 in training.")  # fmt: skip


def _embedding_dim() -> Parameter:
    return Parameter(name="embedding_dim", type="int", default=4, low=1, high=256,
                     description="Width of each categorical column's embedding.")  # fmt: skip
