"""What a report is made of, and the questions that its sections ask of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Report, Role, Sweep, Trial

Row = Mapping[str, Any]  # of a leaderboard


@dataclass(frozen=True, kw_only=True)
class Material:
    """A sweep with all that is shown of it. ``sweep.results`` has the shape that
    :func:`sweep_service.services.results.summarise` gives; those of a running sweep are what it would end with now.
    """

    sweep: Sweep
    trials: Sequence[Trial]  # all of them
    curves: Mapping[str, Sequence[Report]]  # by the trial's id: of the contenders
    made_at: datetime | None = None  # None: it goes without saying

    @property
    def results(self) -> Mapping[str, Any]:
        return self.sweep.results or {}

    @property
    def metric(self) -> str:
        """The objective's name."""
        return self.sweep.spec.objective.metric

    @property
    def best(self) -> Row | None:
        """The best search trial's row."""
        return self.results.get("best")

    @property
    def baselines(self) -> Sequence[Row]:
        """The row of each baseline's best trial."""
        return self.results.get("baselines") or ()

    @property
    def contenders(self) -> Sequence[Row]:
        """The best trial, if there is one, then the best of each other balancer that is searched by itself, and of each
        baseline.
        """
        return [*([self.best] if self.best else []), *self._other_methods, *self.baselines]

    @property
    def _other_methods(self) -> Sequence[Row]:
        rows: Sequence[Row] = self.results.get("methods") or () if self.sweep.spec.methods else ()
        known = [row for row in rows if row["role"] == Role.SEARCH and row["trial_id"] is not None]
        return [row for row in known if self.best is None or row["trial_id"] != self.best["trial_id"]]

    @cached_property
    def search(self) -> Sequence[Trial]:
        """The trials of the search, by number."""
        found = [trial for trial in self.trials if trial.role is Role.SEARCH]
        return sorted(found, key=lambda trial: trial.number)

    @cached_property
    def completed(self) -> Sequence[Trial]:
        """The search trials that have a result, by number."""
        return [trial for trial in self.search if trial.state is TrialState.COMPLETED and is_finite(trial.objective)]

    @property
    def importance(self) -> Mapping[str, float]:
        """The share of each searched parameter; empty: unknown."""
        return self.results.get("importance") or {}

    def last_value(self, trial: Trial) -> float | None:
        """The objective's last value, of a trial that was stopped early too. None: none, or not finite."""
        value = trial.metrics.get(self.metric) if trial.objective is None else trial.objective
        return value if is_finite(value) else None


def is_finite(value: object) -> bool:
    """Whether it is a number that can be drawn."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def method(balancer: str) -> str:
    """A balancer as people call it."""
    return {"gradnorm": "GradNorm"}.get(balancer, balancer)
