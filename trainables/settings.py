"""A lane's parameters as the training loop reads them: typed, with the catalogue's defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from trainables.catalog import TASK_PARAMETERS, TRAINING_PARAMETERS, ParameterValue, task_parameter_name
from trainables.protocol import Task

REPORTS_BY_DEFAULT = 25  # reports of a lane with report_every 0
CHECKPOINTS_BY_DEFAULT = 5  # checkpoints of a lane with checkpoint_every 0


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The training loop's parameters (``TRAINING_PARAMETERS`` says what each means), ``report_every`` resolved."""

    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    beta1: float
    beta2: float
    alpha: float
    weight_lr: float
    dwa_window: int
    dwa_temperature: float
    famo_decay: float
    cagrad_c: float
    initial_loss: str
    initial_loss_batches: int
    stuck_reports: int
    stuck_weight_cap: float
    micro_batches: int
    clip_norm: float
    autocast: str
    seed: int
    report_every: int
    checkpoint_every: int
    dtype: str
    # By name and task, as far as they are given: {"weight": {"income": 2.0}}.
    task_values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def from_params(cls, params: Mapping[str, ParameterValue]) -> TrainingSettings:
        """Read a lane's parameters; those of the problem are passed over, missing ones take their default."""
        values: dict[str, Any] = {parameter.name: parameter.default for parameter in TRAINING_PARAMETERS}
        values |= {name: value for name, value in params.items() if name in values}
        values["report_every"] = values["report_every"] or max(1, math.ceil(values["steps"] / REPORTS_BY_DEFAULT))
        values["checkpoint_every"] = values["checkpoint_every"] or math.ceil(values["steps"] / CHECKPOINTS_BY_DEFAULT)
        values["task_values"] = {parameter.name: _of_tasks(parameter.name, params) for parameter in TASK_PARAMETERS}
        return cls(**{field.name: values[field.name] for field in fields(cls)})

    def of_tasks(self, name: str, tasks: Sequence[Task]) -> list[float]:
        """The values of a parameter that each task has for itself (``TASK_PARAMETERS``), in the tasks' order."""
        default = next(parameter.default for parameter in TASK_PARAMETERS if parameter.name == name)
        assert isinstance(default, float), name
        given = self.task_values.get(name, {})
        return [given.get(task.name, default) for task in tasks]

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as torch names it."""
        return {"float32": torch.float32, "float64": torch.float64}[self.dtype]

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """``autocast`` as torch names it; None: off."""
        return {"none": None, "bfloat16": torch.bfloat16}[self.autocast]

    def next_report(self, step: int) -> int:
        """The step of the first report after ``step``: a multiple of report_every, or the last step."""
        return min(self.steps, (step // self.report_every + 1) * self.report_every)

    def is_checkpoint_due(self, step: int) -> bool:
        """Whether the report at ``step`` carries a checkpoint: the first report at or after a multiple of
        checkpoint_every.

        A function of the step alone, so that a resumed lane keeps the same rhythm.
        """
        if step >= self.steps:
            return True
        previous_report = (step - 1) // self.report_every * self.report_every
        return step // self.checkpoint_every > previous_report // self.checkpoint_every


def _of_tasks(name: str, params: Mapping[str, ParameterValue]) -> Mapping[str, float]:
    prefix = task_parameter_name(name, "")
    values = {key.removeprefix(prefix): value for key, value in params.items() if key.startswith(prefix)}
    return {task: float(value) for task, value in values.items() if isinstance(value, int | float)}
