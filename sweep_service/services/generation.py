"""One conductor generation: from the stored sweep to its end, pack by pack.

A generation loads the sweep, takes up the trials that an earlier one left unfinished, then asks the plan for new ones
until the budget is spent. Crash, restart and a first start are the same thing. Nothing here knows of Ray: the
conductor brings packs to workers and their messages back.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from enum import Enum

from sweep_service.domain.errors import IllegalMoveError, PackOverError, StoreUnavailableError
from sweep_service.domain.ids import IdPrefix, new_id
from sweep_service.domain.logs import LogLines
from sweep_service.domain.states import AttemptState, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Attempt, Lease, Report, Role, Sweep, Trial
from sweep_service.ports import Clock, SweepStore, TrialEnd
from sweep_service.services.checkpoints import CheckpointFolders
from sweep_service.services.early_stopping import EarlyStopper
from sweep_service.services.lane_messages import end_of, report_of
from sweep_service.services.outcome import Outcome, outcome_of
from sweep_service.services.packing import Pack, Packing, together
from sweep_service.services.packs import LaneLines, LaneMessage, LaneOrder, PackOrder
from sweep_service.services.plan import Plan
from sweep_service.services.ranking import best_trial
from sweep_service.services.trial_queue import TrialQueue

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
        plan: Plan,
        clock: Clock,
        checkpoints: CheckpointFolders,
    ) -> None:
        self._store = store
        self._lease = lease
        self._sweep = sweep
        self._spec = sweep.spec
        self._plan = plan
        self._clock = clock
        self._checkpoints = checkpoints
        self._early_stopper = EarlyStopper(store=store, spec=sweep.spec)
        self._trials = {trial.id: trial for trial in plan.trials}
        self._packs: dict[str, Pack] = {}
        self._packing = Packing(spec=sweep.spec, trainable=plan.trainable, most_at_once=plan.most_at_once)
        self._queue = TrialQueue(resources=sweep.spec.resources, packing=self._packing, trials=self._trials, new=self)
        self._losses: Counter[str] = Counter()  # workers that a trial has lost since its last checkpoint
        self._best: Trial | None = self._trials.get(sweep.best_trial_id or "")
        self._winding_up = SweepState.RUNNING  # STOPPING or CANCELLING once a user has asked for it
        self._is_in_doubt = False  # the store failed in a write: it may have happened, or not
        self._lock = threading.RLock()

    @property
    def trials(self) -> Sequence[Trial]:
        """Every trial as this generation knows it, by number."""
        with self._lock:
            return sorted(self._trials.values(), key=lambda trial: trial.number)

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
            if self._winding_up is SweepState.CANCELLING:
                return Pause.DONE
            if len(self._packs) >= self._spec.resources.parallel:
                return Pause.WAIT
            trial_id = self._queue.take()
            if trial_id is None:
                return Pause.WAIT if self._packs else Pause.DONE
            structure = self._packing.structure(self._trials[trial_id])
            pack = Pack(key=key, structure=structure, trial_ids=[trial_id])
            if self._packing.is_settled(pack.structure):
                try:
                    self._queue.fill(pack, places=self._places(pack), num_live=1, num_idle=self._num_idle - 1)
                except StoreUnavailableError:
                    self._queue.put_first(pack.trial_ids)  # to be set aside when it answers again
                    raise
            self._packs[key] = pack
            return None

    def begin(self, key: str, *, node: str) -> PackOrder:
        """The pack's worker is up: start an attempt of each of its trials. No lanes: do nothing, the sweep is being
        ended.

        Raises:
            PackOverError: the pack has been given up.
        """
        with self._acting():
            pack = self._known(key)
            pack.node = node
            is_wanted = self._winding_up is not SweepState.CANCELLING
            resources = self._spec.resources
            return PackOrder(
                trainable=self._spec.trainable,
                lanes=tuple(self._begin_lane(pack, trial) for trial in self._live(pack) if is_wanted),
                places=self._places(pack),
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
            pack = self._known(key)
            self._packing.settle(pack.structure, places)
            self._tell(f"Trials are trained one by one, because {reason}." if reason else together(places))

    def refill(self, key: str, free: int) -> Sequence[LaneOrder]:
        """Trials for free places of a pack that runs; none: for now there are none that may be trained in it.

        Raises:
            PackOverError: the pack has been given up.
        """
        with self._acting():
            pack = self._known(key)
            is_needed = self._num_idle <= 0 and self._queue.has_others_than(pack.structure)
            if self._winding_up is SweepState.CANCELLING or is_needed:
                return ()
            # Those that an earlier call set aside and could not begin come first.
            live = self._live(pack)
            num_begun = sum(trial.id in pack.attempts for trial in live)
            places = min(self._places(pack), num_begun + free)
            self._queue.fill(pack, places=places, num_live=len(live), num_idle=self._num_idle)
            new = [trial for trial in self._live(pack) if trial.id not in pack.attempts]
            return [self._begin_lane(pack, trial) for trial in new]

    def split(self, key: str, places: int, message: str) -> None:
        """The pack cannot go on with so many lanes: its trials go on from their last checkpoints in packs of at most
        so many.

        Raises:
            PackOverError: the pack has been given up.
        """
        with self._acting():
            pack = self._known(key)
            self._packing.settle(pack.structure, places)
            self._tell(f"A pack of {len(self._live(pack))} trials is split up: {message}")
            for trial in reversed(self._live(pack)):
                if trial.id in pack.attempts:
                    self._end_attempt(pack.attempts[trial.id], message, AttemptState.PREEMPTED)
                pack.trial_ids.remove(trial.id)  # only now: a call that fails is made again
                pack.attempts.pop(trial.id, None)
                self._queue.put_first([trial.id])

    def report(self, key: str, messages: Sequence[LaneMessage]) -> Collection[str]:
        """Record what the lanes say, in one transaction. The answer names the trials that are to stop now.

        Raises:
            PackOverError: the pack has been given up, and its trials may be in other hands: nothing was recorded.
        """
        with self._acting():
            pack = self._known(key)
            live = [m for m in messages if not self._trials[m.trial_id].state.is_ended]
            now = self._clock.now()
            objective = self._spec.objective
            reports = [
                report_of(m, pack.attempts[m.trial_id], objective, self._sweep.id, now) for m in live if m.metrics
            ]
            ends = [end_of(message, self._spec) for message in live if message.ending is not None]
            done = {end.trial_id for end in ends}
            self._record(reports, [*ends, *self._early_stopper.ends(reports, self._trials, ending=done)])
            return [m.trial_id for m in messages if self._trials[m.trial_id].state.is_ended]

    def log(self, key: str, said: Sequence[LaneLines]) -> None:
        """Store what the lanes' code has said; of a pack that has been given up, nothing."""
        with self._lock:
            attempts = dict(self._packs[key].attempts) if key in self._packs else {}
        batches = [
            LogLines(trial_id=s.trial_id, attempt_id=attempts[s.trial_id], first=s.first, lines=s.lines)
            for s in said
            if s.trial_id in attempts
        ]
        if batches:
            self._store.append_logs(self._lease, batches)

    def pack_over(self, key: str, *, lost: bool, message: str = "") -> None:
        """The pack's worker has ended, or died. Trials of it that have not ended get another attempt, or end for
        good.
        """
        with self._acting():
            pack = self._packs.get(key)
            if pack is None:
                return
            message = message if lost else "Its worker ended without a result."
            num_lanes = len(self._live(pack))
            while pack.trial_ids:
                trial = self._trials[pack.trial_ids[-1]]
                if not trial.state.is_ended:
                    self._lose(trial, pack.attempts.get(trial.id), message, num_lanes)
                pack.trial_ids.pop()  # only now: a call that fails is made again
            del self._packs[key]

    @property
    def open_packs(self) -> Sequence[str]:
        """The keys of the packs that are not over."""
        with self._lock:
            return list(self._packs)

    @property
    def is_over(self) -> bool:
        """Whether a user has ended the sweep, and every trial with it: what still waits for a worker may go."""
        with self._lock:
            return self._winding_up is not SweepState.RUNNING and all(t.state.is_ended for t in self._trials.values())

    # --- control ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """No new trials; those that have started go on to their end. Trials that never started are cancelled."""
        with self._acting():
            if self._winding_up is SweepState.CANCELLING:
                return
            self._winding_up = SweepState.STOPPING
            self._cancel([trial for trial in self.trials if trial.state is TrialState.PENDING])

    def expect_cancel(self) -> None:
        """Start nothing more, and take the death of a worker for the cancel's. Waits neither for the store nor for a
        call that does.
        """
        self._winding_up = SweepState.CANCELLING

    def cancel(self) -> None:
        """End every trial now. The conductor kills the workers."""
        self.expect_cancel()
        with self._acting():
            self._cancel([trial for trial in self.trials if not trial.state.is_ended])
            self._queue.clear()

    def outcome(self) -> Outcome:
        """How the sweep ends, once :meth:`next_pack` has said DONE."""
        with self._lock:
            return outcome_of(self._spec, self.trials, self._winding_up, self._busy_time(self._clock.now()))

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
        for trial in self._store.list_trials(self._sweep.id):
            if trial.id not in self._trials:
                self._queue.put([trial.id])
            self._take(trial)
        # Only trials of open packs can have got reports in the call that failed.
        self._early_stopper.load(self._trials[trial_id] for pack in self._packs.values() for trial_id in pack.trial_ids)
        self._best = self._trials.get(self._store.get_sweep(self._sweep.id).best_trial_id or "")
        self._end_strays("The answer to its start was lost.")
        self._is_in_doubt = False

    def _end_strays(self, message: str) -> None:
        """End what runs by the store's account and is not of a pack of this generation."""
        own = {attempt_id for pack in self._packs.values() for attempt_id in pack.attempts.values()}
        for trial in self.trials:
            if trial.state is not TrialState.RUNNING:
                continue
            for attempt in self._store.list_attempts(trial.id):
                if attempt.state is AttemptState.RUNNING and attempt.id not in own:
                    self._store.end_attempt(self._lease, attempt.id, AttemptState.LOST, message=message)

    @property
    def _num_idle(self) -> int:
        """Packs that could run besides."""
        return self._spec.resources.parallel - len(self._packs)

    def _live(self, pack: Pack) -> Sequence[Trial]:
        """The pack's trials that have not ended."""
        trials = [self._trials[trial_id] for trial_id in pack.trial_ids]
        return [trial for trial in trials if not trial.state.is_ended]

    def _places(self, pack: Pack) -> int:
        return self._packing.places(pack.structure, self._live(pack))

    def _tell(self, message: str) -> None:
        if self._packing.is_news(message):
            self._store.add_notice(self._lease, message)

    def _known(self, key: str) -> Pack:
        pack = self._packs.get(key)
        if pack is None:
            raise PackOverError(f"The pack {key} has been given up.")
        return pack

    def ask(self) -> int:
        """Have the plan make new trials and queue them. Called by the queue, within the other calls."""
        if self._winding_up is not SweepState.RUNNING:
            return 0
        now = self._clock.now()
        new = self._plan.next_trials(now, self._busy_time(now))
        if new:
            self._store.add_trials(self._lease, new)
        for trial in new:
            self._take(trial)
        self._queue.put(trial.id for trial in new)
        return len(new)

    @property
    def num_askable(self) -> int:
        """Trials that could be asked for now; called by the queue."""
        return self._plan.num_askable if self._winding_up is SweepState.RUNNING else 0

    def _busy_time(self, now: datetime) -> timedelta:
        """How long the sweep's attempts have taken; not asked where nothing depends on it."""
        if self._spec.budget.gpu_hours is None:
            return timedelta(0)
        return self._store.busy_time(self._sweep.id).until(now)

    def _begin_lane(self, pack: Pack, trial: Trial) -> LaneOrder:
        resume_from = self._resumable(trial)
        if trial.id not in pack.attempts:
            pack.attempts[trial.id] = self._start_attempt(trial, pack, resume_from)
        return LaneOrder(
            trial_id=trial.id,
            balancer=trial.balancer,
            params=trial.params,
            evaluate_test=trial.role is Role.CONFIRM,
            checkpoint_dir=str(self._checkpoints.of_attempt(trial.id, pack.attempts[trial.id])),
            resume_from=resume_from,
        )

    def _resumable(self, trial: Trial) -> str | None:
        """The trial's checkpoint; None, and a notice, where the file is gone: training anew gives the same result."""
        if trial.checkpoint is None or self._checkpoints.is_there(trial.checkpoint):
            return trial.checkpoint
        message = f"The checkpoint {trial.checkpoint} of trial {trial.number} is gone; it trains from its first step."
        self._store.add_notice(self._lease, message, trial_id=trial.id)
        return None

    def _start_attempt(self, trial: Trial, pack: Pack, resume_from: str | None) -> str:
        now = self._clock.now()
        attempt = Attempt(
            id=new_id(IdPrefix.ATTEMPT, now=now),
            trial_id=trial.id,
            sweep_id=trial.sweep_id,
            number=trial.num_attempts,
            state=AttemptState.RUNNING,
            generation=self._lease.generation,
            pack=pack.key,
            node=pack.node,
            resumed_from=resume_from,
            started_at=now,
        )
        self._take(self._store.start_attempt(self._lease, attempt))
        return attempt.id

    def _take(self, trial: Trial) -> None:
        self._trials[trial.id] = trial
        self._plan.take(trial)

    def _record(self, reports: Sequence[Report], ends: Sequence[TrialEnd]) -> None:
        """Store it, then know it, then remove the checkpoints that nothing will go on from."""
        best = self._new_best(ends)
        self._store.record(self._lease, reports=reports, ends=ends, best=best)
        for report in reports:
            self._take_report(report)
        for end in ends:
            self._take_end(end)
        done = [end.trial_id for end in ends]
        if best is not None:
            done += [self._best.id] if self._best else []
            self._best = self._trials[best]
        for trial_id in done:
            if self._best is None or trial_id != self._best.id:
                self._checkpoints.drop_trial(trial_id)

    def _new_best(self, ends: Sequence[TrialEnd]) -> str | None:
        """The trial that takes the lead by ending now, None if none does; of equal ones the first made leads."""
        ended = [replace(self._trials[end.trial_id], state=end.ending.state, objective=end.objective) for end in ends]
        best = best_trial(self._spec, [*ended, *([self._best] if self._best else [])])
        return best.id if best is not None and (self._best is None or best.id != self._best.id) else None

    def _take_report(self, report: Report) -> None:
        trial = self._trials[report.trial_id]
        gets_on = report.step > trial.last_step
        if gets_on:
            trial = replace(trial, metrics=report.metrics, last_step=report.step)
        self._trials[trial.id] = replace(trial, checkpoint=report.checkpoint or trial.checkpoint)
        if report.checkpoint is not None:
            if gets_on:
                self._losses.pop(trial.id, None)
            if trial.num_attempts > 1:
                self._checkpoints.drop_earlier_attempts(trial.id, than=report.attempt_id)

    def _take_end(self, end: TrialEnd) -> None:
        ended = replace(
            self._trials[end.trial_id],
            state=end.ending.state,
            ending=end.ending,
            objective=end.objective,
            message=end.message,
            traceback=end.traceback,
            ended_at=self._clock.now(),
        )
        self._take(ended)
        if end.ending.state is TrialState.FAILED:
            logger.warning("Trial %s (%d) failed: %s", ended.id, ended.number, end.message)

    def _lose(self, trial: Trial, attempt_id: str | None, message: str, num_lanes: int) -> None:
        """Another attempt for a trial whose worker died; the end for one that has lost more workers than it has
        retries.

        In company nobody knows whose fault it was: that counts against none of them, but they go on in packs of half
        the size. What kills its worker is alone in the end.
        """
        if self._winding_up is SweepState.CANCELLING:
            self._cancel([trial])
            return
        losses = self._losses[trial.id] + (num_lanes == 1)
        if num_lanes > 1:
            self._packing.lost_in_company(trial.id, num_lanes)
        if losses > self._spec.retries:
            text = f"Its workers died {losses} times (retries: {self._spec.retries}). {message}"
            end = TrialEnd(trial_id=trial.id, ending=TrialEnding.WORKER_LOST, message=text.strip())
            self._record((), [end])
            return
        if attempt_id is not None:
            self._end_attempt(attempt_id, message)
        # A user who stops a sweep does not want what has not even started.
        if trial.state is TrialState.PENDING and self._winding_up is not SweepState.RUNNING:
            self._cancel([trial])
            return
        self._losses[trial.id] = losses
        self._queue.put([trial.id])

    def _end_attempt(self, attempt_id: str, message: str, state: AttemptState = AttemptState.LOST) -> None:
        try:
            self._store.end_attempt(self._lease, attempt_id, state, message=message)
        except IllegalMoveError:
            logger.info("Attempt %s had ended already, in a write whose answer was lost.", attempt_id)

    def _cancel(self, trials: Sequence[Trial]) -> None:
        if trials:
            self._record((), [TrialEnd(trial_id=trial.id, ending=TrialEnding.CANCELLED) for trial in trials])
