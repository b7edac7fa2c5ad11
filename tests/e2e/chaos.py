"""Trouble for a stack in mid-sweep: what may die or fail, which of it and when, drawn from a seed."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
from mlflow_server import MlflowServer
from stack_control import RunningStack, await_that, conductor_pid

from benchmarks.postgres_server import PostgresServer
from sweep_service.client import ApiError, UnreachableError

_FIRST, _LAST = 0.04, 0.6  # shares of a sweep's steps between which trouble comes: it must find the sweep running
_AT_ONCE = 0.3  # how often it comes right after what came before, whatever the sweep has done since
_TARGET_SECONDS = 90  # for something of that kind to be there
_PROGRESS_SECONDS = 240

_T = TypeVar("_T")


class SmallDisk:
    """A mounted file system of some megabytes, to be filled by somebody else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "somebody-elses"

    @property
    def is_full(self) -> bool:
        return self._filler.exists()

    def fill(self) -> None:
        with self._filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            for size in (1 << 16, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[SmallDisk | None]:
    """A disk of its own in that folder. None: this user may mount none."""
    folder.mkdir(parents=True)
    options = f"size={megabytes}m"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "sweep-chaos", folder], capture_output=True)
    if mounted.returncode != 0:
        yield None
        return
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A stack, and what it depends on."""

    stack: RunningStack
    mlflow: MlflowServer
    postgres: PostgresServer | None = None
    disk: SmallDisk | None = None


# What each does, for a sweep that runs. False: there is nothing of that kind just now.
Trouble = Callable[[Scene, str, random.Random], bool]


def kill_worker(scene: Scene, _sweep_id: str, rng: random.Random) -> bool:
    """A process that trains."""
    return _kill_one_of(scene.stack.pids("ray::Trainer.train"), rng)


def kill_place(scene: Scene, _sweep_id: str, rng: random.Random) -> bool:
    """The process of Tune's that holds a pack's place."""
    return _kill_one_of(scene.stack.pids("ray::ImplicitFunc.train"), rng)


def kill_conductor(scene: Scene, sweep_id: str, rng: random.Random) -> bool:
    sweep = patiently(lambda: scene.stack.client.get(sweep_id))
    with contextlib.suppress(AssertionError):  # the log does not tell of it yet
        return _kill_one_of([conductor_pid(scene.stack, sweep_id, sweep["generation"])], rng)
    return False


def kill_dispatcher(scene: Scene, _sweep_id: str, rng: random.Random) -> bool:
    return _kill_one_of(scene.stack.pids("-m sweep_service.worker"), rng)


def kill_api(scene: Scene, _sweep_id: str, rng: random.Random) -> bool:
    return _kill_one_of(scene.stack.pids("-m api"), rng)


def kill_mlflow(scene: Scene, _sweep_id: str, rng: random.Random) -> bool:
    """Its server, which is started again some seconds later."""
    scene.mlflow.kill()
    time.sleep(rng.uniform(0.0, 4.0))
    scene.mlflow.start()
    return True


def kill_ray(scene: Scene, _sweep_id: str, rng: random.Random) -> bool:
    """One of those without which nothing of Ray lives on."""
    return _kill_one_of([pid for name in ("gcs_server", "raylet") for pid in _named(scene.stack, name)], rng)


def stop_postgres(scene: Scene, _sweep_id: str, rng: random.Random) -> bool:
    assert scene.postgres is not None
    scene.postgres.stop()
    time.sleep(rng.uniform(0.0, 6.0))
    scene.postgres.start()
    return True


def freeze_postgres(scene: Scene, _sweep_id: str, rng: random.Random) -> bool:
    """It holds its connections and does not answer, at times for longer than a lease lasts."""
    assert scene.postgres is not None
    server = psutil.Process(scene.postgres.pid)
    family = [server, *server.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.suspend()
    time.sleep(rng.uniform(1.0, 12.0))
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.resume()
    return True


def fill_disk(scene: Scene, _sweep_id: str, rng: random.Random) -> bool:
    """No checkpoint can be written for some seconds."""
    assert scene.disk is not None
    scene.disk.fill()
    time.sleep(rng.uniform(3.0, 10.0))
    scene.disk.free()
    return True


KINDS: Mapping[str, Trouble] = {
    "worker": kill_worker,
    "place": kill_place,
    "conductor": kill_conductor,
    "dispatcher": kill_dispatcher,
    "api": kill_api,
    "mlflow": kill_mlflow,
    "ray": kill_ray,
    "postgres stopped": stop_postgres,
    "postgres frozen": freeze_postgres,
    "disk full": fill_disk,
}


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One trouble, and when it comes."""

    kind: str
    at: float  # share of the sweep's steps: it comes in mid-sweep on machines of any speed
    pause_s: float  # from then on


def drawn(kinds: Mapping[str, int], rng: random.Random) -> Sequence[Strike]:
    """So many troubles of each kind, in order of their time."""
    names = [name for name, times in kinds.items() for _ in range(times)]
    rng.shuffle(names)
    shares = sorted(rng.uniform(_FIRST, _LAST) for _ in names)
    for place in range(1, len(shares)):
        if rng.random() < _AT_ONCE:
            shares[place] = shares[place - 1]
    return [
        Strike(kind=kind, at=share, pause_s=rng.uniform(0.0, 1.5)) for kind, share in zip(names, shares, strict=True)
    ]


def unleash(scene: Scene, sweep_id: str, strikes: Sequence[Strike], rng: random.Random, *, steps: int) -> Counter[str]:
    """Let them come while the sweep runs, whose search takes so many steps in all; how many of each kind have hit."""
    hits: Counter[str] = Counter()

    def share_done() -> float:
        trials = patiently(lambda: scene.stack.client.trials(sweep_id))
        return sum(trial["last_step"] or 0 for trial in trials) / steps

    for strike in strikes:
        await_that(
            lambda strike=strike: share_done() >= strike.at, within_s=_PROGRESS_SECONDS, what=f"the time of {strike}"
        )
        time.sleep(strike.pause_s)
        await_that(
            lambda strike=strike: KINDS[strike.kind](scene, sweep_id, rng),
            within_s=_TARGET_SECONDS,
            what=f"something of the kind {strike.kind}",
        )
        hits[strike.kind] += 1
        sweep = patiently(lambda: scene.stack.client.get(sweep_id))
        assert sweep["ended_at"] is None, f"it ended before {strike}: {sweep['state']} {sweep['message']}"
    return hits


def patiently(call: Callable[[], _T]) -> _T:
    """What the API answers, as soon as it does."""
    found: list[_T] = []

    def is_answered() -> bool:
        try:
            found.append(call())
        except UnreachableError:
            return False
        except ApiError as error:
            if error.status < 500:
                raise
            return False
        return True

    await_that(is_answered, what="the API to answer")
    return found[0]


def _kill_one_of(pids: Sequence[int], rng: random.Random) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        if pids:
            psutil.Process(rng.choice(pids)).kill()
            return True
    return False


def _named(stack: RunningStack, name: str) -> Sequence[int]:
    def is_it(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.Error):
            return process.name() == name
        return False

    return [process.pid for process in psutil.Process(stack.process.pid).children(recursive=True) if is_it(process)]
