"""What a conductor and the worker that trains a pack say to each other. Plain values: they travel between processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from sweep_service.domain.logs import LogLine
from sweep_service.domain.states import TrialEnding


@dataclass(frozen=True, kw_only=True)
class LaneOrder:
    """One trial to train, or to go on training."""

    trial_id: str
    balancer: str
    params: Mapping[str, Any]  # complete, the problem's and the training loop's
    evaluate_test: bool  # measure the test split at the end
    checkpoint_dir: str  # this attempt's own: nothing else ever writes there
    resume_from: str | None  # checkpoint to go on from


@dataclass(frozen=True, kw_only=True)
class PackOrder:
    """The trials that one worker trains together."""

    trainable: str
    lanes: tuple[LaneOrder, ...]  # to begin with; empty: nothing to do any more
    places: int  # lanes that it may train at once, those of `lanes` among them
    is_settled: bool  # False: whether they can be trained together is to be found out, and told (`settle`)
    is_measured: bool  # where it is to be found out: also how many of those places are worth it
    num_threads: int  # of the CPU, for torch
    gpus: float  # 0: train on the CPU, whatever the node has


@dataclass(frozen=True, kw_only=True)
class LaneMessage:
    """What a lane says at a step."""

    trial_id: str
    step: int
    metrics: Mapping[str, float]
    checkpoint: str | None = None  # written and complete before it is named here
    ending: TrialEnding | None = None  # set on the last message alone
    rests: bool = False  # the last message of this lane: it has left the pack, and may go on from its checkpoint
    message: str = ""
    traceback: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)  # with the last message


class Departure(StrEnum):
    """Why a lane is to leave its pack at a report. A conductor's answer has one for each lane that is to."""

    ENDED = "ended"  # its trial has ended
    RESTS = "rests"  # it leaves a checkpoint behind, to go on another time


@dataclass(frozen=True, kw_only=True)
class LaneLines:
    """What a lane's code has printed and logged. A worker sends lines again until they have arrived."""

    trial_id: str
    first: int  # lines of the lane in this pack before these, whether they have been sent or were dropped
    lines: tuple[LogLine, ...]
