"""The report of a sweep, made from the store: of one that has ended, or as it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweep_service.domain.ids import check_sweep_id
from sweep_service.domain.trial import Report
from sweep_service.ports import Clock, SweepStore
from sweep_service.services.results import summarise


class ReportService:
    """Reports as their readers see them."""

    def __init__(self, *, store: SweepStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def html(self, sweep_id: str) -> str:
        """The sweep as one page of HTML. What a sweep that still runs would end with now takes the place of its
        results.

        Raises:
            SweepNotFoundError: also for text that is no id at all.
            StoreUnavailableError.
        """
        from sweep_service.report.page import render_report  # here: the API starts without waiting for plotly

        check_sweep_id(sweep_id)
        sweep = self._store.get_sweep(sweep_id)
        trials = self._store.list_trials(sweep_id)
        if sweep.results is None:
            sweep = replace(sweep, results=summarise(sweep, trials))
        curves = contenders_curves(self._store, sweep.results or {})
        return render_report(sweep, trials, curves, made_at=None if sweep.state.is_ended else self._clock.now())


def contenders_curves(store: SweepStore, results: Mapping[str, Any]) -> dict[str, Sequence[Report]]:
    """What the best trial and the best of each method reported, by the trial's id."""
    best = results.get("best")
    rows = [*([best] if best else []), *(results.get("baselines") or ()), *(results.get("methods") or ())]
    ids = dict.fromkeys(row["trial_id"] for row in rows if row["trial_id"] is not None)
    return {trial_id: store.list_reports(trial_id) for trial_id in ids}
