"""The public door to training."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainables.engine.eager import train_eagerly
from trainables.protocol import Lane, Problem, Reporter
from trainables.ranks import ONE_PROCESS, Ranks
from trainables.seeding import default_device


def train(
    problem: Problem,
    lanes: Sequence[Lane],
    report: Reporter,
    *,
    device: torch.device | None = None,
    ranks: Ranks = ONE_PROCESS,
) -> None:
    """Train every lane of a pack to its end.

    Each lane reports at every multiple of its ``report_every`` and at its last step; its last report alone carries an
    ending. A lane whose key ``report`` answers with ends there: one more report of the same step tells so
    (``LaneEnding.STOPPED``, no metrics). A lane that fails does not touch the others.

    Args:
        problem: data, model and tasks; it is moved to the device and the type that each lane asks for.
        lanes: with distinct keys; may be empty.
        report: called with the reports of a step. Whatever it raises passes through and ends the training.
        device: where to train; None is the first GPU, or the CPU.
        ranks: the processes that train each lane together. All of them call this with the same problem and lanes, and
            each takes its part of every batch: the lane learns what it would learn in one process, but for what a model
            draws at random or normalises over a batch in training. Rank 0 alone reports.

    Raises:
        ValueError: two lanes have the same key.
        Exception: with several ranks, whatever went wrong on this one alone: the others wait for it in vain.
    """
    keys = [lane.key for lane in lanes]
    if len(set(keys)) != len(keys):
        raise ValueError(f"the keys of a pack's lanes must differ: {keys}")
    train_eagerly(problem, lanes, report, device=device if device is not None else default_device(), ranks=ranks)
