"""What came out of a sweep: the leaderboard, the methods, the best of each baseline, and the verdict.

Pure functions of stored rows.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.trial import Role, Sweep, Trial
from sweep_service.domain.verdict import (
    CONFIDENCE,
    COVERS,
    Comparison,
    Contrast,
    Outcome,
    compare,
    diverged,
)
from sweep_service.services.methods import rank_methods
from sweep_service.services.ranking import best_baseline, best_of_methods, best_trial, front_of, ranked
from sweep_service.services.repeats import VERDICT_METRIC, repeats_of, values_by_seed

_TASK_LOSS = "test/loss/"
_SINGLE_TASK = "single_task"


def summarise(sweep: Sweep, trials: Sequence[Trial], importance: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Leaderboard, methods, best, front, baselines, verdict and the importance of the parameters as JSON-compatible
    values (no NaN, no infinity).

    The leaderboard ranks the completed search and baseline trials by the objective; ``methods`` are the balancers and
    baselines as :func:`rank_methods` has them. The front has its rows, each with
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
        "methods": rank_methods(spec, trials, by_id),
        "best": by_id[best.id] if best else None,
        "front": None if front is None else [by_id[t.id] | {"values": front_values(spec, t)} for t in front],
        "baselines": [by_id[trial.id] for trial in baselines if trial],
        "verdict": _verdict(spec, trials),
        "importance": None if importance is None else dict(importance),
    }


def front_values(spec: SweepSpec, trial: Trial) -> dict[str, float]:
    """The values of the objectives by metric, of a trial that has them all."""
    return {objective.metric: trial.metrics[objective.metric] for objective in spec.objectives}


def _leaderboard(spec: SweepSpec, trials: Sequence[Trial]) -> list[dict[str, Any]]:
    ordered = ranked(spec, [trial for trial in trials if trial.role in (Role.SEARCH, Role.BASELINE)])
    alone = best_baseline(spec, trials, _SINGLE_TASK)
    unit = _task_metrics(alone) if alone else {}
    return [_row(rank, trial, unit) for rank, trial in enumerate(ordered, start=1)]


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
    of_best = repeats_of(best, repeats)
    others = _compared(spec, trials, best)
    of_others = {name: repeats_of(trial, repeats) for name, (_, trial) in others.items()}
    margin = spec.confirm.margin
    overall = compare(
        [
            Contrast(
                baseline=name,
                best=values_by_seed(of_best, VERDICT_METRIC),
                other=values_by_seed(own, VERDICT_METRIC),
                margin=margin,
                best_name=_shown(best.balancer),
            )
            for name, own in of_others.items()
        ]
    )
    by_task = {
        task: _compare_task(task, _shown(best.balancer), of_best, of_others, margin) for task in _task_names(repeats)
    }
    tasks = {name: {task: by_task[task][name] for task in by_task} for name in others}
    num_seeds = spec.confirm.seeds
    against = [
        _as_json(c, VERDICT_METRIC) | {"role": str(others[c.baseline][0]), "tasks": _tasks_json(tasks[c.baseline])}
        for c in overall
    ]
    sentences = [_sentence(best.balancer, c, tasks[c.baseline], num_seeds) for c in overall]
    return {
        "summary": " ".join([*_choice(spec, best), *sentences]),
        "metric": VERDICT_METRIC,
        "confidence": CONFIDENCE,
        "margin": margin,
        "seeds": num_seeds,
        "covers": COVERS,
        "against": against,
    }


def _compared(spec: SweepSpec, trials: Sequence[Trial], best: Trial) -> Mapping[str, tuple[Role, Trial | None]]:
    """What the best trial is compared with, by its balancer: the best of each baseline, then of each other balancer
    that has a search of its own. None: it has none, and counts as compared in vain.
    """
    of_methods = best_of_methods(spec, trials)
    searched = {name: (Role.SEARCH, of_methods.get(name)) for name in spec.methods if name != best.balancer}
    return {**{name: (Role.BASELINE, best_baseline(spec, trials, name)) for name in spec.baselines}, **searched}


def _choice(spec: SweepSpec, best: Trial) -> Sequence[str]:
    """Which of several balancers is compared with the others, and why; chosen before the test split was looked at."""
    if len(spec.methods) < 2:
        return ()
    what = f"{_shown(best.balancer)} has the best {spec.objective.metric}"
    return (f"Of {len(spec.methods)} balancers, tuned with as many trials per parameter, {what}.",)


def _task_names(repeats: Sequence[Trial]) -> list[str]:
    return sorted({key.removeprefix(_TASK_LOSS) for t in repeats for key in t.metrics if key.startswith(_TASK_LOSS)})


def _compare_task(
    task: str, best_name: str, of_best: Sequence[Trial], of_baselines: Mapping[str, Sequence[Trial]], margin: float
) -> dict[str, Comparison]:
    """By baseline. The losses of tasks have different units: the margin is that share of the baseline's median loss."""
    metric = _TASK_LOSS + task
    contrasts: list[Contrast] = []
    for name, others in of_baselines.items():
        other = values_by_seed(others, metric)
        finite = [abs(value) for value in other.values() if not diverged(value)]
        unit = statistics.median(finite) if finite else 1.0
        contrasts.append(
            Contrast(
                baseline=name,
                best=values_by_seed(of_best, metric),
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


def _sentence(balancer: str, comparison: Comparison, tasks: Mapping[str, Comparison], num_seeds: int) -> str:
    """One sentence on one comparison; where the best lost, that word is in it."""
    best, other = _shown(balancer), _shown(comparison.baseline)
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
