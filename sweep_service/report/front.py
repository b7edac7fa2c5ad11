"""Several objectives: what the search found between them, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweep_service.domain.spec import Objective
from sweep_service.domain.trial import Trial
from sweep_service.report.material import Material, is_finite, method
from sweep_service.report.palette import COLOURS
from sweep_service.report.section import Drawing, Html, Section, aligned, parameters, table
from sweep_service.report.theme import GREY, SYMBOLS, escaped, figure, label, value_axis


def pareto_front(material: Material) -> Section | None:
    """Each pair of the first objective and another one, with the front in it; then the front's trials."""
    objectives, rows = material.sweep.spec.objectives, material.results.get("front")
    if not objectives or not rows:
        return None
    on_front = {row["trial_id"] for row in rows}
    first, *others = objectives
    return Section(
        anchor="front",
        title="The Pareto front",
        explanation=(
            "Each mark is one completed trial. Those on the front are beaten by none: whatever is better in one "
            "objective is worse in another. Which of them is the right one is for you to say; the comparison with the "
            f"baselines takes the one that is best in {material.metric}."
        ),
        parts=[
            *(Drawing(figure=_pair(material, first, other, on_front)) for other in others),
            _front_table(objectives, rows),
        ],
    )


def _pair(material: Material, across: Objective, upwards: Objective, on_front: set[str]) -> Any:
    known = [trial for trial in material.completed if _has(trial, across) and _has(trial, upwards)]
    front = sorted((t for t in known if t.id in on_front), key=lambda trial: trial.metrics[across.metric])
    baselines = _baselines(material, across, upwards)
    drawn = figure(
        height=420,
        xaxis=value_axis(_named(across), _values([*known, *baselines], across)),
        yaxis=value_axis(_named(upwards), _values([*known, *baselines], upwards)),
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
        margin={"t": 40},
    )
    is_whole = len(material.sweep.spec.objectives) == 2  # of more objectives, a pair shows the front's shadow only
    beaten = [trial for trial in known if trial.id not in on_front]
    _add(drawn, "beaten", beaten, across, upwards, mode="markers", marker={"color": GREY, "size": 8, "opacity": 0.6})
    _add(
        drawn,
        "on the front",
        front,
        across,
        upwards,
        mode="lines+markers" if is_whole else "markers",
        line={"color": COLOURS[0], "width": 1.5, "shape": "linear"},
        marker={"color": COLOURS[0], "size": 11},
    )
    for index, trial in enumerate(baselines, start=1):
        marker = {"color": COLOURS[index % len(COLOURS)], "symbol": SYMBOLS[index % len(SYMBOLS)], "size": 12}
        _add(drawn, f"{trial.balancer}, its best", [trial], across, upwards, mode="markers", marker=marker)
    return drawn


def _add(drawn: Any, name: str, trials: Sequence[Trial], across: Objective, upwards: Objective, **style: Any) -> None:
    if not trials:
        return
    drawn.add_scatter(
        name=label(name),
        x=_values(trials, across),
        y=_values(trials, upwards),
        hovertext=[f"trial {t.number} ({method(t.balancer)})<br>{escaped(parameters(t.searched))}" for t in trials],
        hoverinfo="text+x+y",
        **style,
    )


def _front_table(objectives: Sequence[Objective], rows: Sequence[Any]) -> Html:
    names = list(dict.fromkeys(name for row in rows for name in row["params"]))
    header = ["trial", "balancer", *(objective.metric for objective in objectives), *names]
    lines = [
        [
            row["number"],
            method(row["label"]),
            *(aligned(row["values"].get(objective.metric)) for objective in objectives),
            *(aligned(row["params"].get(name)) if is_finite(row["params"].get(name)) else row["params"].get(name, "–")
              for name in names),
        ]
        for row in rows
    ]  # fmt: skip
    return table(header, lines, numeric=[0, *range(2, len(header))])


def _baselines(material: Material, *objectives: Objective) -> list[Trial]:
    wanted = {row["trial_id"] for row in material.baselines}
    found = [trial for trial in material.trials if trial.id in wanted]
    return [trial for trial in found if all(_has(trial, objective) for objective in objectives)]


def _has(trial: Trial, objective: Objective) -> bool:
    return is_finite(trial.metrics.get(objective.metric))


def _values(trials: Sequence[Trial], objective: Objective) -> list[float]:
    return [trial.metrics[objective.metric] for trial in trials]


def _named(objective: Objective) -> str:
    return f"{objective.metric} ({'low' if objective.direction == 'minimize' else 'high'} is good)"
