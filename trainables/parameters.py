"""What may be set on a trial: the training loop's own parameters, and those that each task has for itself.

Imports no torch, as the catalogue, which lists these parameters beside those of its problems.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

ParameterValue: TypeAlias = bool | int | float | str | list[int] | list[str] | dict[str, dict[str, str]]


class Parameter(BaseModel):
    """One parameter of a trainable: what may be fixed in ``params`` and, if searchable, searched in ``space``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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

BALANCERS: tuple[str, ...] = (
    "gradnorm",
    "equal",
    "static",
    "inverse_initial_loss",
    "single_task",
    "uncertainty",
    "dwa",
    "rlw",
    "log_sum",
    "geometric",
    "famo",
    "mgda",
    "pcgrad",
    "cagrad",
    "imtl_g",
    "upgrad",
    "nash_mtl",
)

TRAINING_PARAMETERS: tuple[Parameter, ...] = (
    Parameter(name="steps", type="int", default=1500, low=1, high=10_000_000, searchable=False,
              description="Optimiser steps of a trial."),
    Parameter(name="batch_size", type="int", default=256, low=1, high=1_000_000,
              description="Rows of a training batch."),
    Parameter(name="lr", type="float", default=1e-3, low=0.0, exclusive_low=True, high=100.0, scalar=True,
              description="Learning rate of the network's Adam."),
    Parameter(name="weight_decay", type="float", default=0.0, low=0.0, high=10.0, scalar=True,
              description="Decoupled weight decay of the network (AdamW); 0 is plain Adam."),
    Parameter(name="beta1", type="float", default=0.9, low=0.0, high=0.999999, scalar=True,
              description="Decay of the network's Adam's mean of gradients."),
    Parameter(name="beta2", type="float", default=0.999, low=0.0, high=0.999999, scalar=True,
              description="Decay of the network's Adam's mean of squared gradients."),
    Parameter(name="balancer", type="categorical", default="gradnorm", choices=BALANCERS, scalar=True,
              description="The rule that sets the task weights of the search trials."),
    Parameter(name="alpha", type="float", default=1.5, low=-10.0, high=10.0, scalar=True, used_by=("gradnorm",),
              description="GradNorm's asymmetry: how strongly a task that trains slowly is pulled back."),
    Parameter(name="weight_lr", type="float", default=0.025, low=0.0, exclusive_low=True, high=10.0, scalar=True,
              used_by=("gradnorm", "uncertainty", "famo"),
              description="Learning rate of the task weights' own Adam (GradNorm's paper and FAMO's use 0.025)."),
    Parameter(name="dwa_window", type="int", default=100, low=1, high=10_000_000, used_by=("dwa",),
              description="Dynamic weight average: steps between two changes of the weights, over which the losses are"
                          " averaged (the paper: an epoch)."),
    Parameter(name="dwa_temperature", type="float", default=2.0, low=0.01, high=1e3, scalar=True, used_by=("dwa",),
              description="Dynamic weight average: the larger, the closer the weights are to each other."),
    Parameter(name="famo_decay", type="float", default=1e-3, low=0.0, high=10.0, scalar=True, used_by=("famo",),
              description="FAMO: how strongly the logits of the weights are drawn to 0, which is equal shares."),
    Parameter(name="cagrad_c", type="float", default=0.5, low=0.0, high=1e3, scalar=True, used_by=("cagrad",),
              description="CAGrad: how far a step may be from the average gradient, in units of its norm; 0: not."),
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
