"""From the outbox to the tracking server: in order, as often as needed, off the training path.

The reports table is the outbox. One loop per sweep makes the runs, writes what has not been delivered and closes the
runs of the trials that have ended. A tracking server that is down delays results and loses none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import takewhile

from sweep_service.domain.errors import (
    CheckpointsUnavailableError,
    LeaseLostError,
    ModelUnusableError,
    StoreUnavailableError,
    TrackingRefusedError,
    TrackingUnavailableError,
)
from sweep_service.domain.states import SweepState
from sweep_service.domain.trial import Lease, Report, Sweep, Trial
from sweep_service.logs import log_context
from sweep_service.ports import SweepStore
from sweep_service.services.reports import contenders_curves
from sweep_service.tracker_port import Tracker

logger = logging.getLogger(__name__)

BATCH_REPORTS = 200  # of some ten to twenty metrics each: a few calls of a thousand metrics, a fraction of a second
DELIVERY_INTERVAL_S, MOST_LATE_S = 2.0, 10.0  # between deliveries; whoever looks at curves waits so long
_SERVER, _BUCKET = "The tracking server", "The storage of checkpoints"
MOST_OF_A_PROCESSOR = 0.05  # for delivering, which takes it from the trials where they have the same machine


def pause_after(took_s: float) -> float:
    """Seconds until the next delivery, the last one having taken so many. Each costs a transaction a run, however many
    reports the run has in it: of many runs it is cheaper to wait for more.
    """
    return min(max(DELIVERY_INTERVAL_S, took_s / MOST_OF_A_PROCESSOR), MOST_LATE_S)


class Delivery:
    """Carries one sweep's results to the tracker. Not thread-safe: one loop owns it.

    Methods raise LeaseLostError when the sweep is somebody else's, StoreUnavailableError when the store is away;
    calling them again goes on where they fell. What the server will never take is left out, and said in an event.
    """

    def __init__(self, *, store: SweepStore, tracker: Tracker, lease: Lease) -> None:
        self._store = store
        self._tracker = tracker
        self._lease = lease
        self._opened: tuple[int, str] | None = None  # the sweep's run: as of which revision, and its id
        self._closed: set[str] = set()  # trials whose run has been closed in this generation
        self._all_closed_up_to = -1  # number; the trials up to it need not be looked at any more
        self._refused: set[str] = set()  # trials whose run the server does not take
        self._away: set[str] = set()  # who did not answer the last time, and has been said not to
        self._told: set[str] = set()  # notices given in this generation

    def try_deliver(self) -> bool:
        """Bring the tracker up to date with the store; False: not all the way, or not at all.

        A server that does not answer is said once in the sweep's events, and once that it answers again.
        """
        try:
            self._deliver()
        except TrackingUnavailableError as error:
            self._take_note_of_delay(error)
            return False
        except TrackingRefusedError as error:
            self._notice(f"The tracking server does not take this sweep's results. {error}")
            return False
        self._take_note_of_answer(_SERVER)
        return True

    def try_finish(self, sweep: Sweep, trials: Sequence[Trial]) -> bool:
        """Deliver what is left, the best model and the sweep's results, and close its run. False: try again later.

        ``sweep`` carries the state that it is about to end in. A fault of ours in writing the results is said in the
        sweep's events, and is no reason not to end it: the results are in the store.
        """
        try:
            self._finish(sweep, trials)
        except (TrackingUnavailableError, CheckpointsUnavailableError) as error:
            self._take_note_of_delay(error)
            return False
        except (LeaseLostError, StoreUnavailableError):
            raise
        except TrackingRefusedError as error:
            self._notice(f"The tracking server does not take this sweep's results. {error}")
        except Exception as error:
            logger.exception("The results of %s could not be written to the tracking server.", sweep.id)
            self._notice(f"The results could not be written to the tracking server. {type(error).__name__}: {error}")
        self._take_note_of_answer(_SERVER, _BUCKET)
        return True

    def try_late(self, sweep: Sweep, trials: Sequence[Trial]) -> bool:
        """:meth:`try_finish` for a sweep that has ended; that the server did not answer has been said."""
        self._away = {_SERVER}
        return self.try_finish(sweep, trials)

    def _deliver(self) -> None:
        sweep = self._store.get_sweep(self._lease.sweep_id)
        if self._opened is not None and self._opened[0] != sweep.revision:
            self._look_at_all_again()
        sweep_ref = self._sweep_ref(sweep)
        # Read before the outbox: what is ended here has all its reports in there, so that no run is closed too early.
        trials = self._store.list_trials(sweep.id, after=self._all_closed_up_to)
        refs = {trial.id: ref for trial in trials if (ref := self._trial_ref(sweep, sweep_ref, trial))}
        self._empty_outbox(refs)
        for trial in trials:
            if trial.state.is_ended and trial.id in refs and trial.id not in self._closed:
                with self._refusal_of(trial):
                    self._tracker.close_trial(refs[trial.id], trial)
                self._closed.add(trial.id)
        for trial in takewhile(self._needs_nothing_more, trials):
            self._all_closed_up_to = trial.number

    def _look_at_all_again(self) -> None:
        """Trials whose runs had been closed may be tried again, or have been by now: those are without a run."""
        trials = self._store.list_trials(self._lease.sweep_id)
        self._closed -= {trial.id for trial in trials if trial.tracking_ref is None or not trial.state.is_ended}
        self._all_closed_up_to = -1

    def _needs_nothing_more(self, trial: Trial) -> bool:
        """Closed, refused, or ended before it ever started and so without a run."""
        is_settled = trial.id in self._closed or trial.id in self._refused or trial.started_at is None
        return trial.state.is_ended and is_settled

    def _finish(self, sweep: Sweep, trials: Sequence[Trial]) -> None:
        self._deliver()
        ref = self._sweep_ref(sweep)
        best = next((trial for trial in trials if trial.id == sweep.best_trial_id), None)
        if best is not None and best.checkpoint is not None:
            self._store_model(ref, sweep, best, best.checkpoint)
        curves = contenders_curves(self._store, sweep.results or {})
        self._tracker.close_sweep(ref, replace(sweep, tracking_ref=ref), trials, curves)

    def _store_model(self, ref: str, sweep: Sweep, best: Trial, checkpoint: str) -> None:
        """The best trial's model; a sweep whose model is lost still has its results, and says so."""
        try:
            self._tracker.log_model(ref, sweep, best, checkpoint)
        except (ModelUnusableError, TrackingRefusedError) as error:
            logger.warning("%s ends without the model of its best trial. %s", sweep.id, error)
            self._notice(f"The best trial's model is not stored. {error}", trial_id=best.id)
            return
        name = sweep.spec.tracking.register_as
        if name is not None and sweep.state in (SweepState.COMPLETED, SweepState.STOPPED):
            self._register_model(ref, sweep, best, name)

    def _register_model(self, ref: str, sweep: Sweep, best: Trial, name: str) -> None:
        """A sweep that was cancelled or failed puts nobody else's model out of its place, so it never comes here."""
        try:
            version = self._tracker.register_model(ref, sweep, best, name)
        except TrackingRefusedError as error:
            logger.warning("%s ends without its model being registered. %s", sweep.id, error)
            self._notice(f"The model of trial {best.number} is not registered as {name!r}. {error}", trial_id=best.id)
            return
        if version is not None:
            fact = f"registered as {name}, version {version}, with the alias champion"
            self._notice(f"The model of trial {best.number} is {fact}.", trial_id=best.id)

    def _sweep_ref(self, sweep: Sweep) -> str:
        """Opened once in a generation, for the sweep may have been re-opened; and again with another spec."""
        if self._opened is None or self._opened[0] != sweep.revision:
            ref = self._tracker.open_sweep(sweep)
            if ref != sweep.tracking_ref:
                self._store.set_tracking_ref(self._lease, ref)
            self._opened = sweep.revision, ref
        return self._opened[1]

    def _trial_ref(self, sweep: Sweep, sweep_ref: str, trial: Trial) -> str | None:
        if trial.tracking_ref is not None or trial.started_at is None or trial.id in self._refused:
            return trial.tracking_ref
        with self._refusal_of(trial):
            ref = self._tracker.open_trial(sweep, sweep_ref, trial)
            self._store.set_tracking_ref(self._lease, ref, trial_id=trial.id)
            return ref
        return None

    def _empty_outbox(self, refs: Mapping[str, str]) -> None:
        while True:
            reports: list[Report] = []
            for report in self._store.undelivered(self._lease.sweep_id, limit=BATCH_REPORTS):
                # A trial that started after the list was read has no run yet; the order forbids to go on past its
                # reports.
                if report.trial_id not in refs and report.trial_id not in self._refused:
                    break
                reports.append(report)
            if not reports:
                return
            self._tracker.log_reports(refs, [report for report in reports if report.trial_id in refs])
            self._store.mark_delivered(self._lease, up_to=reports[-1].seq)

    @contextmanager
    def _refusal_of(self, trial: Trial) -> Iterator[None]:
        """A run that the server does not take (somebody has deleted it, say) must not hold up the others."""
        with log_context(trial_id=trial.id, trial_number=trial.number):
            try:
                yield
            except TrackingRefusedError as error:
                logger.warning("The tracking server does not take trial %d of %s.", trial.number, trial.sweep_id)
                self._refused.add(trial.id)
                message = f"The tracking server does not take the results of trial {trial.number}. {error}"
                self._notice(message, trial_id=trial.id)

    def _notice(self, message: str, *, trial_id: str | None = None) -> None:
        """An event of the sweep, unless this generation has said the same before."""
        if message not in self._told:
            self._store.add_notice(self._lease, message, trial_id=trial_id)
            self._told.add(message)

    def _take_note_of_delay(self, error: TrackingUnavailableError | CheckpointsUnavailableError) -> None:
        who, what_goes_on = _SERVER, "training goes on and results are kept until it does"
        if isinstance(error, CheckpointsUnavailableError):
            who, what_goes_on = _BUCKET, "the sweep ends when the model of its best trial can be read"
        if who not in self._away:
            logger.warning("Results of %s wait. %s does not answer: %s", self._lease.sweep_id, who, error)
            self._store.add_notice(self._lease, f"{who} does not answer; {what_goes_on}. {error}")
        self._away.add(who)

    def _take_note_of_answer(self, *whose: str) -> None:
        for who in sorted(self._away.intersection(whose)):
            self._store.add_notice(self._lease, f"{who} answers again.")
        self._away.difference_update(whose)
