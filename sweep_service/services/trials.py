"""What may be seen of single trials: what became of one, and its curves."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from sweep_service.domain.ids import check_trial_id
from sweep_service.domain.logs import KeptLine
from sweep_service.domain.trial import Attempt, Report, Trial
from sweep_service.ports import SweepStore
from sweep_service.services.pages import Page, page_of


@dataclass(frozen=True, kw_only=True)
class TrialHistory:
    """A trial with every try at it."""

    trial: Trial
    attempts: tuple[Attempt, ...]  # by number


@dataclass(frozen=True, kw_only=True)
class Curves:
    """A part of a trial's reports, in the order of their recording."""

    reports: tuple[Report, ...]
    last_seq: int  # where to read on: the position of the last report looked at, whether it is among them or not
    has_more: bool


class TrialService:
    """Trials as their users see them.

    Any method may raise StoreUnavailableError, and TrialNotFoundError, also for text that is no id at all.
    """

    def __init__(self, *, store: SweepStore) -> None:
        self._store = store

    def get(self, trial_id: str) -> TrialHistory:
        """The trial and its attempts."""
        check_trial_id(trial_id)
        trial = self._store.get_trial(trial_id)
        return TrialHistory(trial=trial, attempts=tuple(self._store.list_attempts(trial_id)))

    def curves(self, trial_id: str, *, keys: Collection[str] = (), after: int = 0, limit: int = 50) -> Curves:
        """The next ``limit`` reports with a seq above ``after``, with the metrics of those keys only (with all of them
        if none is given); a report that has none of them is left out.
        """
        check_trial_id(trial_id)
        found = self._store.list_reports_after(trial_id, after=after, limit=limit + 1)
        page = found[:limit]
        shown = [_only(report, keys) for report in page] if keys else page
        return Curves(
            reports=tuple(report for report in shown if report.metrics),
            last_seq=page[-1].seq if page else after,
            has_more=len(found) > limit,
        )

    def logs(self, trial_id: str, *, after: int = 0, limit: int = 50) -> Page[KeptLine]:
        """The next lines that its attempts have said, by seq, above ``after``."""
        check_trial_id(trial_id)
        return page_of(self._store.list_trial_logs(trial_id, after=after, limit=limit + 1), limit)


def _only(report: Report, keys: Collection[str]) -> Report:
    return replace(report, metrics={key: value for key, value in report.metrics.items() if key in keys})
