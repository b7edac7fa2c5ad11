"""The methods of a sweep, ranked: the balancers of its search, and its baselines."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweep_service.domain.branches import within
from sweep_service.domain.shares import num_parameters
from sweep_service.domain.space import Choice
from sweep_service.domain.spec import BALANCER, SweepSpec
from sweep_service.domain.trial import Role, Trial
from sweep_service.domain.verdict import diverged
from sweep_service.services.ranking import ranked
from sweep_service.services.repeats import VERDICT_METRIC, repeats_of, values_by_seed

_NO_TRIAL: Mapping[str, Any] = {
    "trial_id": None,
    "number": None,
    "objective": None,
    "params": {},
    "tasks": {},
    "delta_m": None,
}


def rank_methods(
    spec: SweepSpec, trials: Sequence[Trial], rows: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A row a method: that of its best trial (``rows`` has the leaderboard's by the trial's id), with the method's own
    rank, how many ``trials`` it has used, how many ``parameters`` it had to tune, and, where its best was trained
    again, what came of that in ``confirmed``.

    Ranked by the mean over the fresh seeds: the best of many trials owes its objective to luck as well, the more the
    more trials there were. A method that diverged on a seed comes after those that did not. Where one of them was not
    trained again, or not yet, all are ranked by their objective: what was measured differently cannot be compared.
    Those without a completed trial are last, and have no rank.
    """
    found = [_row(spec, role, name, trials, rows) for role, name in _methods(spec, trials)]
    are_all_confirmed = all(row["confirmed"] for row in found if row["trial_id"] is not None)
    better = 1 if spec.objective.direction == "minimize" else -1

    def order(row: Mapping[str, Any]) -> tuple[float, ...]:
        confirmed, objective = row["confirmed"] if are_all_confirmed else None, row["objective"]
        if objective is None:
            return (3,)
        if confirmed is None:
            return 1, better * objective
        if confirmed["mean"] is None:
            return 2, better * objective
        return 0, confirmed["diverged"] / confirmed["seeds"], confirmed["mean"]

    found.sort(key=order)
    for place, row in enumerate(found, start=1):
        row["rank"] = None if row["trial_id"] is None else place
    return found


def _methods(spec: SweepSpec, trials: Sequence[Trial]) -> Iterator[tuple[Role, str]]:
    balancer = spec.space.get(BALANCER)
    drawn = dict.fromkeys(trial.balancer for trial in trials if trial.role is Role.SEARCH)
    searched = [str(choice) for choice in balancer.choices] if isinstance(balancer, Choice) else list(drawn)
    yield from ((Role.SEARCH, name) for name in searched)
    yield from ((Role.BASELINE, name) for name in spec.baselines)


def _row(
    spec: SweepSpec, role: Role, name: str, trials: Sequence[Trial], rows: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    own = [trial for trial in trials if trial.role is role and trial.balancer == name]
    best = next(iter(ranked(spec, own)), None)
    return {
        **(_NO_TRIAL if best is None else rows[best.id]),
        "label": name,
        "role": str(role),
        "rank": None,
        "balancer": name,
        "trials": sum(trial.state.is_ended and trial.state.counts_in_budget for trial in own),
        "parameters": _num_parameters(spec, role, name, own),
        "confirmed": _confirmed(best, trials),
    }


def _num_parameters(spec: SweepSpec, role: Role, name: str, own: Sequence[Trial]) -> int:
    """Of a baseline, those that its trials had: what it reads only the catalogue knows."""
    if role is Role.SEARCH:
        return num_parameters(within(spec.space, {BALANCER: name}))
    return max((len(trial.searched) for trial in own), default=0)


def _confirmed(best: Trial | None, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """What the repeats of a method's best trial measured; None: none did."""
    values = values_by_seed(repeats_of(best, trials), VERDICT_METRIC)
    finite = [value for _, value in sorted(values.items()) if not diverged(value)]
    if not values:
        return None
    return {
        "metric": VERDICT_METRIC,
        "mean": statistics.fmean(finite) if finite else None,
        "std": statistics.stdev(finite) if len(finite) > 1 else None,
        "seeds": len(values),
        "diverged": len(values) - len(finite),
        "values": finite,
    }
