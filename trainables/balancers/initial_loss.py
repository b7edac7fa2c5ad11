"""L_i(t)/L_i(0), how far a task has come: where L_i(0) comes from, and the losses for which the ratio says nothing.

Shapes: T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor

from trainables.balancers.base import INITIAL_LOSSES, State
from trainables.protocol import Task
from trainables.settings import TrainingSettings

BATCHES_SEEN = "initial_loss_batches_seen"
BATCHES_NEEDED = "initial_loss_batches_needed_T"  # 0 for a task whose L(0) is given
LOWEST_LOSSES = "lowest_losses_T"  # of all steps so far; infinity before the first

_WAY_OUT = "shift the loss by a constant, or use the deviance in place of a log-likelihood without its constant"


class LossRatioError(ValueError):
    """What a balancer follows, such as L(t)/L(0), says nothing of a task, because of the sign of its loss."""


class InitialLossError(LossRatioError):
    """A task's initial loss is not positive."""


class NegativeLossError(LossRatioError):
    """A task's loss has been below zero."""


class InitialLossSource(StrEnum):
    """Where L_i(0) comes from."""

    FIRST_BATCH = "first_batch"
    MEAN_OF_BATCHES = "mean_of_batches"
    LOG_CLASSES = "log_classes"


@dataclass(frozen=True, kw_only=True)
class InitialLoss:
    """The rule that finds L_i(0): given beforehand, or the mean of the task's first batches.

    While those batches last, L_i(0) is the mean of the ones seen so far, this step's included; afterwards it is
    constant. With one batch it is the loss of the first step, as in the paper.
    """

    given: Sequence[float | None]  # per task; None: measure it
    num_batches: int = 1
    is_known: bool = False  # those batches are over: the state has it

    def __post_init__(self) -> None:
        for value in self.given:
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InitialLossError(f"a given initial loss must be positive and finite, not {value}")
        if self.num_batches < 1:
            raise ValueError(f"the initial loss needs at least one batch, not {self.num_batches}")

    @classmethod
    def from_settings(cls, settings: TrainingSettings, tasks: Sequence[Task]) -> InitialLoss:
        """The rule that a lane's parameters name: what is given for a task comes first. ``log_classes``: the loss of a
        uniform guess.
        """
        source = InitialLossSource(settings.initial_loss)
        by_classes = source is InitialLossSource.LOG_CLASSES
        guesses = [math.log(task.num_classes) if by_classes and task.num_classes > 1 else None for task in tasks]
        given = [value or guess for value, guess in zip(settings.of_tasks("initial_loss", tasks), guesses, strict=True)]
        is_mean = source is InitialLossSource.MEAN_OF_BATCHES
        return cls(given=given, num_batches=settings.initial_loss_batches if is_mean else 1)

    def initial_state(self, *, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The part of a balancer's state that this rule keeps. L(0) is 0 where nothing has been measured yet."""
        values = [0.0 if value is None else value for value in self.given]
        needed = [self.num_batches if value is None else 0 for value in self.given]
        return {
            INITIAL_LOSSES: torch.tensor(values, device=device, dtype=dtype),
            BATCHES_NEEDED: torch.tensor(needed, device=device, dtype=dtype),
            BATCHES_SEEN: torch.zeros((), device=device, dtype=dtype),
        }

    def known(self) -> InitialLoss:
        """The rule for the steps after those batches: five calls a step fewer, to find that nothing has changed."""
        return replace(self, is_known=True)

    def update(self, losses_T: Tensor, state: State) -> dict[str, Tensor]:
        """That part of the state once this step's losses are known."""
        if self.is_known:
            return {name: state[name] for name in (INITIAL_LOSSES, BATCHES_NEEDED, BATCHES_SEEN)}
        seen, known_T = state[BATCHES_SEEN] + 1, state[INITIAL_LOSSES]
        mean_T = known_T.lerp(losses_T, seen.reciprocal())
        return {
            # Not a share of 0 once L(0) is known: 0 times a loss that is NaN would be NaN.
            INITIAL_LOSSES: torch.where(seen <= state[BATCHES_NEEDED], mean_T, known_T),
            BATCHES_NEEDED: state[BATCHES_NEEDED],
            BATCHES_SEEN: seen,  # float32 counts to 16 million, and stands still there
        }


def lowest_losses(losses_T: Tensor, state: State) -> dict[str, Tensor]:
    """The lowest loss of each task, this step's included. Kept on the device, so that no step has to look at it."""
    # fmin passes over NaN: a negative loss soon makes NaN of everything, and must still be found as the cause.
    return {LOWEST_LOSSES: torch.fmin(state[LOWEST_LOSSES], losses_T)}


def check_initial_losses(state: State, task_names: Sequence[str]) -> None:
    """Refuse an initial loss that is not positive.

    Raises:
        InitialLossError: names the first such task. One that is not finite passes: it is told as that elsewhere.
    """
    for name, value in zip(task_names, state[INITIAL_LOSSES].tolist(), strict=True):
        if value <= 0 and math.isfinite(value):
            raise InitialLossError(
                f"task {name!r}: the initial loss L(0) is {value:g}, but L(t)/L(0) needs a loss that is always > 0; "
                f"{_WAY_OUT}"
            )


def check_lowest_losses(state: State, task_names: Sequence[str], *, what: str = "L(t)/L(0)") -> None:
    """Refuse a loss that has been negative at any step, which ``what`` cannot have. Exactly 0 is a task that is learnt.

    Raises:
        NegativeLossError: names the first such task. One that is not finite passes, as above.
    """
    for name, value in zip(task_names, state[LOWEST_LOSSES].tolist(), strict=True):
        if value < 0 and math.isfinite(value):
            raise NegativeLossError(
                f"task {name!r}: the loss fell to {value:g}, but {what} needs a loss that never falls below 0; "
                f"{_WAY_OUT}, or take a balancer that does not follow {what}"
            )
