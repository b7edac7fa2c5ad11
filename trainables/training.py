"""The public doors to training: lane after lane, or many lanes at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainables.engine.eager import train_eagerly
from trainables.engine.fused import FusedPack, PackMemoryError, Refill
from trainables.engine.lanes_at_once import find_lanes_at_once
from trainables.protocol import BuiltBy, Lane, Problem, Reporter
from trainables.ranks import ONE_PROCESS, Ranks
from trainables.seeding import default_device
from trainables.stacked.errors import FailedTogetherError, NotStackableError

__all__ = ["FailedTogetherError", "NotStackableError", "PackMemoryError", "lanes_at_once", "train", "train_together"]


def train(
    problem: Problem,
    lanes: Sequence[Lane],
    report: Reporter,
    *,
    device: torch.device | None = None,
    ranks: Ranks = ONE_PROCESS,
    built_by: BuiltBy | None = None,
) -> None:
    """Train every lane of a pack to its end, one after another.

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
        built_by: the problem that builds a lane's network, by the lane's own parameters; asked once a lane, before
            anything is seeded, and not kept, since it may hold data of its own. None: ``problem``. Tasks and data are
            ``problem``'s; what it raises is the lane's ending.

    Raises:
        ValueError: two lanes have the same key.
        Exception: with several ranks, whatever went wrong on this one alone: the others wait for it in vain.
    """
    _refuse_equal_keys(lanes)
    where = device if device is not None else default_device()
    train_eagerly(problem, lanes, report, device=where, ranks=ranks, built_by=built_by)


def train_together(
    problem: Problem,
    lanes: Sequence[Lane],
    report: Reporter,
    *,
    device: torch.device | None = None,
    places: int = 0,
    refill: Refill = lambda free: (),
    built_by: BuiltBy | None = None,
) -> None:
    """Train lanes at once, as one batched network, each to its end; what each learns is what it would learn alone.

    The lanes may differ in numbers: seed, learning rates, decay, balancer with all that belongs to it, share of
    dropout (by ``built_by``). They report as for :func:`train`, those of a step together, and end for themselves: the
    others close ranks at that report, and go on as if nobody had been there.

    Args:
        problem, report, device, built_by: as for :func:`train`.
        lanes: with distinct keys, at least one.
        places: lanes that may be trained at once; 0 is as many as ``lanes``.
        refill: asked for lanes where places are free, before the first step and at reports; they start, or go on from
            their checkpoints, beside the others. A pack in which nobody is left asks no more.

    Raises:
        ValueError: two lanes have the same key, or there is none.
        NotStackableError: these lanes cannot be trained as one, as far as can be seen before the first step. Nobody has
            been told of an end of those that were in training: they can go on alone from their last checkpoints.
        PackMemoryError: there is not enough memory for so many; as before, fewer can go on.
        FailedTogetherError: a step of several lanes failed, by the fault of one of them perhaps; as before, fewer can
            go on, and a lane that is alone ends by its own fault.
    """
    _refuse_equal_keys(lanes)
    if not lanes:
        raise ValueError("there is no lane to train")
    where = device if device is not None else default_device()
    pack = FusedPack(problem, report, device=where, places=places or len(lanes), refill=refill, built_by=built_by)
    pack.run(lanes)


def lanes_at_once(
    problem: Problem, lane: Lane, *, most: int, is_measured: bool, device: torch.device | None = None
) -> int:
    """Find out how many lanes like this one can and should be trained at once, with lanes made for it: nothing is
    trained, and torch's global generators are left as they are.

    Args:
        problem, device: as for :func:`train`.
        lane: the lanes to come differ from it in what :func:`train_together` allows.
        most: at least 1; 1 is the answer at once.
        is_measured: False: ``most``, whether it pays or not; True: as many as make each lane cheaper and fit into the
            memory.

    Raises:
        NotStackableError: they cannot be trained together; says why.
        Exception: what the problem's own code raises.
    """
    if most == 1:
        return 1
    return find_lanes_at_once(
        problem, lane, most=most, is_measured=is_measured, device=device if device is not None else default_device()
    )


def _refuse_equal_keys(lanes: Sequence[Lane]) -> None:
    keys = [lane.key for lane in lanes]
    if len(set(keys)) != len(keys):
        raise ValueError(f"the keys of a pack's lanes must differ: {keys}")
