"""From the outbox to the tracking server: in order, as often as needed, off the training path.

The reports table is the outbox. One loop per sweep makes the runs, writes what has not been delivered and closes the
runs of the trials that have ended. A tracking server that is down delays results and loses none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sweep_service.domain.errors import ModelUnusableError, TrackingUnavailableError
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Lease, Sweep, Trial
from sweep_service.ports import SweepStore, Tracker

logger = logging.getLogger(__name__)

BATCH_REPORTS = 200  # of some ten to twenty metrics each: a few calls of a thousand metrics, a fraction of a second


class Delivery:
    """Carries one sweep's results to the tracker. Not thread-safe: one loop owns it.

    Methods raise LeaseLostError when the sweep is somebody else's, TrackingUnavailableError when the server does not
    answer; calling them again goes on where they fell.
    """

    def __init__(self, *, store: SweepStore, tracker: Tracker, lease: Lease) -> None:
        self._store = store
        self._tracker = tracker
        self._lease = lease
        self._closed: set[str] = set()  # trials whose run has been closed in this generation
        self._is_late = False  # the server did not answer the last time
        self._without_model: str | None = None  # the best trial, once its model has been given up

    def deliver(self) -> None:
        """Bring the tracker up to date with the store, once."""
        sweep = self._store.get_sweep(self._lease.sweep_id)
        sweep_ref = self._sweep_ref(sweep)
        # Read before the outbox: what is ended here has all its reports in there, so that no run is closed too early.
        trials = self._store.list_trials(sweep.id)
        refs = {trial.id: ref for trial in trials if (ref := self._trial_ref(sweep, sweep_ref, trial))}
        self._empty_outbox(refs)
        for trial in trials:
            if trial.state.is_ended and trial.id in refs and trial.id not in self._closed:
                self._tracker.close_trial(refs[trial.id], trial)
                self._closed.add(trial.id)

    def try_deliver(self) -> bool:
        """:meth:`deliver`, unless the server does not answer, which is said once in the sweep's events."""
        try:
            self.deliver()
        except TrackingUnavailableError as error:
            if not self._is_late:
                logger.warning("Results of %s wait for the tracking server: %s", self._lease.sweep_id, error)
                notice = "The tracking server does not answer; training goes on and results are kept until it does."
                self._store.add_notice(self._lease, f"{notice} {error}")
            self._is_late = True
            return False
        if self._is_late:
            self._store.add_notice(self._lease, "The tracking server answers again; every result has been delivered.")
        self._is_late = False
        return True

    def finish(self, sweep: Sweep, trials: Sequence[Trial]) -> None:
        """Deliver what is left, the best model and the sweep's results, and close its run.

        ``sweep`` carries the state that it is about to end in.
        """
        self.deliver()
        ref = self._sweep_ref(sweep)
        best = next((trial for trial in trials if trial.id == sweep.best_trial_id), None)
        if best is not None and best.checkpoint is not None:
            self._store_model(ref, sweep, best, Path(best.checkpoint))
        reports = self._store.list_reports(best.id) if best is not None else ()
        self._tracker.close_sweep(ref, replace(sweep, tracking_ref=ref), trials, reports)

    def _store_model(self, ref: str, sweep: Sweep, best: Trial, checkpoint: Path) -> None:
        """The best trial's model; a sweep whose model is lost still has its results, and says so."""
        if best.id == self._without_model:
            return
        try:
            self._tracker.log_model(ref, sweep, best, checkpoint)
        except ModelUnusableError as error:
            logger.warning("%s ends without the model of its best trial.", sweep.id, exc_info=error)
            self._store.add_notice(self._lease, f"The best trial's model is not stored. {error}", trial_id=best.id)
            self._without_model = best.id

    def _sweep_ref(self, sweep: Sweep) -> str:
        if sweep.tracking_ref is not None:
            return sweep.tracking_ref
        ref = self._tracker.open_sweep(sweep)
        self._store.set_tracking_ref(self._lease, ref)
        return ref

    def _trial_ref(self, sweep: Sweep, sweep_ref: str, trial: Trial) -> str | None:
        if trial.tracking_ref is not None or trial.state is TrialState.PENDING or trial.started_at is None:
            return trial.tracking_ref
        ref = self._tracker.open_trial(sweep, sweep_ref, trial)
        self._store.set_tracking_ref(self._lease, ref, trial_id=trial.id)
        return ref

    def _empty_outbox(self, refs: dict[str, str]) -> None:
        while True:
            reports = self._store.undelivered(self._lease.sweep_id, limit=BATCH_REPORTS)
            # A trial that started after the list was read has no run yet; the order forbids to go on past its reports.
            known: list = []
            for report in reports:
                if report.trial_id not in refs:
                    break
                known.append(report)
            if not known:
                return
            self._tracker.log_reports(refs, known)
            self._store.mark_delivered(self._lease, up_to=known[-1].seq)
