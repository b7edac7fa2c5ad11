"""Why a pack was lost: what its trainer and its node say, or that they say nothing any more.

Tune tells no more than that it was. As seen with Ray 2.60: a process that dies on a live node is known as dead at once;
one on a node that dies is *unavailable* until Ray misses the node's signs of life, after some 14 s by default; but as
dead at once if it dies before its node, by however little.
"""

from __future__ import annotations

import time
from enum import Enum

import ray
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError

from sweep_service.execution.nodes import is_gone
from sweep_service.execution.trainers import TrainerHandle, end_trainers
from sweep_service.services.losses import Loss

ANSWER_TIMEOUT_S = 3.0  # for a trainer to say what it trains
NODE_FOLLOWS_S = 2.0  # for the node of a process that has died to go as well: a machine that ends ends its processes
DECIDED_S = 60.0  # for Ray to find out whether a process that cannot be reached has died, or its node has
_LOOK_INTERVAL_S = 0.2


class _Answer(Enum):
    TRAINS = "trains"  # that pack
    TRAINS_NOT = "trains not"  # that pack; something else, or nothing
    DIED = "died"
    KILLED = "killed"  # for want of memory
    NONE = "none"


def why_lost(trainer: TrainerHandle, *, conductor: str, pack: str) -> Loss:
    """End the trainer if it still trains that pack, and say why the pack was lost."""
    died_at, until = None, time.monotonic() + DECIDED_S
    while True:
        answer = _ask(trainer, conductor, pack)
        is_late = time.monotonic() >= until
        if answer is _Answer.TRAINS or (answer is _Answer.NONE and is_late):
            end_trainers({pack: trainer.actor}, conductor=conductor)
        if is_gone(trainer.node):
            return Loss.NODE
        if answer is _Answer.TRAINS or is_late:
            return Loss.PLACE
        if answer is _Answer.TRAINS_NOT:  # what it raised has ended the pack
            return Loss.WORKER
        if answer in (_Answer.DIED, _Answer.KILLED):
            died_at = died_at or time.monotonic()
            if time.monotonic() - died_at >= NODE_FOLLOWS_S:
                return Loss.WORKER if answer is _Answer.DIED else Loss.MEMORY
        time.sleep(_LOOK_INTERVAL_S)


def _ask(trainer: TrainerHandle, conductor: str, pack: str) -> _Answer:
    try:
        trains = ray.get(trainer.actor.trains.remote(conductor, pack), timeout=ANSWER_TIMEOUT_S)
    except ActorDiedError:
        return _Answer.DIED
    except OutOfMemoryError:
        return _Answer.KILLED
    except RayError:  # it hangs, or cannot be reached
        return _Answer.NONE
    return _Answer.TRAINS if trains else _Answer.TRAINS_NOT
