"""What came out of a sweep: the leaderboard, the best of each baseline, and the verdict.

Pure functions of stored rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from functools import cmp_to_key
from typing import Any

from sweep_service.domain.front import pareto_front
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import TrialEnding, TrialState
from sweep_service.domain.trial import Role, Sweep, Trial
from sweep_service.domain.verdict import (
    CONFIDENCE,
    COVERS,
    DIVERGED,
    Comparison,
    Contrast,
    Outcome,
    compare,
    diverged,
)

VERDICT_METRIC = "test/normalized_loss"
_TASK_LOSS = "test/loss/"
_SINGLE_TASK = "single_task"


def best_trial(spec: SweepSpec, trials: Sequence[Trial]) -> Trial | None:
    """The completed search trial with the best objective; of equal ones the first made. None: none completed."""
    return next(iter(_ranked(spec, [trial for trial in trials if trial.role is Role.SEARCH])), None)


def best_baseline(spec: SweepSpec, trials: Sequence[Trial], balancer: str) -> Trial | None:
    """The completed baseline trial of that balancer with the best objective. None: none completed."""
    own = [trial for trial in trials if trial.role is Role.BASELINE and trial.balancer == balancer]
    return next(iter(_ranked(spec, own)), None)


def best_of_methods(spec: SweepSpec, trials: Sequence[Trial]) -> Mapping[str, Trial]:
    """The best search trial of each balancer that has a search of its own and a completed trial, in the spec's order."""
    search = [trial for trial in trials if trial.role is Role.SEARCH]
    ranked = {name: _ranked(spec, [trial for trial in search if trial.balancer == name]) for name in spec.methods}
    return {name: own[0] for name, own in ranked.items() if own}


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


def summarise(sweep: Sweep, trials: Sequence[Trial], importance: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Leaderboard, best, front, baselines, verdict and the importance of the parameters as JSON-compatible values (no
    NaN, no infinity).

    The leaderboard ranks the completed search and baseline trials by the objective. The front has its rows, each with
    its ``values`` of the objectives by metric; it is None where there is one objective only. The verdict is None where
    the spec asks for none, or no trial was ever repeated for it. ``importance`` is each searched parameter's share,
    None where it is not known.
    """
    spec = sweep.spec
    leaderboard = _leaderboard(spec, trials)
    by_id = {row["trial_id"]: row for row in leaderboard}
    best = best_trial(spec, trials)
    front = front_of(spec, trials)
    baselines = [best_baseline(spec, trials, name) for name in spec.baselines]
    return {
        "leaderboard": leaderboard,
        "best": by_id[best.id] if best else None,
        "front": None if front is None else [by_id[t.id] | {"values": front_values(spec, t)} for t in front],
        "baselines": [by_id[trial.id] for trial in baselines if trial],
        "verdict": _verdict(spec, trials),
        "importance": None if importance is None else dict(importance),
    }


def front_values(spec: SweepSpec, trial: Trial) -> dict[str, float]:
    """The values of the objectives by metric, of a trial that has them all."""
    return {objective.metric: trial.metrics[objective.metric] for objective in spec.objectives}


def _ranked(spec: SweepSpec, trials: Sequence[Trial]) -> list[Trial]:
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


def _leaderboard(spec: SweepSpec, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    ranked = _ranked(spec, [trial for trial in trials if trial.role in (Role.SEARCH, Role.BASELINE)])
    alone = best_baseline(spec, trials, _SINGLE_TASK)
    unit = _task_metrics(alone) if alone else {}
    return [_row(rank, trial, unit) for rank, trial in enumerate(ranked, start=1)]


def _row(rank: int, trial: Trial, unit: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    tasks = _task_metrics(trial)
    return {
        "rank": rank,
        "label": trial.balancer,
        "role": str(trial.role),
        "trial_id": trial.id,
        "number": trial.number,
        "objective": trial.objective,
        "params": dict(trial.searched),
        "tasks": tasks,
        "delta_m": _delta_m(tasks, unit),
    }


def _task_metrics(trial: Trial) -> dict[str, dict[str, float]]:
    """Validation metrics by task: ``val/<metric>/<task>`` becomes ``{task: {metric: value}}``."""
    tasks: dict[str, dict[str, float]] = {}
    for key, value in trial.metrics.items():
        split, _, rest = key.partition("/")
        metric, _, task = rest.partition("/")
        if split == "val" and task and math.isfinite(value):
            tasks.setdefault(task, {})[metric] = value
    return tasks


def _delta_m(tasks: Mapping[str, Mapping[str, float]], unit: Mapping[str, Mapping[str, float]]) -> float | None:
    """Mean relative change of the tasks' losses against one network a task, in %; lower is better. None: no unit."""
    changes: list[float] = []
    for task, metrics in unit.items():
        reference, loss = metrics.get("loss"), tasks.get(task, {}).get("loss")
        if reference is None or loss is None or reference <= 0:
            return None
        changes.append(100 * (loss - reference) / reference)
    mean = sum(changes) / len(changes) if changes else math.nan
    return mean if math.isfinite(mean) else None


def _verdict(spec: SweepSpec, trials: Sequence[Trial]) -> dict[str, Any] | None:
    repeats = [trial for trial in trials if trial.role is Role.CONFIRM]
    best = best_trial(spec, trials)
    if spec.confirm is None or not repeats or best is None:
        return None
    of_best = _repeats_of(best, repeats)
    of_baselines = {name: _repeats_of(best_baseline(spec, trials, name), repeats) for name in spec.baselines}
    margin = spec.confirm.margin
    overall = compare(
        [
            Contrast(
                baseline=name,
                best=_values(of_best, VERDICT_METRIC),
                other=_values(others, VERDICT_METRIC),
                margin=margin,
                best_name=_shown(best.balancer),
            )
            for name, others in of_baselines.items()
        ]
    )
    by_task = {
        task: _compare_task(task, _shown(best.balancer), of_best, of_baselines, margin) for task in _task_names(repeats)
    }
    tasks = {name: {task: by_task[task][name] for task in by_task} for name in spec.baselines}
    num_seeds = spec.confirm.seeds
    against = [_as_json(c, VERDICT_METRIC) | {"tasks": _tasks_json(tasks[c.baseline])} for c in overall]
    return {
        "summary": " ".join(_sentence(best.balancer, c, tasks[c.baseline], num_seeds, len(overall)) for c in overall),
        "metric": VERDICT_METRIC,
        "confidence": CONFIDENCE,
        "margin": margin,
        "seeds": num_seeds,
        "covers": COVERS,
        "against": against,
    }


def _repeats_of(original: Trial | None, repeats: Sequence[Trial]) -> list[Trial]:
    return [trial for trial in repeats if original and trial.confirms == original.id]


def _values(repeats: Sequence[Trial], metric: str) -> dict[int, float]:
    """By seed. A repeat that ended in NaN or infinity has a value that says so; one that did not end by itself (worker
    lost, code raised, memory ran out, cancelled) has none.
    """
    values = {t.seed: t.metrics[metric] for t in repeats if t.state is TrialState.COMPLETED and metric in t.metrics}
    return values | {t.seed: DIVERGED for t in repeats if t.ending is TrialEnding.NON_FINITE}


def _task_names(repeats: Sequence[Trial]) -> list[str]:
    return sorted({key.removeprefix(_TASK_LOSS) for t in repeats for key in t.metrics if key.startswith(_TASK_LOSS)})


def _compare_task(
    task: str, best_name: str, of_best: Sequence[Trial], of_baselines: Mapping[str, Sequence[Trial]], margin: float
) -> dict[str, Comparison]:
    """By baseline. The losses of tasks have different units: the margin is that share of the baseline's median loss."""
    metric = _TASK_LOSS + task
    contrasts: list[Contrast] = []
    for name, others in of_baselines.items():
        other = _values(others, metric)
        finite = [abs(value) for value in other.values() if not diverged(value)]
        unit = statistics.median(finite) if finite else 1.0
        contrasts.append(
            Contrast(
                baseline=name,
                best=_values(of_best, metric),
                other=other,
                margin=margin * (unit or 1.0),
                best_name=best_name,
            )
        )
    return {comparison.baseline: comparison for comparison in compare(contrasts)}


def _tasks_json(tasks: Mapping[str, Comparison]) -> dict[str, Any]:
    return {task: _as_json(comparison, _TASK_LOSS + task) for task, comparison in tasks.items()}


def _as_json(comparison: Comparison, metric: str) -> dict[str, Any]:
    return {
        "baseline": comparison.baseline,
        "metric": metric,
        "outcome": str(comparison.outcome),
        "mean_difference": comparison.mean_difference,
        "interval": list(comparison.interval) if comparison.interval else None,
        "p_value": comparison.p_value,
        "p_value_holm": comparison.p_value_holm,
        "margin": comparison.margin,
        "num_pairs": comparison.num_pairs,
        "num_diverged": {"best": comparison.num_best_diverged, "baseline": comparison.num_other_diverged},
        "reason": comparison.reason,
    }


def _sentence(
    balancer: str, comparison: Comparison, tasks: Mapping[str, Comparison], num_seeds: int, num_baselines: int
) -> str:
    """One sentence on one baseline; where it lost, that word is in it."""
    best, other = _shown(balancer), comparison.baseline
    if comparison.interval is None or comparison.mean_difference is None or comparison.p_value_holm is None:
        return f"{best} against {other} is inconclusive: {comparison.reason}."
    mean, (low, high) = comparison.mean_difference, comparison.interval
    seeds = (
        f"{num_seeds} seeds" if comparison.num_pairs == num_seeds else f"{comparison.num_pairs} of {num_seeds} seeds"
    )
    measured = f"mean difference {mean:+.3g}, 95 % interval {low:+.3g} to {high:+.3g}, {seeds}"
    chance = f"p = {comparison.p_value_holm:.2g} after Holm's correction"
    match comparison.outcome:
        case Outcome.HELPED:
            fact = f"{best} helped against {other}: its {VERDICT_METRIC} is lower ({measured}, {chance})"
        case Outcome.HURT:
            fact = f"{best} lost to {other}: its {VERDICT_METRIC} is higher ({measured}, {chance})"
        case Outcome.EQUIVALENT:
            margin = f"the whole interval lies inside ±{comparison.margin:g}"
            fact = f"{best} and {other} are equivalent in {VERDICT_METRIC}: {margin} ({measured})"
        case Outcome.INCONCLUSIVE:
            fact = f"{best} against {other} is inconclusive in {VERDICT_METRIC} ({measured}, {chance})"
    return fact + (f"; {comparison.reason}" if comparison.reason else "") + _task_clause(tasks) + "."


def _shown(balancer: str) -> str:
    return {"gradnorm": "GradNorm"}.get(balancer, balancer)


def _task_clause(tasks: Mapping[str, Comparison]) -> str:
    helped = [task for task, comparison in tasks.items() if comparison.outcome is Outcome.HELPED]
    hurt = [task for task, comparison in tasks.items() if comparison.outcome is Outcome.HURT]
    clauses = [f"it lost on {_listed(hurt)}"] if hurt else []
    clauses += [f"it won on {_listed(helped)}"] if helped else []
    return f"; task by task {' and '.join(clauses)}" if clauses else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
