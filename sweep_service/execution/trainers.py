"""The processes that train packs: they live on between packs and between sweeps, with their libraries loaded.

A pack of Ray Tune holds the place on a node, its CPUs and GPUs; the work is done by a trainer of that node, which takes
none of its own. It sees the GPUs that the pack has been given, and no others. To start a process, to load torch and to
read the data takes seconds, which a trainer that has trained before does not need.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweep_service.execution.gpus import VISIBLE, is_well, why_no_cuda

logger = logging.getLogger(__name__)

NAMESPACE = "sweeps"
MAX_IDLE_S = 600.0  # then a trainer ends: its memory is others' as well
MAX_IDLE_ON_GPU_S = 30.0  # of one with a GPU, some of whose memory it keeps as long as it lives
NICENESS = 15  # of threads that train; Ray would have it of all its workers
MAX_TAKEN_S = 60.0  # until who has taken it says what to train
_LOOK_INTERVAL_S = 1.0  # between looks at whether the conductor of what is trained still lives
_FAREWELL_S = 0.3  # for an answer to leave a process that ends
_ANSWER_TIMEOUT_S = 5.0  # for the conductor to say that it is there
_TAKE_TIMEOUT_S = 30.0  # for a trainer to answer, which it does at once unless it is being made or prepares
_MOST_FAILURES = 5  # trainers one after the other that cannot be had
_NUM_TRIES = 3  # to have the trainer of one number
_PAUSE_S = 0.2  # between them
_END_TIMEOUT_S = 3.0  # for a trainer to end by itself, or to say that it trains something else by now
# The one that trains, and those beside it that must be answered meanwhile: whether it can be had, and its end.
_MAX_CONCURRENT_CALLS = 4


@dataclass(frozen=True, kw_only=True)
class TrainerHandle:
    """What the conductor is given of a trainer."""

    actor: Any
    node: str  # its id in Ray


class Taken(StrEnum):
    """Answers of a trainer that somebody wants to have."""

    YES = "yes"
    BUSY = "busy"
    STALE = "stale"  # code that it has loaded has been changed since; it ends


class Trainer:
    """One process that trains packs, one at a time, whatever sweeps they are of: all of those that have been given the
    GPUs that it sees, or all those without any.
    """

    def __init__(self, *, has_gpu: bool) -> None:
        self._lock = threading.Lock()
        self._is_taken = False
        self._training: tuple[str, str] | None = None  # for which conductor which pack
        self._is_prepared = threading.Event()  # cleared only while it prepares
        self._is_prepared.set()
        self._idle_since = time.monotonic()
        self._has_gpu = has_gpu
        self._seen: dict[str, float] = {}  # when files of loaded code were last changed
        self._looked_at: set[str] = set()  # modules whose files have been looked for
        threading.Thread(target=self._end_when_idle, name="idle", daemon=True).start()

    def prepare(self) -> None:
        """Load what every pack needs, while there is none. Torch loads much of itself only when it is used: so by
        training something, unless a pack has come first.
        """
        with self._lock:
            if self._is_taken or not self._is_prepared.is_set():
                return
            self._is_prepared.clear()
        _give_way()
        try:
            _train_something()
        finally:
            self._remember_modules()
            _freeze_what_is_loaded()
            self._is_prepared.set()

    def take(self) -> str:
        """Have it for one pack, until :meth:`train` returns. While it prepares, wait: no other would be faster."""
        self._is_prepared.wait()
        with self._lock:
            if self._is_taken:
                return Taken.BUSY
            if self._is_stale():
                _leave()
                self._is_taken = True
                return Taken.STALE
            self._is_taken, self._idle_since = True, time.monotonic()
            return Taken.YES

    def train(self, conductor: str, pack: str) -> int:
        """Train the pack of that name; how many lanes it began with. What it raises loses the pack its worker."""
        from sweep_service.execution.links import ConductorLink
        from sweep_service.execution.packs import train_order

        _give_way()
        over = threading.Event()
        with self._lock:
            self._training = conductor, pack
        try:
            link = ConductorLink(conductor, pack)
            watch = threading.Thread(target=self._watch, args=(conductor, pack, over), name="watch", daemon=True)
            watch.start()
            if self._has_gpu:
                _tell_of_missing_cuda(conductor)
            return train_order(link)
        finally:
            over.set()
            self._release()

    def trains(self, conductor: str, pack: str) -> bool:
        """Whether it trains that pack now."""
        return self._training == (conductor, pack)

    def end(self, conductor: str, pack: str) -> bool:
        """End this process, in whatever it does, if it still trains that pack: it may have been lent to another sweep
        since. False: it does not.
        """
        with self._lock:  # without which it is not released
            if self._training == (conductor, pack):
                os._exit(1)
        return False

    def _watch(self, conductor: str, pack: str, over: threading.Event) -> None:
        """Beside what trains. End this process when the conductor dies: nobody would take what it finds, and its place
        on the node is free for others at once.
        """
        actor: Any = ray.get_actor(conductor, namespace=NAMESPACE)
        while not over.wait(_LOOK_INTERVAL_S):
            self._remember_modules()  # soon after they are loaded: a file may be edited while its code trains
            try:
                ray.get(actor.is_idle.remote(), timeout=_ANSWER_TIMEOUT_S)
            except ActorDiedError:
                logger.warning("The conductor %s is gone; its pack ends.", conductor)
                self.end(conductor, pack)
            except RayError:  # it is busy, or it or the cluster's head cannot be reached; they may again
                logger.warning("Whether the conductor %s lives cannot be found out.", conductor)

    def _release(self) -> None:
        """It is free for the next pack; or it ends, where the next one would find a GPU that fails whatever it does."""
        is_usable = not self._has_gpu or is_well()
        self._remember_modules()
        _freeze_what_is_loaded()
        with self._lock:
            self._idle_since, self._training = time.monotonic(), None
            self._is_taken = not is_usable
            if not is_usable:
                _leave()

    def _remember_modules(self) -> None:
        """When the files of what has been loaded since the last look were changed: an edit from here on makes it stale.
        Looks at no module twice, for it is done again and again while something else trains.
        """
        new = {name: module for name, module in dict(sys.modules).items() if name not in self._looked_at}
        self._looked_at.update(new)
        for name, at in _changed_at(new):
            self._seen.setdefault(name, at)

    def _is_stale(self) -> bool:
        """Whether a file of what is loaded has changed since it was first seen here."""
        now = dict(_changed_at(dict(sys.modules)))
        changed = [name for name, at in now.items() if self._seen.setdefault(name, at) != at]
        if changed:
            logger.info("A trainer ends, for another one to load what has changed: %s", ", ".join(changed[:5]))
        return bool(changed)

    def _end_when_idle(self) -> None:
        while True:
            time.sleep(_LOOK_INTERVAL_S)
            with self._lock:
                most = MAX_IDLE_ON_GPU_S if self._has_gpu else MAX_IDLE_S
                if self._is_taken:  # by somebody who has died since, if nothing comes of it
                    most = MAX_TAKEN_S
                if self._training is None and time.monotonic() - self._idle_since > most:
                    os._exit(0)


def _give_way() -> None:
    """Of this thread, and those that it starts, to whatever else wants the processors: people's own work, and the
    conductors, which have leases to keep.
    """
    niceness = max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0))  # nobody may take less than there is
    os.setpriority(os.PRIO_PROCESS, 0, niceness)


def _train_something() -> None:
    import trainables.prediction
    from trainables.protocol import Lane
    from trainables.testing import tiny_problem
    from trainables.training import train_together

    lanes = [Lane(key=key, balancer="gradnorm", params={"steps": 2, "batch_size": 8}) for key in ("a", "b")]
    trainables.prediction.encoding_hash(problem := tiny_problem())
    train_together(problem, lanes, lambda reports: ())


def _leave() -> None:
    """End this process once the answer that it gives is on its way."""
    threading.Timer(_FAREWELL_S, os._exit, [0]).start()


def _freeze_what_is_loaded() -> None:
    """It stays: looking through it for garbage would take a fifth of a second each time. Once only, for what a pack
    leaves behind is garbage sooner or later.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def _tell_of_missing_cuda(conductor: str) -> None:
    """Say it in the sweep's events: whoever waits for a GPU's speed would look for the reason elsewhere."""
    with contextlib.suppress(ImportError, RayError):  # a torch that does not load is told of when the pack needs it
        if message := why_no_cuda():
            actor: Any = ray.get_actor(conductor, namespace=NAMESPACE)
            ray.get(actor.warn.remote(message), timeout=_ANSWER_TIMEOUT_S)


def _changed_at(modules: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Modules by name with the time of their file's last change, without those of Python itself and of installed
    packages, which are replaced with the environment.
    """
    for name, module in modules.items():
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not file.startswith(sys.base_prefix) and "site-packages" not in file:
            with contextlib.suppress(OSError):
                yield name, Path(file).stat().st_mtime


class NoTrainerError(Exception):
    """No trainer can be had on a node, where one can always be made."""


def take_trainer(node: str, gpus: Sequence[str] = ()) -> Any:
    """A trainer of that node (its id in Ray) for those of its GPUs (their ids in Ray), made if all there are have
    something to do. One that does not answer, for it hangs in code that lets no other thread run, is passed over: the
    node has others.

    Raises:
        NoTrainerError: several one after the other did not answer or ended at once.
    """
    num_failures = 0
    for number in itertools.count():
        try:
            trainer, answer = _ask_for(node, gpus, number)
        except RayError as error:
            logger.warning("The trainer of number %d on node %s cannot be had.", number, node, exc_info=True)
            num_failures += 1
            if num_failures == _MOST_FAILURES:
                why = " ".join(str(error).split()) or type(error).__name__
                raise NoTrainerError(
                    f"No process to train in can be had on node {node}: {num_failures} in a row did not answer or "
                    f"ended at once. Of the last: {type(error).__name__}: {why}"
                ) from error
        else:
            num_failures = 0
            if answer == Taken.YES:
                return trainer
    raise AssertionError("numbers do not end")


def _ask_for(node: str, gpus: Sequence[str], number: int) -> tuple[Any, str]:
    for _ in range(_NUM_TRIES - 1):  # one that has just ended may still have its name
        with contextlib.suppress(RayActorError):
            return _ask_once_for(node, gpus, number)
        time.sleep(_PAUSE_S)
    return _ask_once_for(node, gpus, number)


def _ask_once_for(node: str, gpus: Sequence[str], number: int) -> tuple[Any, str]:
    trainer = _trainer(node, gpus, number)
    return trainer, ray.get(trainer.take.remote(), timeout=_TAKE_TIMEOUT_S)


def end_trainers(trainers: Mapping[str, Any], *, conductor: str) -> None:
    """End each of these that still trains the pack by whose name it stands here. One that does not answer hangs, in
    code that lets no other thread run, and is killed.
    """
    pack_of = {trainer.end.remote(conductor, pack): pack for pack, trainer in trainers.items()}
    answered, silent = ray.wait(list(pack_of), num_returns=len(pack_of), timeout=_END_TIMEOUT_S)
    for answer in answered:
        try:
            ray.get(answer)
        except ActorDiedError:
            pass  # as it was asked to
        except RayError:
            silent.append(answer)
    for answer in silent:
        logger.warning("The trainer of pack %s does not answer; it is killed.", pack_of[answer])
        ray.kill(trainers[pack_of[answer]], no_restart=True)


def prepare_trainers(node: str, num_trainers: int) -> None:
    """Have so many trainers without GPUs on that node, with their libraries loaded."""
    for number in range(num_trainers):
        _trainer(node, (), number).prepare.remote()


def _trainer(node: str, gpus: Sequence[str], number: int) -> Any:
    return ray.remote(Trainer).options(**_actor_options(node, gpus, number)).remote(has_gpu=bool(gpus))


def _actor_options(node: str, gpus: Sequence[str], number: int) -> dict[str, Any]:
    """How Ray is to start the trainer of that number for those GPUs, or to find it."""
    return {
        "name": "-".join(("trainer", node, *(f"gpu{gpu}" for gpu in gpus), str(number))),
        "namespace": NAMESPACE,
        "get_if_exists": True,
        "lifetime": "detached",
        "num_cpus": 0,
        "max_restarts": 0,
        "max_concurrency": _MAX_CONCURRENT_CALLS,
        "scheduling_strategy": NodeAffinitySchedulingStrategy(node_id=node, soft=False),
        "runtime_env": {"env_vars": _environment(gpus)},
    }


def _environment(gpus: Sequence[str]) -> dict[str, str]:
    """What shows a process those GPUs. A trainer asks Ray for none, for its packs hold them, and Ray hides all from who
    has asked for none (ray_node): right for a trainer without, while one with GPUs is to see what it is told here.
    """
    if not gpus:
        return {}
    return {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", VISIBLE: ",".join(gpus)}
