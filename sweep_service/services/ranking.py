"""Which trial is the best: of the search, of a balancer, of a baseline. Pure functions of stored trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cmp_to_key

from sweep_service.domain.front import pareto_front
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Role, Trial


def best_trial(spec: SweepSpec, trials: Sequence[Trial]) -> Trial | None:
    """The completed search trial with the best objective; of equal ones the first made. None: none completed."""
    return next(iter(ranked(spec, [trial for trial in trials if trial.role is Role.SEARCH])), None)


def with_checkpoints(spec: SweepSpec, trials: Sequence[Trial]) -> set[str]:
    """The ids of those whose checkpoints stay: the best of the search, as many as the spec says; what has failed, for a
    retry goes on from there; what has not ended.
    """
    best = ranked(spec, [trial for trial in trials if trial.role is Role.SEARCH])[: spec.checkpoints.keep_best]
    in_use = [trial for trial in trials if not trial.state.is_ended or trial.state is TrialState.FAILED]
    return {trial.id for trial in (*best, *in_use)}


def best_baseline(spec: SweepSpec, trials: Sequence[Trial], balancer: str) -> Trial | None:
    """The completed baseline trial of that balancer with the best objective. None: none completed."""
    own = [trial for trial in trials if trial.role is Role.BASELINE and trial.balancer == balancer]
    return next(iter(ranked(spec, own)), None)


def best_of_methods(spec: SweepSpec, trials: Sequence[Trial]) -> Mapping[str, Trial]:
    """The best trial of each balancer that has a search of its own, in the spec's order; none: none completed."""
    search = [trial for trial in trials if trial.role is Role.SEARCH]
    ordered = {name: ranked(spec, [trial for trial in search if trial.balancer == name]) for name in spec.methods}
    return {name: own[0] for name, own in ordered.items() if own}


def contenders(spec: SweepSpec, trials: Sequence[Trial]) -> Sequence[Trial]:
    """What is compared: the best trial, or the best of each balancer that has a search of its own; then the best of
    each baseline. Those without a completed trial are left out.
    """
    best = best_trial(spec, trials)
    searched = best_of_methods(spec, trials).values() if spec.methods else [best]
    baselines = [best_baseline(spec, trials, name) for name in spec.baselines]
    return [trial for trial in (*searched, *baselines) if trial is not None]


def completed_search(trials: Sequence[Trial]) -> list[Trial]:
    """The search trials that have trained to their end."""
    return [trial for trial in trials if trial.role is Role.SEARCH and trial.state is TrialState.COMPLETED]


def front_of(spec: SweepSpec, trials: Sequence[Trial]) -> list[Trial] | None:
    """The Pareto front of the search so far, best in the first objective first; None: there is one objective only."""
    return pareto_front(completed_search(trials), spec.objectives) if spec.objectives else None


def ranked(spec: SweepSpec, trials: Sequence[Trial]) -> list[Trial]:
    """The completed ones with a finite objective, best first, equal ones by number."""

    def order(left: Trial, right: Trial) -> int:
        a, b = left.objective or 0.0, right.objective or 0.0
        if spec.objective.is_better(a, b):
            return -1
        return 1 if spec.objective.is_better(b, a) else left.number - right.number

    done = [
        t for t in trials if t.state is TrialState.COMPLETED and t.objective is not None and math.isfinite(t.objective)
    ]
    return sorted(done, key=cmp_to_key(order))
