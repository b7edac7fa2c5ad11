"""What a model reaches on a split, against the best that a constant can do.

Shapes: B rows, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainables.catalog import TaskKind
from trainables.protocol import Problem, Split, Task

# Rows of one forward pass of an evaluation. So many stay in a processor's cache, which makes them a quarter faster than
# all rows at once, and bound the memory that it takes.
CHUNK_ROWS = 2048


def constant_output(task: Task, train_targets: Tensor) -> Tensor:
    """The output of the best constant predictor, fitted on the training split; one row, without the rows' dimension.

    Binary: the logit of the base rate. Multiclass: the log class frequencies. Regression: the mean. Count: its
    logarithm. A rate of 0 is taken as a tenth of a row, so that a class the training split lacks costs much but not
    infinitely much elsewhere.
    """
    if task.constant is not None:
        return task.constant(train_targets)
    smallest = 0.1 / len(train_targets)
    if task.kind == TaskKind.BINARY:
        return torch.logit(train_targets.mean(dim=0).clamp(smallest, 1 - smallest))
    if task.kind == TaskKind.MULTICLASS:
        counts = torch.bincount(train_targets.flatten(), minlength=task.num_classes)
        return (counts.to(torch.get_default_dtype()) / counts.sum()).clamp(min=smallest).log()
    mean = train_targets.mean(dim=0)
    return mean.clamp(min=smallest).log() if task.kind == TaskKind.COUNT else mean


@torch.no_grad()
def constant_losses(problem: Problem, split: Split) -> Tensor:
    """Loss of each task's best constant predictor on ``split``, shape (T,).

    Raises:
        ValueError: one of them is not positive, so it cannot be the unit of a loss; names the task.
    """
    losses = []
    for task in problem.tasks:
        target = split.targets[task.name]
        row = constant_output(task, problem.train.targets[task.name])
        dtype = target.dtype if target.is_floating_point() else row.dtype
        losses.append(task.loss(row.to(dtype).expand(len(target), *row.shape), target))
    losses_T = torch.stack([loss.double() for loss in losses])
    for task, value in zip(problem.tasks, losses_T.tolist(), strict=True):
        if not value > 0:
            raise ValueError(
                f"task {task.name!r}: the best constant predictor has loss {value:g}, which cannot be "
                f"the unit of normalized_loss; is the target the same in every row?"
            )
    return losses_T


def evaluate(
    model: nn.Module, tasks: Sequence[Task], split: Split, constant_losses_T: Tensor, prefix: str
) -> dict[str, float]:
    """Losses and metrics of a model on a split, in evaluation mode; the mode is put back.

    Keys: ``<prefix>/loss/<task>``, ``<prefix>/<metric>/<task>``, ``<prefix>/normalized_loss`` (the mean over tasks of
    loss ÷ constant predictor's loss: 1 means that nothing was learnt). Waits for the device once.
    """
    with evaluation_mode(model), torch.no_grad():
        outputs = _outputs(model, split)
        values: dict[str, Tensor] = {}
        for task in tasks:
            output, target = outputs[task.name], split.targets[task.name]
            values[f"{prefix}/loss/{task.name}"] = task.loss(output, target)
            for name, metric in task.metrics.items():
                values[f"{prefix}/{name}/{task.name}"] = metric(output, target)
        losses_T = torch.stack([values[f"{prefix}/loss/{task.name}"].double() for task in tasks])
        values[f"{prefix}/normalized_loss"] = (losses_T / constant_losses_T).mean()
    return to_floats(values)


def to_floats(values: dict[str, Tensor]) -> dict[str, float]:
    """Scalars by key, brought to the host in one transfer."""
    if not values:
        return {}
    joined = torch.stack([value.detach().double().reshape(()) for value in values.values()])
    return dict(zip(values, joined.tolist(), strict=True))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, the mode that each module was in afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _outputs(model: nn.Module, split: Split) -> dict[str, Tensor]:
    chunks: list[dict[str, Tensor]] = [
        model(*[tensor[start : start + CHUNK_ROWS] for tensor in split.inputs])
        for start in range(0, len(split), CHUNK_ROWS)
    ]
    return {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
