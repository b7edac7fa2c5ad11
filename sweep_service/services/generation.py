"""One conductor generation: from the stored sweep to its end, pack by pack.

A generation loads the sweep, takes up the trials that an earlier one left unfinished, then asks the plan for new ones
until the budget is spent. Crash, restart and a first start are the same thing. Nothing here knows of Ray: the
conductor brings packs to workers and their messages back.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from pathlib import Path

from sweep_service.domain.ids import IdPrefix, new_id
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Attempt, Lease, Report, Role, Sweep, Trial
from sweep_service.ports import Clock, SweepStore, TrialEnd
from sweep_service.services.packs import LaneMessage, LaneOrder, PackOrder
from sweep_service.services.plan import Plan
from sweep_service.services.results import best_trial

logger = logging.getLogger(__name__)


class Pause(Enum):
    """Why there is no pack to start."""

    WAIT = "wait"  # others must end first
    DONE = "done"  # nothing runs and nothing will


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a sweep ends."""

    state: SweepState
    reason: SweepReason
    message: str


@dataclass(kw_only=True)
class _Pack:
    trial_ids: tuple[str, ...]
    attempts: dict[str, str] = field(default_factory=dict)  # trial id -> the attempt that this pack makes


class Generation:
    """The trials of one sweep under one lease. Every method may be called from any thread.

    Each may raise LeaseLostError: the sweep is somebody else's, and this generation must end without another write.
    """

    def __init__(
        self, *, store: SweepStore, lease: Lease, sweep: Sweep, plan: Plan, clock: Clock, checkpoint_root: Path
    ) -> None:
        self._store = store
        self._lease = lease
        self._sweep = sweep
        self._spec = sweep.spec
        self._plan = plan
        self._clock = clock
        self._checkpoint_root = checkpoint_root
        self._trials = {trial.id: trial for trial in plan.trials}
        self._packs: dict[str, _Pack] = {}
        self._waiting: deque[str] = deque()  # trials that exist and need a pack
        self._losses: Counter[str] = Counter()  # workers that a trial has lost in this generation
        self._best: Trial | None = self._trials.get(sweep.best_trial_id or "")
        self._winding_up = SweepState.RUNNING  # STOPPING or CANCELLING once a user has asked for it
        self._lock = threading.RLock()

    @property
    def trials(self) -> Sequence[Trial]:
        """Every trial as this generation knows it, by number."""
        with self._lock:
            return sorted(self._trials.values(), key=lambda trial: trial.number)

    def take_up(self) -> None:
        """Take over what an earlier generation left: its attempts are lost, its unfinished trials wait for a pack."""
        with self._lock:
            for trial in self.trials:
                if trial.state.is_ended:
                    continue
                for attempt in self._store.list_attempts(trial.id):
                    if attempt.state is AttemptState.RUNNING:
                        message = "The conductor that ran it is gone."
                        self._store.end_attempt(self._lease, attempt.id, AttemptState.LOST, message=message)
                self._waiting.append(trial.id)

    # --- what the controller of the packs calls -----------------------------------------------------------------------

    def next_pack(self, key: str) -> Pause | None:
        """Set aside the trials of a new pack under that key; None: they are, start it."""
        with self._lock:
            if len(self._packs) >= self._spec.resources.parallel:
                return Pause.WAIT
            trial_id = self._next_waiting()
            if trial_id is None:
                return Pause.WAIT if self._packs else Pause.DONE
            self._packs[key] = _Pack(trial_ids=(trial_id,))
            return None

    def begin(self, key: str, *, node: str) -> PackOrder:
        """The pack's worker is up: start an attempt of each of its trials. No lanes: do nothing, the sweep is being
        ended.
        """
        with self._lock:
            pack = self._packs.get(key, _Pack(trial_ids=()))
            trials = [self._trials[trial_id] for trial_id in pack.trial_ids]
            lanes = [self._begin_lane(pack, trial, node) for trial in trials if not trial.state.is_ended]
            threads = max(1, math.floor(self._spec.resources.cpus))
            return PackOrder(trainable=self._spec.trainable, lanes=tuple(lanes), num_threads=threads)

    def report(self, key: str, messages: Sequence[LaneMessage]) -> Collection[str]:
        """Record what the lanes say, in one transaction. The answer names the trials that are to stop now."""
        with self._lock:
            pack = self._packs.get(key)
            if pack is None:
                return [message.trial_id for message in messages]
            live = [m for m in messages if not self._trials[m.trial_id].state.is_ended]
            now = self._clock.now()
            reports = [self._report(message, pack, now) for message in live if message.metrics]
            ends = [self._end(message) for message in live if message.ending is not None]
            best = self._new_best(ends)
            self._store.record(self._lease, reports=reports, ends=ends, best=best)
            for message in live:
                self._take_message(message)
            for end in ends:
                self._take_end(end)
            if best is not None:
                self._best = self._trials[best]
            return [m.trial_id for m in messages if self._trials[m.trial_id].state.is_ended]

    def pack_over(self, key: str, *, lost: bool, message: str = "") -> None:
        """The pack's worker has ended, or died. Trials of it that have not ended get another attempt, or end for
        good.
        """
        with self._lock:
            pack = self._packs.pop(key, None)
            if pack is None:
                return
            message = message if lost else "Its worker ended without a result."
            for trial in [self._trials[trial_id] for trial_id in pack.trial_ids]:
                if not trial.state.is_ended:
                    self._lose(trial, pack.attempts.get(trial.id), message)

    # --- control ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """No new trials; those that have started go on to their end. Trials that never started are cancelled."""
        with self._lock:
            if self._winding_up is SweepState.RUNNING:
                self._winding_up = SweepState.STOPPING
                begun = {trial_id for pack in self._packs.values() for trial_id in pack.attempts}
                self._cancel([t for t in self.trials if t.state is TrialState.PENDING and t.id not in begun])

    def cancel(self) -> None:
        """End every trial now. The conductor kills the workers."""
        with self._lock:
            self._winding_up = SweepState.CANCELLING
            self._cancel([trial for trial in self.trials if not trial.state.is_ended])
            self._waiting.clear()

    def outcome(self) -> Outcome:
        """How the sweep ends, once :meth:`next_pack` has said DONE."""
        with self._lock:
            if self._winding_up is SweepState.CANCELLING:
                return Outcome(state=SweepState.CANCELLED, reason=SweepReason.USER, message="")
            if self._winding_up is SweepState.STOPPING:
                return Outcome(state=SweepState.STOPPED, reason=SweepReason.USER, message="")
            search = [trial for trial in self.trials if trial.role is Role.SEARCH]
            if not any(trial.state is TrialState.COMPLETED for trial in search):
                first = next((trial for trial in search if trial.message), None)
                because = f" The first: {first.message}" if first else ""
                message = f"None of {len(search)} search trials completed.{because}"
                return Outcome(state=SweepState.FAILED, reason=SweepReason.TOO_MANY_FAILURES, message=message)
            return Outcome(state=SweepState.COMPLETED, reason=SweepReason.BUDGET_TRIALS, message="")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _next_waiting(self) -> str | None:
        while True:
            while self._waiting:
                trial_id = self._waiting.popleft()
                if not self._trials[trial_id].state.is_ended:
                    return trial_id
            new = () if self._winding_up is not SweepState.RUNNING else self._plan.next_trials(self._clock.now())
            if not new:
                return None
            self._store.add_trials(self._lease, new)
            for trial in new:
                self._take(trial)
                self._waiting.append(trial.id)

    def _begin_lane(self, pack: _Pack, trial: Trial, node: str) -> LaneOrder:
        attempt_id = new_id(IdPrefix.ATTEMPT, now=self._clock.now())
        attempt = Attempt(
            id=attempt_id,
            trial_id=trial.id,
            sweep_id=trial.sweep_id,
            number=trial.num_attempts,
            state=AttemptState.RUNNING,
            generation=self._lease.generation,
            node=node,
            resumed_from=trial.checkpoint,
            started_at=self._clock.now(),
        )
        self._take(self._store.start_attempt(self._lease, attempt))
        pack.attempts[trial.id] = attempt_id
        return LaneOrder(
            trial_id=trial.id,
            balancer=trial.balancer,
            params=trial.params,
            evaluate_test=trial.role is Role.CONFIRM,
            checkpoint_dir=str(self._checkpoint_root / trial.sweep_id / trial.id / attempt_id),
            resume_from=trial.checkpoint,
        )

    def _report(self, message: LaneMessage, pack: _Pack, now: datetime) -> Report:
        return Report(
            sweep_id=self._sweep.id,
            trial_id=message.trial_id,
            attempt_id=pack.attempts[message.trial_id],
            step=message.step,
            metrics=message.metrics,
            objective=self._objective(message.metrics),
            checkpoint=message.checkpoint,
            reported_at=now,
        )

    def _end(self, message: LaneMessage) -> TrialEnd:
        ending, text = message.ending, message.message
        assert ending is not None
        objective = self._objective(message.metrics) if ending is TrialEnding.COMPLETED else None
        if ending is TrialEnding.COMPLETED and objective is None:
            ending, text = TrialEnding.ERROR, f"The trial did not report the objective {self._spec.objective.metric!r}."
        return TrialEnd(
            trial_id=message.trial_id,
            ending=ending,
            objective=objective,
            message=text,
            traceback=message.traceback,
            provenance=message.provenance,
        )

    def _objective(self, metrics: Mapping[str, float]) -> float | None:
        value = metrics.get(self._spec.objective.metric)
        return value if value is not None and math.isfinite(value) else None

    def _take(self, trial: Trial) -> None:
        self._trials[trial.id] = trial
        self._plan.take(trial)

    def _take_message(self, message: LaneMessage) -> None:
        trial = self._trials[message.trial_id]
        if message.metrics and message.step > trial.last_step:
            trial = replace(trial, metrics=message.metrics, last_step=message.step)
        self._trials[trial.id] = replace(trial, checkpoint=message.checkpoint or trial.checkpoint)

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

    def _new_best(self, ends: Sequence[TrialEnd]) -> str | None:
        """The trial that takes the lead by ending now, None if none does; of equal ones the first made leads."""
        ended = [replace(self._trials[end.trial_id], state=end.ending.state, objective=end.objective) for end in ends]
        best = best_trial(self._spec, [*ended, *([self._best] if self._best else [])])
        return best.id if best is not None and (self._best is None or best.id != self._best.id) else None

    def _lose(self, trial: Trial, attempt_id: str | None, message: str) -> None:
        """Another attempt for a trial whose worker died; the end for one that has lost more workers than it has
        retries.
        """
        self._losses[trial.id] += 1
        if self._losses[trial.id] > self._spec.retries:
            text = f"Its workers died {self._losses[trial.id]} times (retries: {self._spec.retries}). {message}"
            end = TrialEnd(trial_id=trial.id, ending=TrialEnding.WORKER_LOST, message=text.strip())
            self._store.record(self._lease, ends=[end])
            self._take_end(end)
            return
        if attempt_id is not None:
            self._store.end_attempt(self._lease, attempt_id, AttemptState.LOST, message=message)
        # A user who stops a sweep does not want what has not even started.
        if attempt_id is None and self._winding_up is not SweepState.RUNNING:
            self._cancel([trial])
            return
        self._waiting.append(trial.id)

    def _cancel(self, trials: Sequence[Trial]) -> None:
        ends = [TrialEnd(trial_id=trial.id, ending=TrialEnding.CANCELLED) for trial in trials]
        if ends:
            self._store.record(self._lease, ends=ends)
        for end in ends:
            self._take_end(end)
