"""The conductor: runs one generation of one sweep. Knows nothing of Ray: its packs run behind
:class:`~sweep_service.services.supply.PackRunner`.

It has the threads that keep its lease; the watch, which looks for what a user has asked; and the delivery, which
carries reports to the tracking server. Packs call it in threads of theirs.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from datetime import timedelta

from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.domain.errors import (
    ClusterLostError,
    IllegalMoveError,
    LeaseLostError,
    SpecChangedError,
    StoreUnavailableError,
    SweepServiceError,
    TrainableMissingError,
)
from sweep_service.domain.resources import Resources
from sweep_service.domain.states import CONDUCTED, SweepReason, SweepState
from sweep_service.domain.trial import Lease, Sweep, Trial
from sweep_service.logs import carried, log_context
from sweep_service.ports import Clock, SweepStore
from sweep_service.services import late_delivery
from sweep_service.services.checkpoints import CheckpointFolders, Removals
from sweep_service.services.delivery import DELIVERY_INTERVAL_S, Delivery, pause_after
from sweep_service.services.generation import Generation
from sweep_service.services.importance import Importance, WeighParameters
from sweep_service.services.lease_keeper import LeaseKeeper
from sweep_service.services.outcome import CANCELLED, PAUSED, STOPPED, Outcome, cancel_unfinished
from sweep_service.services.pack_desk import PackDesk
from sweep_service.services.plan import OpenSearch, Plan
from sweep_service.services.ranking import with_checkpoints
from sweep_service.services.results import summarise
from sweep_service.services.room import await_room
from sweep_service.services.supply import PackRunner, PackSupply
from sweep_service.services.wishes import Wishes
from sweep_service.services.workers import Workers
from sweep_service.settings import Settings
from sweep_service.tracker_port import Tracker

logger = logging.getLogger(__name__)

LONGEST_PAUSE_S = 30.0  # between tries to deliver the end of a sweep
NODES_INTERVAL_S = 2.0  # between looks at whether nodes leave the cluster, for which they take half a minute
REMOVALS_WITHIN_S = 20.0  # that a sweep waits with its end for the removal of checkpoints that nobody needs
LEAVE_INTERVAL_S = 0.1  # between looks at whether its packs have let go of their trials


class _LetGoError(SweepServiceError):
    """This conductor ends before its sweep does; its lease is still its own."""


class Conductor:
    """Runs one sweep under one lease. ``packs`` is what the workers of its packs call."""

    def __init__(
        self,
        *,
        name: str,
        lease: Lease,
        settings: Settings,
        store: SweepStore,
        tracker: Tracker,
        open_search: Callable[[Sweep], OpenSearch],
        weigh_parameters: WeighParameters,
        runner: PackRunner,
        files: CheckpointFiles,
        clock: Clock,
    ) -> None:
        self._name = name
        self._lease = lease
        self._settings = settings
        self._store = store
        self._clock = clock
        self._open_search = open_search
        self._importance = Importance(weigh_parameters)
        self._runner = runner
        self._removals = Removals()
        self._checkpoints = CheckpointFolders(files, settings.checkpoint_root, lease.sweep_id, self._removals)
        self._delivery = Delivery(store=store, tracker=tracker, lease=lease)
        self._generation: Generation | None = None
        self._supply: PackSupply | None = None
        self._packs_over = threading.Event()
        self._over = threading.Event()
        self._workers = Workers(name, runner)
        self._wishes = Wishes(
            store=store, sweep_id=lease.sweep_id, limits=settings.limits, end_workers=self._workers.end
        )
        self.packs = PackDesk(
            name=name,
            store=store,
            lease=lease,
            workers=self._workers,
            wishes=self._wishes,
            over=self._over,
            raise_if_lost=self._raise_if_lost,
        )
        self._keeper = LeaseKeeper(store=store, lease=lease, settings=settings, over=self._over, on_loss=self._lose)
        self._lost: Exception | None = None  # why this conductor may not write any more
        self._is_leaving = False  # this process is to end

    # --- called from outside ------------------------------------------------------------------------------------------

    def leave(self, within: timedelta) -> None:
        """This process is to end: let go of the sweep, for the next generation to go on with. Its running trials leave
        a checkpoint at their next report; those that have not come to one in that time are ended where they are.
        Returns at once.
        """
        self._is_leaving = True
        self._wishes.tell_news()
        with self._log_context():  # the caller's thread is not of this sweep
            threading.Thread(target=carried(self._leave), args=[within], name="leave", daemon=True).start()

    def _leave(self, within: timedelta) -> None:
        until = time.monotonic() + within.total_seconds()
        is_told = False
        while not self._over.wait(LEAVE_INTERVAL_S):
            if time.monotonic() >= until:
                self._lose(_LetGoError("Its trials did not come to a report in time."))
                return
            generation = self._generation
            if generation is not None and not is_told:
                with suppress(StoreUnavailableError):  # tried again
                    generation.leave()
                    is_told = True

    # --- the whole of it ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Run the sweep to its end, or until the lease is lost."""
        with self._log_context():
            self._run()

    def _log_context(self) -> AbstractContextManager[None]:
        return log_context(sweep_id=self._lease.sweep_id, generation=self._lease.generation)

    def _run(self) -> None:
        try:
            # From here on the lease is short, and this process keeps it alive.
            self._keeper.start()
            sweep = self._store.get_sweep(self._lease.sweep_id)
            if sweep.state.is_ended:
                self._deliver_late(sweep)
                return
            if sweep.state not in CONDUCTED:  # it was claimed as ended, and has been opened again since
                self._hand_over("It waits in the queue again.")
                return
            logger.info("%s: runs %r.", self._name, sweep.spec.name)  # with it, the log tells which process runs what
            threading.Thread(target=carried(self._watch), name="watch", daemon=True).start()
            threading.Thread(target=carried(self._watch_nodes), name="nodes", daemon=True).start()
            self._conduct(sweep)
        except LeaseLostError:
            logger.warning("%s: somebody else runs this sweep now; this conductor ends.", self._name)
        except _LetGoError as error:
            with suppress(StoreUnavailableError):  # then its lease runs out
                self._hand_over(str(error))
        except StoreUnavailableError as error:
            logger.error("%s: the store does not answer; the next generation goes on. %s", self._name, error)
        except Exception as error:
            logger.exception("%s: the conductor failed.", self._name)
            self._fail(error)
        finally:
            self._over.set()
            self._workers.close()

    def _conduct(self, sweep: Sweep) -> None:
        generation = self._open_generation(sweep)
        supply = PackSupply(generation, on_over=self._workers.pack_over, on_fault=self._workers.end)
        self._generation, self._supply = generation, supply
        self._wishes.open(generation, sweep)
        self.packs.open(generation, supply)
        generation.take_up()
        self._wishes.look_at_limits()
        self._wishes.obey(sweep.state)
        delivering = threading.Thread(target=carried(self._deliver), name="delivery", daemon=True)
        delivering.start()
        try:
            no_room = await_room(
                sweep.spec.resources,
                name=self._name,
                look=self._runner.cluster,
                within=self._settings.unschedulable_after,
                is_over=lambda: supply.is_over,
                rest=self._rest_unless_lost,
            )
            if no_room is not None:
                generation.cancel()
            elif self._start():
                self._run_packs(generation, supply, sweep.spec.resources)
        finally:
            self._packs_over.set()
            delivering.join()
        outcome = no_room or generation.outcome()
        if outcome.state is SweepState.PAUSED:
            if self._rest(outcome):
                return
            outcome = generation.outcome()  # a user has asked for something else meanwhile, and has got it
        self._finish(outcome)

    def _is_handed_over(self, ending: Sweep) -> bool:
        """Whether the next generation is to go on: for this process is to end, or what was changed meanwhile. Not where
        what a user has cancelled takes no time any more.
        """
        if self._generation is None:
            return False
        if ending.revision != self._generation.revision:
            self._hand_over("It was changed when all was done.")
        elif self._is_leaving and ending.state is not SweepState.CANCELLED:
            self._hand_over("This process is to end.")
        else:
            return False
        return True

    def _open_generation(self, sweep: Sweep) -> Generation:
        trainable = self._store.read_catalog().get(sweep.spec.trainable)
        if trainable is None:
            raise TrainableMissingError(
                f"{sweep.spec.trainable!r} is in the catalogue no more: its package is not installed where the "
                f"dispatcher runs. Install it there, and submit the sweep again."
            )

        def open_plan(sweep: Sweep, trials: Sequence[Trial]) -> Plan:
            return Plan(sweep=sweep, trainable=trainable, trials=trials, open_search=self._open_search(sweep))

        return Generation(
            store=self._store,
            lease=self._lease,
            sweep=sweep,
            trials=self._store.list_trials(sweep.id),
            open_plan=open_plan,
            clock=self._clock,
            checkpoints=self._checkpoints,
        )

    def _start(self) -> bool:
        """Move to RUNNING, unless the sweep is there already or a user has asked for something else; False: nothing is
        to be run.
        """
        with suppress(IllegalMoveError):  # a user was faster
            if self._wishes.asked() is SweepState.STARTING:
                self._store.move_sweep(self._lease, SweepState.RUNNING)
        self._wishes.obey(self._wishes.asked())
        return self._supply is not None and not self._supply.is_over

    def _run_packs(self, generation: Generation, supply: PackSupply, resources: Resources) -> None:
        """Run packs until none is left.

        What ends the controller itself (Ray kills a worker that takes too much memory, and Tune does not know that
        error) costs the packs that ran: their trials have lost a worker, and go on under a new controller.
        """
        while True:
            try:
                self._runner.run(supply, resources)
            except Exception as error:
                self._raise_if_lost()
                logger.exception("%s: the controller of the packs ended.", self._name)
                was_any_open = supply.lose_open_packs(f"Ray ended its pack: {error}")
                self._workers.end()
                if not was_any_open:
                    raise
            else:
                break
        self._raise_if_lost()
        if supply.fault is not None:
            raise supply.fault
        supply.lose_open_packs("It was waiting for a place when the sweep was ended.")
        if not supply.is_over and not all(trial.state.is_ended for trial in generation.trials):
            raise RuntimeError("the controller of the packs ended before all trials had")

    # --- the end ------------------------------------------------------------------------------------------------------

    def _rest(self, outcome: Outcome) -> bool:
        """Let the sweep rest until somebody resumes it. What the tracking server does not take now it gets then. False:
        a user has asked for something else meanwhile.
        """
        self._try_deliver()
        self._raise_if_lost()
        try:
            self._store.move_sweep(self._lease, outcome.state, reason=outcome.reason, message=outcome.message)
        except IllegalMoveError as error:
            logger.info("%s: %s Doing what it is asked now.", self._name, error)
            self._wishes.obey(self._wishes.asked())
            return False
        self._over.set()
        self._store.release_lease(self._lease)
        logger.info("%s: %s.", self._name, outcome.state)
        return True

    def _hand_over(self, reason: str) -> None:
        """Leave the sweep, in the state that it is in, to the next generation."""
        self._over.set()
        self._workers.end()
        self._store.release_lease(self._lease)
        logger.info("%s: the next generation goes on. %s", self._name, reason)

    def _finish(self, outcome: Outcome, *, waits: bool = True) -> None:
        """End the sweep as soon as its results can be read; until then, try again. A cancelled one does not wait."""
        pause = DELIVERY_INTERVAL_S
        while True:
            self._raise_if_lost()
            trials = self._store.list_trials(self._lease.sweep_id)
            ending = self._ending(outcome)
            if self._is_handed_over(ending):
                return
            ending = replace(ending, results=summarise(ending, trials, self._importance.of(ending, trials)))
            delivered = self._delivery.try_finish(ending, trials)
            if delivered or not waits or ending.state is SweepState.CANCELLED:
                try:
                    self._end(ending, trials, is_delivered=delivered)
                    return
                except (IllegalMoveError, SpecChangedError) as error:  # a user has asked for something else meanwhile
                    logger.info("%s: %s Doing what it is asked now.", self._name, error)
                    continue
            if self._wishes.asked() is SweepState.PAUSING and self._rest(PAUSED):
                return
            self._wishes.await_news(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _ending(self, outcome: Outcome) -> Sweep:
        """The sweep as it will end: what a user has asked for meanwhile comes before what the trials say."""
        sweep = self._store.get_sweep(self._lease.sweep_id)
        if sweep.state is SweepState.CANCELLING:
            outcome = CANCELLED
        elif sweep.state is SweepState.STOPPING and outcome.state is SweepState.COMPLETED:
            outcome = STOPPED
        return replace(sweep, state=outcome.state, reason=outcome.reason, message=outcome.message)

    def _end(self, ending: Sweep, trials: Sequence[Trial], *, is_delivered: bool) -> None:
        self._store.set_results(self._lease, ending.results or {})
        if not is_delivered or ending.tracking_due_at is not None:  # the latter: another end had not come to be
            self._store.set_tracking_due(self._lease, None if is_delivered else late_delivery.SOONEST)
        # Before the move: after it somebody may re-open the sweep, and its next conductor write checkpoints.
        keep = with_checkpoints(ending.spec, trials)
        self._checkpoints.drop_other_trials(keep=keep | {ending.best_trial_id} if ending.best_trial_id else keep)
        self._removals.close(REMOVALS_WITHIN_S)
        self._store.move_sweep(
            self._lease, ending.state, reason=ending.reason, message=ending.message, revision=ending.revision
        )
        self._over.set()
        self._store.release_lease(self._lease)
        logger.info("%s: %s. %s", self._name, ending.state, ending.message)

    def _deliver_late(self, sweep: Sweep) -> None:
        logger.info("%s: delivers what the tracking server has not taken of %r.", self._name, sweep.spec.name)
        if self._is_leaving:
            self._hand_over("This process is to end.")
        elif late_delivery.deliver_late(
            sweep, store=self._store, lease=self._lease, delivery=self._delivery, clock=self._clock
        ):
            self._over.set()
            self._store.release_lease(self._lease)

    def _fail(self, error: Exception) -> None:
        """End the sweep FAILED and every trial with it; their runs too, if the tracking server answers."""
        if self._lost is not None:
            return
        self._generation = None  # from here on the store alone is asked and told
        self._wishes.close()
        self.packs.close()
        fact = str(error) if isinstance(error, SweepServiceError) else f"{type(error).__name__}: {error}"
        outcome = Outcome(
            state=SweepState.FAILED, reason=SweepReason.ERROR, message=f"The conductor failed: {fact}"[:2000]
        )
        try:
            cancel_unfinished(self._store, self._lease, message="The sweep failed.")
            self._finish(outcome, waits=False)
        except Exception:
            logger.exception("%s: could not record its failure; the next generation tries again.", self._name)

    # --- threads ------------------------------------------------------------------------------------------------------

    def _deliver(self) -> None:
        pause = DELIVERY_INTERVAL_S
        while not self._packs_over.wait(pause):
            started = time.monotonic()
            try:
                self._try_deliver()
            except LeaseLostError as error:
                self._lose(error)
                return
            except StoreUnavailableError:
                pass  # the outbox is in there; the watch tells of it
            pause = pause_after(time.monotonic() - started)

    def _try_deliver(self) -> None:
        try:
            self._delivery.try_deliver()
        except (LeaseLostError, StoreUnavailableError):
            raise
        except Exception:
            # The outbox keeps everything; the next round, or the end of the sweep, tries again.
            logger.exception("%s: delivery failed.", self._name)

    def _watch(self) -> None:
        """Do what users ask, until the sweep is over."""
        is_store_away = False
        while not self._over.wait(self._settings.poll_interval.total_seconds()):
            try:
                self._wishes.look()
                is_store_away = False
            except LeaseLostError as error:
                self._lose(error)
                return
            except StoreUnavailableError as error:
                if not is_store_away:
                    logger.warning("%s: the store does not answer. %s", self._name, error)
                is_store_away = True
            except Exception:
                logger.exception("%s: the watch stumbled.", self._name)

    def _watch_nodes(self) -> None:
        """Have what trains on nodes that leave the cluster go on elsewhere. Beside the watch: Ray may take its time."""
        while not self._over.wait(NODES_INTERVAL_S):
            try:
                leaving, generation = self._workers.leaving(), self._generation
                if leaving and generation is not None:
                    generation.move_away(leaving)
            except (ClusterLostError, StoreUnavailableError):
                pass  # others tell of it; this is tried again
            except Exception:
                logger.exception("%s: the look at the nodes stumbled.", self._name)

    def _lose(self, error: Exception) -> None:
        """Stop everything: whatever this conductor wrote from now on could contradict the next one."""
        self._lost = error
        self._over.set()
        self._wishes.tell_news()
        if self._supply is not None:
            self._supply.fail(error)
        self._workers.end()

    def _rest_unless_lost(self, seconds: float) -> None:
        self._over.wait(seconds)
        self._raise_if_lost()

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise self._lost
