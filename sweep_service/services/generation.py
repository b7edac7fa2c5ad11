"""One conductor generation: from the stored sweep to its end, pack by pack.

A generation loads the sweep, takes up the trials that an earlier one left unfinished, then asks the plan for new ones
until the budget is spent. Crash, restart and a first start are the same thing. Nothing here knows of Ray: the
conductor brings packs to workers and their messages back.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import Enum

from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.packing import ALONE
from sweep_service.domain.states import AttemptState, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Lease, Report, Sweep, Trial
from sweep_service.ports import Clock, SweepStore, TrialEnd
from sweep_service.services.attempts import Attempts
from sweep_service.services.checkpoints import CheckpointFolders
from sweep_service.services.course import Course
from sweep_service.services.early_stopping import EarlyStopper
from sweep_service.services.lane_messages import end_of, log_lines_of, report_of
from sweep_service.services.limits import UNLIMITED, Allowance
from sweep_service.services.losses import Loss, Losses, LostPack
from sweep_service.services.outcome import Outcome, outcome_of
from sweep_service.services.pack_table import PackTable
from sweep_service.services.packing import Pack, Packing, together
from sweep_service.services.packs import Departure, LaneLines, LaneMessage, LaneOrder, PackOrder
from sweep_service.services.plan import Plan
from sweep_service.services.trial_book import TrialBook
from sweep_service.services.trial_queue import TrialQueue
from sweep_service.services.trial_source import TrialSource

logger = logging.getLogger(__name__)


class Pause(Enum):
    """Why there is no pack to start."""

    WAIT = "wait"  # others must end first
    DONE = "done"  # nothing runs and nothing will


class Generation:
    """The trials of one sweep under one lease. Every method may be called from any thread.

    Each may raise LeaseLostError: the sweep is somebody else's, and this generation must end without another write.
    Each may raise StoreUnavailableError, and may then be called again with the same arguments: what the failed call
    has brought about is found out first.
    """

    def __init__(
        self,
        *,
        store: SweepStore,
        lease: Lease,
        sweep: Sweep,
        trials: Sequence[Trial],
        open_plan: Callable[[Sweep, Sequence[Trial]], Plan],
        clock: Clock,
        checkpoints: CheckpointFolders,
    ) -> None:
        self._store = store
        self._lease = lease
        self._sweep = sweep
        self._spec = sweep.spec
        self._open_plan = open_plan
        plan = open_plan(sweep, trials)
        self._clock = clock
        self._early_stopper = EarlyStopper(store=store, spec=sweep.spec)
        self._book = TrialBook(store=store, lease=lease, sweep=sweep, plan=plan, clock=clock, checkpoints=checkpoints)
        self._attempts = Attempts(store=store, lease=lease, book=self._book, clock=clock, checkpoints=checkpoints)
        self._trials = self._book.trials
        self._course = Course()
        self._source = TrialSource(store=store, lease=lease, book=self._book, clock=clock, course=self._course)
        self._packing = Packing(spec=sweep.spec, trainable=plan.trainable, most_at_once=plan.most_at_once)
        resources = sweep.spec.resources
        self._queue = TrialQueue(resources=resources, packing=self._packing, trials=self._trials, new=self._source)
        self._packs = PackTable(trials=self._trials, queue=self._queue, packing=self._packing)
        self._told: set[str] = set()  # notices on the sweep
        self._losses = Losses(retries=sweep.spec.retries)
        self._allowance = UNLIMITED  # packs that the service's limits leave it
        self._is_done = False  # the controller of the packs has been told so
        self._is_in_doubt = False  # the store failed in a write: it may have happened, or not
        self._lock = threading.RLock()

    @property
    def trials(self) -> Sequence[Trial]:
        """Every trial as this generation knows it, by number."""
        with self._lock:
            return self._book.in_order

    def take_up(self) -> None:
        """Take over what an earlier generation left: its attempts are lost, its unfinished trials wait for a pack."""
        with self._acting():
            self._early_stopper.load(self.trials)
            self._end_strays("The conductor that ran it is gone.")
            self._queue.put(trial.id for trial in self.trials if not trial.state.is_ended)

    # --- what the controller of the packs calls -----------------------------------------------------------------------

    def next_pack(self, key: str) -> Pause | None:
        """Set aside the trials of a new pack under that key; None: they are, start it."""
        with self._acting():
            pause = self._set_aside(key)
            self._is_done = pause is Pause.DONE
            return pause

    def _set_aside(self, key: str) -> Pause | None:
        if self._course.is_cancelled:
            return Pause.DONE
        if self._course.lets_rest:
            self._rest_idle()
            return Pause.WAIT if self._packs else Pause.DONE
        if self._num_idle <= 0 and self._packs:
            return Pause.WAIT
        trial_id = self._queue.take()
        if trial_id is None:
            return Pause.WAIT if self._packs else Pause.DONE
        if self._num_idle <= 0:  # it may have no pack for now, but is not over
            self._queue.put_first([trial_id])
            return Pause.WAIT
        self._packs.set_aside(key, trial_id, num_idle=self._num_idle - 1)
        return None

    def begin(self, key: str, *, node: str) -> PackOrder:
        """The pack's worker is up: start an attempt of each of its trials. No lanes: do nothing, the sweep is being
        ended or paused.

        Raises:
            PackOverError: the pack has been given up.
        """
        with self._acting():
            pack = self._packs.known(key)
            pack.node = node
            if self._course.lets_rest:
                self._packs.put_back(pack)
            self._packs.put_back_surplus(pack)
            resources = self._spec.resources
            return PackOrder(
                trainable=self._spec.trainable,
                lanes=self._attempts.hand_out(pack, self._packs.live(pack)) if self._course.trains_on else (),
                places=self._packs.places(pack),
                is_settled=self._packing.is_settled(pack.structure),
                is_measured=resources.lanes == "auto",
                num_threads=max(1, math.floor(resources.cpus)),
                gpus=resources.gpus,
            )

    def settle(self, key: str, places: int, reason: str = "") -> None:
        """What the pack's worker has found out: how many of its trials a pack trains at once; of 1, why not more.

        Raises:
            PackOverError: the pack has been given up.
        """
        with self._acting():
            pack = self._packs.known(key)
            self._packing.settle(pack.structure, places)
            self.tell(f"Trials are trained one by one, because {reason}." if reason else together(places))

    def refill(self, key: str, free: int) -> Sequence[LaneOrder]:
        """Trials for free places of a pack that runs; none: for now there are none that may be trained in it.

        Raises:
            PackOverError: the pack has been given up.
        """
        with self._acting():
            pack = self._packs.known(key)
            is_needed = self._num_idle <= 0 and self._queue.has_others_than(pack.structure)
            if not self._course.trains_on or is_needed or pack.lets_go:
                return ()
            live = self._packs.live(pack)
            num_handed_out = sum(trial.id in pack.handed_out for trial in live)
            places = min(self._packs.places(pack), num_handed_out + free)
            self._queue.fill(pack, places=places, num_live=len(live), num_idle=self._num_idle)
            # Those that an earlier call set aside, or even began, before it failed are among them.
            new = [trial for trial in self._packs.live(pack) if trial.id not in pack.handed_out]
            return self._attempts.hand_out(pack, new)

    def split(self, key: str, places: int, message: str, *, is_of_all: bool = True) -> None:
        """The pack cannot go on with so many lanes: its trials go on from their last checkpoints in packs of at most
        so many, and if it is of all trials of their structure, so do all others.

        Raises:
            PackOverError: the pack has been given up.
        """
        with self._acting():
            pack = self._packs.known(key)
            if is_of_all:
                self._packing.settle(pack.structure, places)
            self.tell(f"A pack is split up: {message}")
            for trial in reversed(self._packs.live(pack)):
                if not is_of_all:
                    self._packing.limit_company(trial.id, places)
                if trial.id in pack.attempts:
                    self._attempts.end(pack.attempts[trial.id], message, AttemptState.PREEMPTED)
                pack.part(trial.id)  # only now: a call that fails is made again
                self._queue.put_first([trial.id])
            self._rest_idle()

    def report(self, key: str, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        """Record what the lanes say, in one transaction. The answer names the trials that are to leave the pack now.

        Raises:
            PackOverError: the pack has been given up, and its trials may be in other hands: nothing was recorded.
        """
        with self._acting():
            pack = self._packs.known(key)
            live = [m for m in messages if self._trials[m.trial_id].state is TrialState.RUNNING]
            now = self._clock.now()
            objective = self._spec.objective
            reports = [
                report_of(m, pack.attempts[m.trial_id], objective, self._sweep.id, now)
                for m in live
                if m.metrics or m.checkpoint is not None
            ]
            ends = [end_of(message, self._spec) for message in live if message.ending is not None]
            done = {end.trial_id for end in ends}
            is_pause = self._course.is_paused  # and not overtaken by another wish
            self._record(
                reports,
                [*ends, *self._early_stopper.ends(reports, self._trials, ending=done)],
                [m.trial_id for m in live if m.rests and is_pause],
            )
            self._part([m.trial_id for m in messages if m.rests], pack)
            found = {m.trial_id: self._departure(m.trial_id, pack) for m in messages if not m.rests}
            return {trial_id: departure for trial_id, departure in found.items() if departure is not None}

    def log(self, key: str, said: Sequence[LaneLines]) -> None:
        """Store what the lanes' code has said; of a pack that has been given up, nothing."""
        with self._lock:
            pack = self._packs.find(key)
            attempts = {} if pack is None else pack.parted | pack.attempts
        if batches := log_lines_of(said, attempts):
            self._store.append_logs(self._lease, batches)

    def tell(self, message: str) -> None:
        """An event of the sweep. Once, however many packs say it; a call that fails is made again."""
        with self._acting():
            if message not in self._told:
                self._store.add_notice(self._lease, message)
                self._told.add(message)

    def pack_over(self, key: str, *, loss: Loss | None, message: str = "") -> None:
        """The pack's worker has ended, or the pack was lost. Trials of it that have not ended get another attempt, or
        end for good.
        """
        with self._acting():
            pack = self._packs.find(key)
            if pack is None:
                return
            if pack.lost is None:  # or a failed call has been here
                pack.lost = self._lost(pack, loss, message)
            if pack.lost.is_trying:  # it may have been the trying that took too much: nobody tries again
                self._packing.settle(pack.structure, ALONE)
                self.tell("Trials are trained one by one, because a worker died while it tried to train several.")
            while pack.trial_ids:
                trial = self._trials[pack.trial_ids[-1]]
                if not trial.state.is_ended:
                    self._lose(trial, pack, pack.lost)
                pack.trial_ids.pop()  # only now: a call that fails is made again
            self._rest_idle()
            self._packs.remove(pack)

    @property
    def open_packs(self) -> Sequence[str]:
        """The keys of the packs that are not over."""
        with self._lock:
            return [pack.key for pack in self._packs]

    @property
    def is_over(self) -> bool:
        """Whether a user has ended the sweep, and every trial with it, or paused it, or this process is to end, and
        nothing runs any more: what still waits for a worker may go.
        """
        with self._lock:
            if self._course.hands_over:
                return not self._packs.is_training
            if self._course.makes_trials:
                return False
            states = {trial.state for trial in self._trials.values()}
            if self._course.is_paused:
                return TrialState.RUNNING not in states
            return all(state.is_ended for state in states)

    # --- control ------------------------------------------------------------------------------------------------------

    @property
    def revision(self) -> int:
        """Of the sweep that this generation brings to its end."""
        return self._sweep.revision

    def amend(self, sweep: Sweep) -> None:
        """Go on under what a user has changed: another spec, trials to try again. Once :meth:`next_pack` has said DONE
        it is too late: that is for the next generation.
        """
        with self._acting():
            if self._is_done:
                return
            self._book.read_again()
            if self._course.is_stopped:
                self._cancel_waiting()
            plan = self._open_plan(sweep, self.trials)
            early_stopper = self._early_stopper
            if sweep.spec.early_stopping != self._spec.early_stopping:
                early_stopper = EarlyStopper(store=self._store, spec=sweep.spec)
                early_stopper.load(self.trials)
            # From here on nothing can fail: whoever has to call again finds none of it done.
            self._sweep, self._spec, self._early_stopper = sweep, sweep.spec, early_stopper
            self._book.amend(sweep, plan)
            self._packing.amend(sweep.spec, most_at_once=plan.most_at_once)
            self._losses.forget(found := self._packs.unheld())  # what failed has all its retries again
            self._queue.put(found)
            self._make_way()

    def allow(self, allowance: Allowance) -> None:
        """Let so many packs run from now on, if the sweep wants them."""
        with self._acting():
            if allowance.told:
                self.tell(allowance.told)
            if allowance != self._allowance:
                self._allowance = allowance
                self._make_way()

    def move_away(self, packs: Collection[str]) -> None:
        """The nodes of these packs leave the cluster: their trials rest at their next report and go on elsewhere."""
        with self._acting():
            self._packs.move_away(packs)

    def pause(self) -> None:
        """No new trials; those that run rest at their next report, those that wait for a worker now."""
        with self._acting():
            if self._course.is_stopped or self._course.is_cancelled:
                return
            self._course.winding_up = SweepState.PAUSING
            self._packs.put_back_waiting()
            self._rest_idle()

    def leave(self) -> None:
        """This process is to end. As in a pause nothing starts any more, and what runs leaves a checkpoint at its next
        report; but the sweep is not paused: the next generation goes on with it.
        """
        with self._acting():
            self._course.is_leaving = True
            self._packs.put_back_waiting()

    def stop(self) -> None:
        """No new trials; those that run go on to their end. Trials that never started, or rest, are cancelled."""
        with self._acting():
            if self._course.is_cancelled:
                return
            self._course.winding_up = SweepState.STOPPING
            self._cancel_waiting()

    def expect_cancel(self) -> None:
        """Start nothing more, and take the death of a worker for the cancel's. Waits neither for the store nor for a
        call that does.
        """
        self._course.winding_up = SweepState.CANCELLING

    def cancel(self) -> None:
        """End every trial now. The conductor kills the workers."""
        self.expect_cancel()
        with self._acting():
            self._cancel([trial for trial in self.trials if not trial.state.is_ended])
            self._queue.clear()

    def outcome(self) -> Outcome:
        """How the sweep ends, or rests, once :meth:`next_pack` has said DONE."""
        with self._lock:
            return outcome_of(
                self._spec, self.trials, self._course.winding_up, self._source.busy_time(self._clock.now())
            )

    # --- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _acting(self) -> Iterator[None]:
        """One call at a time, each on what the store really holds."""
        with self._lock:
            if self._is_in_doubt:
                self._read_again()
            try:
                yield
            except StoreUnavailableError:
                self._is_in_doubt = True
                raise

    def _read_again(self) -> None:
        self._queue.put(trial.id for trial in self._book.read_again())
        # Only trials of open packs can have got reports in the call that failed.
        self._early_stopper.load(self._trials[trial_id] for trial_id in self._packs.trial_ids)
        self._end_strays("The answer to its start was lost.")
        self._is_in_doubt = False

    def _end_strays(self, message: str) -> None:
        self._attempts.end_all_but(self._packs.attempt_ids, message)

    @property
    def _num_idle(self) -> int:
        """Packs that could run besides."""
        return min(self._spec.resources.parallel, self._allowance.startable) - len(self._packs)

    def _make_way(self) -> None:
        parallel, allowance = self._spec.resources.parallel, self._allowance
        self._packs.make_way(most=min(parallel, allowance.most), startable=min(parallel, allowance.startable))

    def _record(self, reports: Sequence[Report], ends: Sequence[TrialEnd], rests: Collection[str] = ()) -> None:
        self._losses.forget(self._book.record(reports, ends, rests))

    def _departure(self, trial_id: str, pack: Pack) -> Departure | None:
        """Whether a lane is to leave its pack after its report, and why."""
        if self._trials[trial_id].state.is_ended:
            return Departure.ENDED
        return Departure.RESTS if pack.lets_go or self._course.lets_rest else None

    def _part(self, trial_ids: Sequence[str], pack: Pack) -> None:
        """These trials have left the pack. Those that do not rest by now, for their pack has given way, or this process
        ends, or the user has asked for a stop since, go on in another.
        """
        message = "Fewer packs run at once now." if pack.gives_way else "The sweep was paused for a moment."
        message = "Its node leaves the cluster." if pack.must_move else message
        message = "The service is shutting down." if self._course.is_leaving else message
        for trial_id in trial_ids:
            attempt_id = pack.attempts.get(trial_id)
            if attempt_id is None:  # a failed call has been here
                continue
            if self._trials[trial_id].state is TrialState.RUNNING:
                self._attempts.end(attempt_id, message, AttemptState.PREEMPTED)
                self._queue.put([trial_id])
            pack.part(trial_id)

    def _rest_idle(self) -> None:
        """In a pause, trials that have started and are in no pack rest. They stay in the queue: a stop that comes
        before they are stored as resting finds them there.
        """
        if not self._course.is_paused:
            return
        busy = self._packs.trial_ids
        idle = [t.id for t in self.trials if t.state is TrialState.RUNNING and t.id not in busy]
        if idle:
            self._record((), (), idle)

    def _lost(self, pack: Pack, loss: Loss | None, explanation: str) -> LostPack:
        return LostPack(
            loss=loss or Loss.WORKER,
            num_lanes=len(self._packs.live(pack)),
            is_trying=loss is not None and loss.may_be_own_making and self._packs.is_trying(pack),
            message=loss.told(pack.node, explanation) if loss else "Its worker ended without a result.",
        )

    def _lose(self, trial: Trial, pack: Pack, lost: LostPack) -> None:
        """Another attempt for a trial whose pack was lost; the end for one that has lost too many."""
        if self._course.is_cancelled:
            self._cancel([trial])
            return
        attempt_id = pack.attempts.get(trial.id)
        if self._course.lets_rest:  # nobody has to try again now
            if attempt_id is not None:
                self._attempts.end(attempt_id, lost.message)
            self._queue.put([trial.id])
            return
        if lost.most_company is not None:
            self._packing.limit_company(trial.id, lost.most_company)
        if why_over := self._losses.why_over(trial.id, lost):
            self._record((), [TrialEnd(trial_id=trial.id, ending=TrialEnding.WORKER_LOST, message=why_over)])
            return
        if attempt_id is not None:
            self._attempts.end(attempt_id, lost.message)
        # A user who stops a sweep does not want what has not even started.
        if trial.state is TrialState.PENDING and self._course.is_stopped:
            self._cancel([trial])
            return
        self._losses.add(trial.id, lost)
        self._queue.put([trial.id])

    def _cancel_waiting(self) -> None:
        """End what has not started, or rests."""
        self._cancel([t for t in self.trials if t.state in (TrialState.PENDING, TrialState.RESTING)])

    def _cancel(self, trials: Sequence[Trial]) -> None:
        if trials:
            self._record((), [TrialEnd(trial_id=trial.id, ending=TrialEnding.CANCELLED) for trial in trials])
