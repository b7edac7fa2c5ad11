"""The trials of one generation, as the store has them: what is recorded there is known here, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Lease, Report, Sweep, Trial
from sweep_service.logs import log_context
from sweep_service.ports import Clock, SweepStore, TrialEnd
from sweep_service.services.checkpoints import CheckpointFolders
from sweep_service.services.plan import Plan
from sweep_service.services.ranking import best_trial, with_checkpoints

logger = logging.getLogger(__name__)


class TrialBook:
    """Trials by id, the best of them, and the writes that say how they get on and end."""

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
        self.sweep = sweep
        self.plan = plan
        self._clock = clock
        self._checkpoints = checkpoints
        self.trials = {trial.id: trial for trial in plan.trials}
        self._best: Trial | None = self.trials.get(sweep.best_trial_id or "")
        self._with_checkpoints = with_checkpoints(sweep.spec, plan.trials)

    def amend(self, sweep: Sweep, plan: Plan) -> None:
        """Go on under what a user has changed."""
        self.sweep, self.plan = sweep, plan

    @property
    def in_order(self) -> Sequence[Trial]:
        """Every trial, by number."""
        return sorted(self.trials.values(), key=lambda trial: trial.number)

    def take(self, trial: Trial) -> None:
        """A new trial, or what has become of a known one, by the store's account."""
        self.trials[trial.id] = trial
        self.plan.take(trial)
        if not trial.state.is_ended:
            self._with_checkpoints.add(trial.id)

    def read_again(self) -> Sequence[Trial]:
        """Take the trials as the store has them, after a write of which it is not known whether it happened; those that
        were not known.
        """
        found = self._store.list_trials(self.sweep.id)
        new = [trial for trial in found if trial.id not in self.trials]
        for trial in found:
            self.take(trial)
        self._best = self.trials.get(self._store.get_sweep(self.sweep.id).best_trial_id or "")
        return new

    def record(
        self, reports: Sequence[Report], ends: Sequence[TrialEnd], rests: Collection[str] = ()
    ) -> Collection[str]:
        """Store it, then know it, then remove the checkpoints that nothing will go on from. The answer names the trials
        that have a checkpoint of a later step now.
        """
        best = self._new_best(ends)
        self._store.record(self._lease, reports=reports, ends=ends, rests=rests, best=best)
        further = {report.trial_id for report in reports if self._take_report(report)}
        for end in ends:
            with log_context(trial_id=end.trial_id, trial_number=self.trials[end.trial_id].number):
                self._take_end(end)
        for trial_id in rests:
            self.take(replace(self.trials[trial_id], state=TrialState.RESTING))
        if best is not None:
            self._best = self.trials[best]
        if ends:
            self._drop_checkpoints()
        return further

    def _drop_checkpoints(self) -> None:
        """Those that nobody needs any more."""
        kept = with_checkpoints(self.sweep.spec, list(self.trials.values()))
        for trial_id in self._with_checkpoints - kept:
            self._checkpoints.drop_trial(trial_id)
        self._with_checkpoints = kept

    def _new_best(self, ends: Sequence[TrialEnd]) -> str | None:
        """The trial that takes the lead by ending now, None if none does; of equal ones the first made leads."""
        ended = [replace(self.trials[end.trial_id], state=end.ending.state, objective=end.objective) for end in ends]
        best = best_trial(self.sweep.spec, [*ended, *([self._best] if self._best else [])])
        return best.id if best is not None and (self._best is None or best.id != self._best.id) else None

    def _take_report(self, report: Report) -> bool:
        """Whether the trial has a checkpoint of a later step by it."""
        trial = self.trials[report.trial_id]
        gets_on = report.step > trial.last_step
        if gets_on:
            trial = replace(trial, metrics=report.metrics, last_step=report.step)
        self.trials[trial.id] = replace(trial, checkpoint=report.checkpoint or trial.checkpoint)
        if report.checkpoint is not None and trial.num_attempts > 1:
            self._checkpoints.drop_earlier_attempts(trial.id, than=report.attempt_id)
        return gets_on and report.checkpoint is not None

    def _take_end(self, end: TrialEnd) -> None:
        ended = replace(
            self.trials[end.trial_id],
            state=end.ending.state,
            ending=end.ending,
            objective=end.objective,
            message=end.message,
            traceback=end.traceback,
            ended_at=self._clock.now(),
        )
        self.take(ended)
        if end.ending.state is TrialState.FAILED:
            logger.warning("Trial %s (%d) failed: %s", ended.id, ended.number, end.message)
