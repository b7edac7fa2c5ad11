"""The conductor: the actor that runs one generation of one sweep.

Three threads beside the calls of the packs: Tune's controller, which starts packs; the watch, which renews the lease
and looks for what a user has asked; the delivery, which carries reports to the tracking server.
"""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import ray
from ray import tune

from sweep_service.domain.errors import LeaseLostError, StoreUnavailableError, TrackingUnavailableError
from sweep_service.domain.spec import Resources
from sweep_service.domain.states import SweepReason, SweepState
from sweep_service.domain.trial import Cluster, Lease, Sweep, Trial
from sweep_service.execution.nodes import look_at_cluster
from sweep_service.execution.packs import run_pack
from sweep_service.execution.searcher import PackSearcher
from sweep_service.ports import Clock, SweepStore, Tracker
from sweep_service.services.delivery import Delivery
from sweep_service.services.generation import Generation, Outcome
from sweep_service.services.packs import LaneMessage, PackOrder
from sweep_service.services.plan import OpenSearch, Plan
from sweep_service.services.results import summarise
from sweep_service.settings import Settings

logger = logging.getLogger(__name__)

DELIVERY_INTERVAL_S = 1.0
LONGEST_PAUSE_S = 30.0  # between tries to deliver the end of a sweep


class Conductor:
    """Runs one sweep under one lease. Made a Ray actor by :mod:`sweep_service.execution.cluster`."""

    def __init__(
        self,
        *,
        name: str,
        lease: Lease,
        settings: Settings,
        store: SweepStore,
        tracker: Tracker,
        open_search: Callable[[Sweep], OpenSearch],
        clock: Clock,
    ) -> None:
        self._name = name
        self._lease = lease
        self._settings = settings
        self._store = store
        self._clock = clock
        self._open_search = open_search
        self._delivery = Delivery(store=store, tracker=tracker, lease=lease)
        self._generation: Generation | None = None
        self._workers: dict[str, Any] = {}  # pack -> handle of the actor that trains it
        self._packs_over = threading.Event()
        self._over = threading.Event()
        self._lost: Exception | None = None  # why this conductor may not write any more
        self._asked = SweepState.RUNNING  # what the store says that the sweep shall do

    # --- called by packs ----------------------------------------------------------------------------------------------

    def begin(self, pack: str, node: str, worker: Any) -> PackOrder:
        """A pack's worker is up; the answer is what it trains."""
        assert self._generation is not None
        self._workers[pack] = worker
        order = self._generation.begin(pack, node=node)
        if not order.lanes:
            self._workers.pop(pack, None)
        return order

    def report(self, pack: str, messages: Sequence[LaneMessage]) -> Collection[str]:
        """What the lanes of a pack say; the answer names those that are to stop."""
        assert self._generation is not None
        return self._generation.report(pack, messages)

    # --- called by the dispatcher -------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the sweep to its end, or until the lease is lost."""
        watch = threading.Thread(target=self._watch, name="watch", daemon=True)
        try:
            # From here on the lease is short, and this process keeps it alive.
            self._store.renew_lease(self._lease, ttl=self._settings.lease_ttl)
            sweep = self._store.get_sweep(self._lease.sweep_id)
            watch.start()
            self._conduct(sweep)
        except LeaseLostError:
            logger.warning("%s: somebody else runs this sweep now; this conductor ends.", self._name)
        except StoreUnavailableError as error:
            logger.error("%s: the store does not answer; the next generation goes on. %s", self._name, error)
        except Exception as error:
            logger.exception("%s: the conductor failed.", self._name)
            self._fail(error)
        finally:
            self._over.set()
            self._kill_workers()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _conduct(self, sweep: Sweep) -> None:
        generation = self._generation = self._open_generation(sweep)
        if sweep.state is SweepState.STARTING:
            cluster = look_at_cluster(self._clock)
            wanted = sweep.spec.resources
            if not cluster.can_ever_hold(cpus=wanted.cpus, gpus=wanted.gpus):
                self._finish(_unschedulable(wanted, cluster))
                return
            sweep = self._start(sweep)
        generation.take_up()
        self._obey(sweep.state)
        delivering = threading.Thread(target=self._deliver, name="delivery", daemon=True)
        delivering.start()
        try:
            self._run_packs(generation, sweep)
        finally:
            self._packs_over.set()
            delivering.join()
        self._finish(generation.outcome())

    def _start(self, sweep: Sweep) -> Sweep:
        """Move to RUNNING, unless a user has asked for something else in the meantime."""
        current = self._store.get_sweep(sweep.id)
        if current.state is SweepState.STARTING:
            return self._store.move_sweep(self._lease, SweepState.RUNNING)
        return current

    def _open_generation(self, sweep: Sweep) -> Generation:
        trainable = self._store.read_catalog()[sweep.spec.trainable]
        trials = self._store.list_trials(sweep.id)
        plan = Plan(sweep=sweep, trainable=trainable, trials=trials, open_search=self._open_search(sweep))
        return Generation(
            store=self._store,
            lease=self._lease,
            sweep=sweep,
            plan=plan,
            clock=self._clock,
            checkpoint_root=self._settings.checkpoint_root,
        )

    def _run_packs(self, generation: Generation, sweep: Sweep) -> None:
        wanted = sweep.spec.resources
        searcher = PackSearcher(self._name, generation)
        storage = self._settings.root / "tune"
        tuner = tune.Tuner(
            tune.with_resources(run_pack, {"cpu": wanted.cpus, "gpu": wanted.gpus}),
            tune_config=tune.TuneConfig(search_alg=searcher, num_samples=-1, reuse_actors=True),
            run_config=tune.RunConfig(
                name=self._name, storage_path=str(storage), verbose=0, failure_config=tune.FailureConfig(max_failures=0)
            ),
        )
        try:
            tuner.fit()
        finally:
            searcher.close()
            shutil.rmtree(storage / self._name, ignore_errors=True)  # nothing in it is ever read
        for fault in searcher.faults:
            raise fault

    def _finish(self, outcome: Outcome) -> None:
        """End the sweep, as soon as its results can be read; until then, try again. A cancelled one does not wait."""
        pause = DELIVERY_INTERVAL_S
        while True:
            trials = self._store.list_trials(self._lease.sweep_id)
            ending = self._ending(outcome)
            results = summarise(ending, trials)
            ending = replace(ending, results=results)
            if self._try_finish_delivery(ending, trials) or ending.state is SweepState.CANCELLED:
                break
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
        self._store.set_results(self._lease, results)
        self._store.move_sweep(self._lease, ending.state, reason=ending.reason, message=ending.message)
        self._over.set()
        self._store.release_lease(self._lease)
        logger.info("%s: %s. %s", self._name, ending.state, ending.message)

    def _ending(self, outcome: Outcome) -> Sweep:
        """The sweep as it will end: what a user has asked for meanwhile comes before what the trials say."""
        sweep = self._store.get_sweep(self._lease.sweep_id)
        if sweep.state is SweepState.CANCELLING:
            outcome = Outcome(state=SweepState.CANCELLED, reason=SweepReason.USER, message="")
        elif sweep.state is SweepState.STOPPING and outcome.state is SweepState.COMPLETED:
            outcome = Outcome(state=SweepState.STOPPED, reason=SweepReason.USER, message="")
        return replace(sweep, state=outcome.state, reason=outcome.reason, message=outcome.message)

    def _try_finish_delivery(self, sweep: Sweep, trials: Sequence[Trial]) -> bool:
        if self._lost is not None:
            raise self._lost
        try:
            self._delivery.finish(sweep, trials)
        except TrackingUnavailableError as error:
            logger.warning("%s: its results wait for the tracking server. %s", self._name, error)
            self._delivery.try_deliver()  # which says so in the sweep's events
            return False
        return True

    def _deliver(self) -> None:
        while not self._packs_over.wait(DELIVERY_INTERVAL_S):
            try:
                self._delivery.try_deliver()
            except LeaseLostError as error:
                self._lose(error)
                return
            except Exception:
                # The outbox keeps everything; the next round, or the end of the sweep, tries again.
                logger.exception("%s: delivery failed.", self._name)

    def _watch(self) -> None:
        """Renew the lease and do what users ask, until the sweep is over."""
        ttl = self._settings.lease_ttl
        renewed = time.monotonic()
        while not self._over.wait(self._settings.poll_interval.total_seconds()):
            try:
                if time.monotonic() - renewed > ttl.total_seconds() / 3:
                    asked_at = time.monotonic()
                    self._store.renew_lease(self._lease, ttl=ttl)
                    renewed = asked_at
                self._obey(self._store.get_sweep(self._lease.sweep_id).state)
            except LeaseLostError as error:
                self._lose(error)
                return
            except StoreUnavailableError as error:
                # Before the lease runs out by the store's clock, while nobody else can have it yet.
                if time.monotonic() - renewed > ttl.total_seconds() * 0.8:
                    self._lose(error)
                    return
            except Exception:
                logger.exception("%s: the watch stumbled.", self._name)

    def _obey(self, asked: SweepState) -> None:
        generation = self._generation
        if generation is None or asked is self._asked:
            return
        self._asked = asked
        if asked is SweepState.STOPPING:
            generation.stop()
        elif asked is SweepState.CANCELLING:
            generation.cancel()
            self._kill_workers()

    def _lose(self, error: Exception) -> None:
        """Stop everything: whatever this conductor wrote from now on could contradict the next one."""
        self._lost = error
        self._over.set()
        self._kill_workers()

    def _kill_workers(self) -> None:
        for pack, worker in list(self._workers.items()):
            self._workers.pop(pack, None)
            ray.kill(worker, no_restart=True)

    def _fail(self, error: Exception) -> None:
        message = f"The conductor failed: {type(error).__name__}: {error}"
        try:
            if self._generation is not None:
                self._generation.cancel()
            self._store.move_sweep(self._lease, SweepState.FAILED, reason=SweepReason.ERROR, message=message)
            self._store.release_lease(self._lease)
        except Exception:
            logger.exception("%s: could not record its failure; the next generation tries again.", self._name)


def _unschedulable(wanted: Resources, cluster: Cluster) -> Outcome:
    nodes = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in cluster.nodes) or "no node at all"
    message = (
        f"A trial asks for {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs on one node; the cluster has: {nodes}. "
        "Ask for less in resources, or add a node."
    )
    return Outcome(state=SweepState.FAILED, reason=SweepReason.UNSCHEDULABLE, message=message)
