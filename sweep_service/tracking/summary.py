"""The results of a sweep as a person reads them: a text in Markdown, and the leaderboard as CSV.

Both are made of ``Sweep.results``, whose shape :func:`sweep_service.services.results.summarise` gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweep_service.csv_text import csv_text
from sweep_service.domain.trial import Sweep

_NUM_ROWS = 10  # of the leaderboard in the text; the CSV holds all of them
_MAX_LENGTH = 5000  # of a tag in MLflow


def describe_sweep(sweep: Sweep) -> str:
    """Markdown: the verdict, the best parameters and the top of the leaderboard, or what is being searched."""
    results, spec = sweep.results or {}, sweep.spec
    driven = ", ".join(f"`{one.metric}` ({one.direction})" for one in spec.objectives or (spec.objective,))
    head = f"`{sweep.id}` trains **{spec.trainable}** for {driven}."
    parts = [head + (f" It ended *{sweep.state}*. {sweep.message}" if sweep.state.is_ended else "")]
    best = results.get("best")
    if verdict := results.get("verdict"):
        parts += ["### Verdict", _plain(verdict["summary"]), f"*{_plain(verdict['covers'])}*"]
    if best:
        objective = f"{spec.objective.metric} = **{_cell(best['objective'])}**"
        parts += [f"### Best: trial {best['number']} ({best['label']}), {objective}", _params_table(best["params"])]
    if len(methods := results.get("methods") or ()) > 1:
        parts += ["### Methods", _methods_table(methods, spec.objective.metric)]
    if front := results.get("front"):
        parts += ["### Pareto front", _front_table(front)]
    if rows := results.get("leaderboard"):
        parts += ["### Leaderboard", _leaderboard_table(rows, results.get("baselines", ()), spec.objective.metric)]
    elif sweep.state.is_ended:
        parts.append("No trial was completed, so there is no leaderboard.")
    return _cut("\n\n".join(part for part in parts if part))


def leaderboard_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """All rows, one column a value: ``params.<name>``, ``val/<metric>/<task>``. Empty cells: it has no such value."""
    fixed = ("rank", "label", "role", "trial_id", "number", "objective", "delta_m")
    flat = [{name: row[name] for name in fixed} | _params(row) | _task_values(row) for row in rows]
    return csv_text(flat, first=fixed)


def methods_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """A row a method: its rank and effort, its best trial with its parameters, and what fresh seeds made of that."""
    fixed = ("rank", "balancer", "role", "trials", "parameters", "objective", "trial_id", "number")
    fresh = ("metric", "mean", "std", "seeds", "diverged")
    flat = [
        {name: row[name] for name in fixed}
        | {f"confirmed.{name}": (row["confirmed"] or {}).get(name) for name in fresh}
        | _params(row)
        for row in rows
    ]
    return csv_text(flat, first=fixed)


def front_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Pareto front: of each trial its values of the objectives, then its parameters."""
    fixed = ("trial_id", "number", *(rows[0]["values"] if rows else ()))
    flat = [{name: row[name] for name in fixed[:2]} | dict(row["values"]) | _params(row) for row in rows]
    return csv_text(flat, first=fixed)


def _cut(text: str) -> str:
    """Whole lines, as many as a tag holds."""
    if len(text) <= _MAX_LENGTH:
        return text
    whole_lines = text.rfind("\n", 0, _MAX_LENGTH - 2)
    return text[: whole_lines if whole_lines > 0 else _MAX_LENGTH - 2] + "\n…"


def _params(row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"params.{name}": value for name, value in row["params"].items()}


def _task_values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"val/{metric}/{task}": value for task, metrics in row["tasks"].items() for metric, value in metrics.items()
    }


def _params_table(params: Mapping[str, Any]) -> str:
    return _table(("parameter", "value"), params.items()) if params else ""


def _methods_table(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """Ranked; the columns of the fresh seeds only where there are some."""
    fresh = next((row["confirmed"]["metric"] for row in rows if row["confirmed"]), None)
    header = ("rank", "method", "trials", "parameters", metric)
    lines = [
        (
            *(row[name] for name in ("rank", "balancer", "trials", "parameters", "objective")),
            *(() if fresh is None else ((row["confirmed"] or {}).get(name) for name in ("mean", "std"))),
            ", ".join(f"{name} {_cell(value)}" for name, value in row["params"].items()) or None,
        )
        for row in rows
    ]
    return _table((*header, *(() if fresh is None else (f"{fresh}, mean", "std")), "with"), lines)


def _front_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Its first rows, and how many there are beside them."""
    shown = rows[:_NUM_ROWS]
    metrics = list(rows[0]["values"])
    names = list(dict.fromkeys(name for row in shown for name in row["params"]))
    lines = [(row["number"], *row["values"].values(), *(row["params"].get(name) for name in names)) for row in shown]
    hidden = len(rows) - len(shown)
    return _table(("trial", *metrics, *names), lines) + (f"\n\n{hidden} more in `front.csv`." if hidden else "")


def _leaderboard_table(rows: Sequence[Mapping[str, Any]], baselines: Iterable[Mapping[str, Any]], metric: str) -> str:
    """The first rows, and the best of each baseline wherever it stands."""
    wanted = {row["trial_id"] for row in baselines}
    shown = [row for row in rows if row["rank"] <= _NUM_ROWS or row["trial_id"] in wanted]
    names = list(dict.fromkeys(name for row in shown for name in row["params"]))
    has_delta = any(row["delta_m"] is not None for row in shown)
    tasks = list(dict.fromkeys(task for row in shown for task in row["tasks"]))
    header = ("rank", "trial", "balancer", metric, *names, *(f"{task} loss" for task in tasks))
    lines = [
        (
            row["rank"],
            row["number"],
            row["label"],
            row["objective"],
            *(row["params"].get(name) for name in names),
            *(row["tasks"].get(task, {}).get("loss") for task in tasks),
            *((row["delta_m"],) if has_delta else ()),
        )
        for row in shown
    ]
    table = _table((*header, *(("Δm, %",) if has_delta else ())), lines)
    hidden = len(rows) - len(shown)
    return table + (f"\n\n{hidden} more in `leaderboard.csv`." if hidden else "")


def _table(header: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.5g}" if isinstance(value, float) else str(value)
    return text.replace("|", r"\|").replace("\n", " ")


def _plain(text: str) -> str:
    """As it is: an asterisk or an underscore in a task's name is no mark-up."""
    return text.replace("*", r"\*").replace("_", r"\_")
