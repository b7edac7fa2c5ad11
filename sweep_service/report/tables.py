"""What is told in words: where the sweep stands, its leaderboard, what went wrong, and its spec."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta

import yaml

from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Role, Trial
from sweep_service.report.material import Material, Row, method
from sweep_service.report.section import (
    Emphasis,
    Html,
    Section,
    aligned,
    joined,
    number,
    parameters,
    shown,
    table,
    text,
)
from sweep_service.report.theme import shortened

_NUM_ROWS = 10  # of the leaderboard, beside the baselines
_NUM_FAULTS = 10
_LONGEST_FAULT = 500  # characters
_FAULTS = (TrialState.FAILED, TrialState.INFEASIBLE)


def overview(material: Material) -> Section:
    """Where the sweep stands or how it ended."""
    sweep, spec, best = material.sweep, material.sweep.spec, material.best
    ended_at = sweep.ended_at or _last_end(material) if sweep.state.is_ended else None
    facts: list[tuple[str, object]] = [
        ("State", f"{sweep.state}{f' ({sweep.reason})' if sweep.reason else ''}"),
        ("Message", sweep.message),
        ("Trainable", spec.trainable),
        ("Objective", f"{spec.objective.metric}, {spec.objective.direction}"),
        ("Best trial", _best_line(best, spec.objective.metric) if best else "none has completed yet"),
        ("Its parameters", parameters(best["params"]) if best else ""),
        ("Submitted", _moment(sweep.created_at)),
        ("Started", _moment(sweep.started_at)),
        ("Ended", _moment(ended_at)),
        ("Took", _duration(ended_at - sweep.started_at) if ended_at and sweep.started_at else ""),
        ("As of", _moment(material.made_at)),
        ("Labels", ", ".join(f"{name}: {value}" for name, value in spec.labels.items())),
        ("Sweep", sweep.id),
        ("MLflow run", sweep.tracking_ref or ""),
    ]
    listed = [
        piece for name, value in facts if value for piece in ("<dt>", text(name), "</dt><dd>", text(value), "</dd>")
    ]
    return Section(
        anchor="overview",
        title="Overview",
        explanation=(
            f"A sweep trains {spec.trainable} again and again with other parameters, to find those with the "
            f"{'lowest' if spec.objective.direction == 'minimize' else 'highest'} {spec.objective.metric}."
        ),
        parts=[joined(["<dl>", *listed, "</dl>"]), _counts(material.trials)],
    )


def leaderboard(material: Material) -> Section | None:
    """The best trials, and the best of each baseline wherever it stands."""
    rows: Sequence[Row] = material.results.get("leaderboard") or ()
    if not rows:
        return None
    wanted = {row["trial_id"] for row in material.baselines}
    listed = [row for place, row in enumerate(rows) if place < _NUM_ROWS or row["trial_id"] in wanted]
    names = list(dict.fromkeys(name for row in listed for name in row["params"]))
    tasks = sorted({task for row in listed for task, metrics in row["tasks"].items() if "loss" in metrics})
    has_delta = any(row["delta_m"] is not None for row in listed)
    header = ("#", "trial", "balancer", material.metric, *names, *(f"loss {task}" for task in tasks))
    lines = [_leader(row, names, tasks, has_delta=has_delta) for row in listed]
    hidden = len(rows) - len(listed)
    note = f"{hidden} more {'trial is' if hidden == 1 else 'trials are'} not listed. " if hidden else ""
    if has_delta:
        note += "Δm: mean change of the tasks' losses against one network a task, in per cent; lower is better."
    first_number = 3
    return Section(
        anchor="leaderboard",
        title="Leaderboard",
        explanation=(
            f"The best {_NUM_ROWS} trials by {material.metric}, with the best of each baseline wherever it ranks "
            "(shaded). The losses are those of the validation split after the last step."
        ),
        parts=[
            table(
                (*header, *(("Δm, %",) if has_delta else ())),
                lines,
                numeric=(0, 1, *range(first_number, len(header) + 1)),
            ),
            joined(['<p class="note">', text(note), "</p>"] if note else []),
        ],
    )


def faults(material: Material) -> Section | None:
    """The trials that ended without a result, with what they died of."""
    found = [trial for trial in material.trials if trial.state in _FAULTS]
    if not found:
        return None
    found.sort(key=lambda trial: trial.number)
    rows = [
        (
            t.number,
            t.role,
            method(t.balancer),
            t.ending or t.state,
            t.last_step,
            parameters(t.searched),
            _cut(t.message),
        )
        for t in found[:_NUM_FAULTS]
    ]
    hidden = len(found) - len(rows)
    note = f"{hidden} more are not listed." if hidden else ""
    return Section(
        anchor="faults",
        title="What went wrong",
        explanation=(
            f"{len(found)} of {len(material.trials)} trials ended without a result. An infeasible one came to numbers "
            "that are not finite, or ran out of memory; a failed one met an error in the code that it trains."
        ),
        parts=[
            table(("trial", "role", "balancer", "ending", "steps", "parameters", "message"), rows, numeric=(0, 4)),
            joined(['<p class="note">', text(note), "</p>"] if note else []),
        ],
    )


def spec(material: Material) -> Section:
    """What was submitted, with every default filled in."""
    document = yaml.safe_dump(material.sweep.spec.canonical(), sort_keys=False, allow_unicode=True)
    return Section(
        anchor="spec",
        title="Spec",
        explanation="What was asked for, with every default filled in; submitted again, it makes the same sweep again.",
        parts=[joined(["<details><summary>The spec as YAML</summary><pre>", text(document), "</pre></details>"])],
    )


def _best_line(best: Row, metric: str) -> str:
    return f"trial {best['number']} ({method(best['label'])}), {metric} = {number(best['objective'])}"


def _counts(trials: Sequence[Trial]) -> Html:
    """How many trials of each role are in each state."""
    if not trials:
        return joined(['<p class="note">No trial has been made yet.</p>'])
    counts = Counter((trial.role, trial.state) for trial in trials)
    states = [state for state in TrialState if any(state is known for _, known in counts)]
    roles = [role for role in Role if any(role is known for known, _ in counts)]
    rows: list[Sequence[object]] = []
    for role in roles:
        cells = [counts[role, state] for state in states]
        rows.append((role, *(cell or "" for cell in cells), sum(cells)))
    header = ("trials", *(str(state).replace("_", " ") for state in states), "in all")
    return table(header, rows, numeric=range(1, len(header)))


def _leader(row: Row, names: Sequence[str], tasks: Sequence[str], *, has_delta: bool) -> tuple[object, ...]:
    cells = (
        row["rank"],
        row["number"],
        method(row["label"]),
        aligned(row["objective"]),
        *(shortened(shown(row["params"][name])) if name in row["params"] else "–" for name in names),
        *(aligned(row["tasks"].get(task, {}).get("loss")) for task in tasks),
        *((_percent(row["delta_m"]),) if has_delta else ()),
    )
    return cells if row["role"] == Role.SEARCH else Emphasis(cells)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}".replace("-", "−")


def _last_end(material: Material) -> datetime | None:
    """When its last trial ended: of a sweep that is about to end."""
    return max((trial.ended_at for trial in material.trials if trial.ended_at), default=None)


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _duration(took: timedelta) -> str:
    """``2 h 5 min``, ``5 min 10 s``, ``10 s``."""
    seconds = max(0, round(took.total_seconds()))
    hours, minutes = divmod(seconds // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"


def _cut(message: str) -> str:
    return message if len(message) <= _LONGEST_FAULT else message[:_LONGEST_FAULT] + " …"
