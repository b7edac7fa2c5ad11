"""Where a generation's new trials come from: the plan makes them, and they are stored before anybody has them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sweep_service.domain.trial import Lease
from sweep_service.ports import Clock, SweepStore
from sweep_service.services.course import Course
from sweep_service.services.trial_book import TrialBook


class TrialSource:
    """Implements :class:`~sweep_service.services.trial_queue.NewTrials`."""

    def __init__(self, *, store: SweepStore, lease: Lease, book: TrialBook, clock: Clock, course: Course) -> None:
        self._store = store
        self._lease = lease
        self._book = book
        self._clock = clock
        self._course = course

    def ask(self) -> Sequence[str]:
        if not self._course.makes_trials:
            return ()
        now = self._clock.now()
        new = self._book.plan.next_trials(now, self.busy_time(now))
        if new:
            self._store.add_trials(self._lease, new)
        for trial in new:
            self._book.take(trial)
        return [trial.id for trial in new]

    @property
    def num_askable(self) -> int:
        return self._book.plan.num_askable if self._course.makes_trials else 0

    def busy_time(self, now: datetime) -> timedelta:
        """How long the sweep's packs have taken; not asked where nothing depends on it."""
        if self._book.sweep.spec.budget.gpu_hours is None:
            return timedelta(0)
        return self._store.busy_time(self._book.sweep.id).until(now)
