"""When a search is over before it has had all its trials, and why. Pure functions of the stored trials."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepReason
from sweep_service.domain.trial import Role, Trial
from sweep_service.services.results import best_trial


def search_end(spec: SweepSpec, trials: Sequence[Trial]) -> SweepReason | None:
    """Why no further search trial is needed, whatever the budget of trials; None: it is.

    By number and not by the time of ending: trials that run in parallel then make no difference, and a restart neither.
    """
    target, patience = spec.budget.target, spec.budget.no_improvement
    best = best_trial(spec, trials) if (target, patience) != (None, None) else None
    if best is None or best.objective is None:
        return None
    if target is not None and not spec.objective.is_better(target, best.objective):
        return SweepReason.TARGET_REACHED
    if patience is not None and _num_since(best, trials) >= patience:
        return SweepReason.NO_IMPROVEMENT
    return None


def is_out_of_time(spec: SweepSpec, started_at: datetime, now: datetime) -> bool:
    """Whether the wall time is over."""
    return spec.budget.time is not None and now - started_at >= spec.budget.time


def _num_since(best: Trial, trials: Sequence[Trial]) -> int:
    later = [trial for trial in trials if trial.role is Role.SEARCH and trial.number > best.number]
    return sum(trial.state.counts_in_budget for trial in later)
