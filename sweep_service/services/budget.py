"""When a search, or a line of it, is over before it has had all its trials, and why.

Pure functions of the stored trials.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from sweep_service.domain.front import last_to_join
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepReason, TrialState
from sweep_service.domain.trial import Role, Trial
from sweep_service.services.ranking import best_trial, completed_search

# After so many trials of a line without a single completed one the fault is in the problem or the space, not in the
# draws.
HOPELESS_AFTER = 5


def is_hopeless(trials: Sequence[Trial], quota: int) -> bool:
    """Whether a line that gets so many trials has failed so often, and only failed, that going on is a waste."""
    states = [trial.state for trial in trials if trial.state.is_ended and trial.state.counts_in_budget]
    # One that was stopped early trained well, if not well enough: its problem works.
    works = {TrialState.COMPLETED, TrialState.EARLY_STOPPED}.intersection(states)
    return len(states) >= min(HOPELESS_AFTER, quota) and not works


def num_used(trials: Iterable[Trial]) -> int:
    """How many of the budget's trials have been given out: what ended and counts, and what has not ended."""
    return sum(not trial.state.is_ended or trial.state.counts_in_budget for trial in trials)


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
    if patience is not None:
        improved = last_to_join(completed_search(trials), spec.objectives) if spec.objectives else best
        if improved is not None and _num_since(improved, trials) >= patience:
            return SweepReason.NO_IMPROVEMENT
    return None


def is_spent(spec: SweepSpec, active: timedelta, busy: timedelta) -> bool:
    """Whether the wall time is over, of a sweep that has been active for so long, or the GPU-hours are used, after
    packs that took so long in all.
    """
    budget = spec.budget
    is_over = budget.time is not None and active >= budget.time
    return is_over or (budget.gpu_hours is not None and used_gpu_hours(spec, busy) >= budget.gpu_hours)


def used_gpu_hours(spec: SweepSpec, busy: timedelta) -> float:
    """What packs that took so long in all have used of GPUs."""
    return spec.resources.gpus * (busy / timedelta(hours=1))


def _num_since(best: Trial, trials: Sequence[Trial]) -> int:
    later = [trial for trial in trials if trial.role is Role.SEARCH and trial.number > best.number]
    return sum(trial.state.counts_in_budget for trial in later)
