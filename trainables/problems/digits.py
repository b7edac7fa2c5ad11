"""Handwritten digits from their upper halves: small enough for a test machine.

Data: scikit-learn's digits, 1,797 images of 8 × 8 pixels (Optical Recognition of Handwritten Digits, UCI). A model sees
the upper four rows and answers what digit it is, what the lower four rows look like, and whether it is odd.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.metrics import auc, binary_accuracy, multiclass_accuracy, rmse
from trainables.problems.tabular import InMemoryProblem, in_memory_problem, shared_bottom_model
from trainables.protocol import Task

NUM_PIXELS = 32  # of either half
NUM_DIGITS = 10
BRIGHTEST = 16.0  # pixels are counts from 0 to 16; scaled to 0 … 1

TASKS = (
    Task(
        name="digit",
        kind=TaskKind.MULTICLASS,
        loss=functional.cross_entropy,
        metrics={"accuracy": multiclass_accuracy},
        num_classes=NUM_DIGITS,
    ),
    Task(name="lower_half", kind=TaskKind.REGRESSION, loss=functional.mse_loss, metrics={"rmse": rmse}),
    Task(
        name="odd",
        kind=TaskKind.BINARY,
        loss=functional.binary_cross_entropy_with_logits,
        metrics={"auc": auc, "accuracy": binary_accuracy},
        num_classes=2,
    ),
)


def digits(*, hidden: Sequence[int] = (64, 32), dropout: float = 0.0) -> InMemoryProblem:
    """The problem. Its parameters are described in the catalogue."""
    inputs, targets = _load()
    return in_memory_problem(
        inputs,
        targets,
        tasks=TASKS,
        model=partial(
            shared_bottom_model,
            stem=nn.Identity(),
            stem_width=NUM_PIXELS,
            hidden=tuple(hidden),
            heads={"digit": NUM_DIGITS, "lower_half": NUM_PIXELS, "odd": 0},
            dropout=dropout,
        ),
    )


@functools.lru_cache(maxsize=1)
def _load() -> tuple[tuple[Tensor, ...], Mapping[str, Tensor]]:
    """Read once a process; never written to (splits are copies)."""
    from sklearn.datasets import load_digits  # takes a second to import, and only this problem needs it

    images, labels = load_digits(return_X_y=True)
    pixels = torch.tensor(images / BRIGHTEST, dtype=torch.float32)
    digit = torch.tensor(labels, dtype=torch.int64)
    targets = {"digit": digit, "lower_half": pixels[:, NUM_PIXELS:].clone(), "odd": (digit % 2).float()}
    return (pixels[:, :NUM_PIXELS].clone(),), targets
