"""What a problem is, and what a training run may say while it goes on.

Shapes, used in the names of tensors throughout ``trainables``: B rows of a batch, T tasks, N lanes, D parameters of the
shared layer, F features, C classes. ``losses_T`` has shape (T,).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import torch
from torch import Tensor, nn

from trainables.catalog import ParameterValue, TaskKind

if TYPE_CHECKING:
    import pandas as pd

    from trainables.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Task:
    """One loss of a problem.

    ``loss`` maps (output, target) to the mean loss over the batch, a scalar, always > 0 before training is perfect.
    ``metrics`` map (output, target) to a scalar. ``constant`` gives the output of the best constant predictor, fitted
    to the targets of the training split (one row, to be repeated): its loss on a split is the unit of
    ``normalized_loss``. Without it the kind decides: the logit of the base rate, the log class frequencies, the mean,
    the log mean count.
    """

    name: str
    kind: TaskKind
    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)
    num_classes: int = 0  # 0: not a classification task
    constant: Callable[[Tensor], Tensor] | None = None  # training targets (rows, ...) -> output of one row


@dataclass(frozen=True, kw_only=True)
class Split:
    """A part of the data, whole in memory: what a model takes and, for each task, what it should answer."""

    inputs: tuple[Tensor, ...]  # each (rows, ...); passed to the model's trunk in this order
    targets: Mapping[str, Tensor]  # task name -> (rows, ...)

    def __len__(self) -> int:
        return len(self.inputs[0])

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Split:
        """The same rows on that device, floating-point tensors in that type, the others as they are."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device=device, dtype=dtype) if tensor.is_floating_point() else tensor.to(device=device)

        return Split(
            inputs=tuple(moved(tensor) for tensor in self.inputs),
            targets={name: moved(tensor) for name, tensor in self.targets.items()},
        )


class MultiTaskModel(nn.Module):
    """A trunk, the last layer that all tasks share, and one head a task.

    ``shared_layer`` is W in the GradNorm paper: its parameters are where the gradients of the tasks are compared. The
    trunk ends at h, the shared layer's input, so that each task is backpropagated only down to (W, h, its own head).
    """

    def __init__(self, *, trunk: nn.Module, shared_layer: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.shared_layer = shared_layer
        self.heads = nn.ModuleDict(heads)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Outputs by task name, each as the task's loss expects it."""
        shared = self.shared_layer(self.trunk(*inputs))
        return {name: head(shared.clone() if writes_in_place(head) else shared) for name, head in self.heads.items()}


def writes_in_place(head: nn.Module) -> bool:
    """Whether the head may change what it is given, which the other heads get too; such as by ReLU(inplace=True)."""
    return any(getattr(module, "inplace", False) for module in head.modules())


class SeparateModels(nn.Module):
    """One network a task, sharing nothing: the single-task baseline. Each has the head of its task alone."""

    def __init__(self, models: Mapping[str, MultiTaskModel]) -> None:
        super().__init__()
        self.models = nn.ModuleDict(models)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Outputs by task name, each from the task's own network."""
        return {name: model(*inputs)[name] for name, model in self.models.items()}

    def network(self, task: str) -> MultiTaskModel:
        """The network of one task."""
        model = self.models[task]
        assert isinstance(model, MultiTaskModel)
        return model


class Blueprint(Protocol):
    """What a network can be built from, without any data."""

    @property
    def tasks(self) -> Sequence[Task]: ...

    def build_model(self) -> MultiTaskModel:
        """A new model. Draws its initial weights from torch's global generator, which the caller has seeded."""
        ...


class TableCodec(Blueprint, Protocol):
    """What of a problem outlives its data: its network's shape, the way in from a raw table, the way out to answers.

    A problem that can be asked about rows of a table has one as its attribute ``codec``; it is stored beside the
    trained network as ``document()``, and read again by what ``Trainable.codec`` names.
    """

    def read(self, file: BinaryIO, form: str) -> pd.DataFrame:
        """The table in a file of the form ``.csv``, ``.csv.gz`` or ``.parquet``, read as the training file was.

        Raises:
            ValueError: it cannot be read; says why, and in which row.
        """
        ...

    def encode(self, table: pd.DataFrame) -> tuple[Tensor, ...]:
        """The rows as the network takes them, floating-point tensors in float32. The columns may come in any order,
        those of the targets may be absent, and others are passed over.

        Raises:
            ValueError: columns are missing, or a cell is not what its column was in training; names them.
        """
        ...

    def decode(self, outputs: Mapping[str, Tensor]) -> Mapping[str, Sequence[str] | Tensor]:
        """What people read of the network's outputs, by the name of a column, (rows,) each: labels and numbers."""
        ...

    def document(self) -> Mapping[str, Any]:
        """All that was learnt of the table, as JSON."""
        ...


class Problem(Blueprint, Protocol):
    """Data, model and tasks to train. What a spec names as ``trainable`` is a factory of these."""

    @property
    def train(self) -> Split: ...

    @property
    def validation(self) -> Split: ...

    @property
    def test(self) -> Split: ...

    @property
    def data_hash(self) -> str:
        """Hash of the data and its splits: two trials with the same one saw the same rows."""
        ...

    def to(self, *, device: torch.device, dtype: torch.dtype) -> Problem:
        """The same problem with its splits on that device, floating-point tensors in that type."""
        ...


class LaneEnding(StrEnum):
    """Why a lane trains no further; the reason is recorded, the trial's state follows from it."""

    COMPLETED = "completed"  # trained to its last step
    STOPPED = "stopped"  # the receiver of its report asked for it; it may leave a checkpoint, and go on at any time
    NON_FINITE = "non_finite"  # a loss or a metric became NaN or infinite
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"  # the user's code raised; traceback kept


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One trial as the engine sees it."""

    key: str  # opaque, unique in the pack; reports carry it
    balancer: str
    params: Mapping[str, ParameterValue]  # the training loop's parameters and the problem's, complete with defaults
    evaluate_test: bool = False  # measure the test split after the last step (only the comparison of seeds does)
    resume_from: Checkpoint | None = None


@dataclass(frozen=True, kw_only=True)
class LaneReport:
    """What a lane has to say at a step.

    ``metrics`` holds finite numbers only, with keys as MLflow shows them (``train/loss/<task>`` is the mean since the
    last report, ``weight/<task>`` the weight that the next step will use). ``ending`` is set on a lane's last report
    alone.
    """

    lane: str
    step: int  # optimiser steps done
    metrics: Mapping[str, float]
    checkpoint: Checkpoint | None = None
    # Of a lane that is stopped where it has made no checkpoint: makes one. To be called, if at all, before the receiver
    # of the report returns.
    leave_checkpoint: Callable[[], Checkpoint] | None = None
    ending: LaneEnding | None = None
    notices: Sequence[str] = ()  # what somebody should know of the training so far, a sentence each
    message: str = ""  # one line on the ending: names the task and the step where there is one
    traceback: str = ""


# Answers with the problem whose ``build_model`` builds a lane's network, by the lane's own parameters.
BuiltBy = Callable[[Lane], Problem]

# Receives the reports of a pack at a step, answers with the keys of the lanes that are to stop now.
Reporter = Callable[[Sequence[LaneReport]], Collection[str]]
