"""Packs as the trials of Ray Tune. Implements :class:`sweep_service.services.supply.PackRunner`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from ray import tune
from ray.exceptions import RayError

from sweep_service.domain.errors import ClusterLostError
from sweep_service.domain.resources import Resources
from sweep_service.domain.trial import Cluster
from sweep_service.execution.evidence import why_lost
from sweep_service.execution.nodes import look_at_cluster, nodes_that_leave
from sweep_service.execution.packs import run_pack
from sweep_service.execution.searcher import PackSearcher, PackStopper, forget, register
from sweep_service.execution.trainers import TrainerHandle, end_trainers
from sweep_service.ports import Clock
from sweep_service.services.losses import Loss
from sweep_service.services.supply import PackSupply

_MOST_PENDING = 8  # packs that wait for a place, and their trials with them


class TunePacks:
    """The packs of one conductor. Tune keeps its own files under ``folder``, where nobody ever reads them."""

    def __init__(self, *, conductor: str, folder: Path, clock: Clock) -> None:
        self._conductor = conductor
        self._folder = folder
        self._clock = clock

    def run(self, supply: PackSupply, resources: Resources) -> None:
        register(self._conductor, supply)
        # By itself Tune starts a pack only when the one before has its process: one second after the other.
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(_MOST_PENDING)
        tuner = tune.Tuner(
            tune.with_resources(run_pack, {"cpu": resources.cpus, "gpu": resources.gpus}),
            tune_config=tune.TuneConfig(search_alg=PackSearcher(self._conductor), num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                name=self._conductor,
                storage_path=str(self._folder),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=0),
                stop=PackStopper(self._conductor),
            ),
        )
        try:
            tuner.fit()
        finally:
            forget(self._conductor)
            shutil.rmtree(self._folder / self._conductor, ignore_errors=True)

    def why_lost(self, pack: str, worker: TrainerHandle) -> Loss:
        return why_lost(worker, conductor=self._conductor, pack=pack)

    def end(self, workers: Mapping[str, TrainerHandle]) -> None:
        end_trainers({pack: worker.actor for pack, worker in workers.items()}, conductor=self._conductor)

    def leaving(self, workers: Mapping[str, TrainerHandle]) -> Collection[str]:
        try:
            nodes = nodes_that_leave()
        except (RayError, ConnectionError, RuntimeError) as error:
            raise ClusterLostError(str(error)) from error
        return {pack for pack, worker in workers.items() if worker.node in nodes}

    def cluster(self) -> Cluster:
        try:
            return look_at_cluster(self._clock)
        except (RayError, ConnectionError, RuntimeError) as error:
            raise ClusterLostError(str(error)) from error
