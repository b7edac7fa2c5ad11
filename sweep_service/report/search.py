"""What the search found where: the objective over the parameters, their importance, and how it went on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from sweep_service.domain.spec import BALANCER
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Trial
from sweep_service.report.material import Material, method
from sweep_service.report.palette import COLOURS
from sweep_service.report.scales import Scale, axis, scales
from sweep_service.report.section import Drawing, Section, number, parameters
from sweep_service.report.theme import (
    DASHES,
    GREY,
    colour_scale,
    escaped,
    figure,
    label,
    shortened,
    value_axis,
)

_NAMED_PAIR = ("alpha", "weight_lr")  # what GradNorm leaves to be found
_SPARSE = 100  # trials; the marks of more of them are smaller
_FEW = 2000  # trials; more of them are drawn by WebGL, which browsers bear
_MAX_DIMENSIONS = 10  # of parallel coordinates: more are not to be read
_WITHOUT_RESULT = (TrialState.FAILED, TrialState.INFEASIBLE)
_BEST = {"symbol": "circle-open", "size": 22, "color": COLOURS[1], "line": {"width": 3}}


def landscape(material: Material) -> Section | None:
    """The objective over two of the searched parameters; over one, where there is no other number."""
    known = scales(material)
    if not material.search or not known:
        return None
    pair = _pair(known)
    if len(pair) == 2:
        drawn, title = _over_two(material, *pair), f"The objective over {pair[0].name} and {pair[1].name}"
        how = f"where it lies is what was chosen for {pair[0].name} and {pair[1].name}, its colour the objective"
    else:
        drawn, title = _over_one(material, pair[0]), f"The objective over {pair[0].name}"
        how = f"across, what was chosen for {pair[0].name}; upwards, the objective"
    kind = "low" if material.sweep.spec.objective.direction == "minimize" else "high"
    return Section(
        anchor="landscape",
        title=title,
        explanation=(
            f"Each mark is one trial of the search: {how} ({material.metric}, {kind} is good). A good region that is "
            "wide is worth more than a single good point; one at the edge says that the range may be too narrow."
        ),
        parts=[Drawing(figure=drawn)],
    )


def parallel(material: Material) -> Section | None:
    """All searched parameters at once, a line a trial."""
    shown = scales(material)[:_MAX_DIMENSIONS]
    trials = material.completed
    if len(trials) < 2 or not shown:
        return None
    values = [trial.objective or 0.0 for trial in trials]
    # Plotly draws lines of a higher colour over the others: the good ones are to be seen.
    sign = -1 if material.sweep.spec.objective.direction == "minimize" else 1
    drawn = figure(height=430, showlegend=False, margin={"l": 110, "r": 90, "t": 60, "b": 40})
    drawn.add_parcoords(
        dimensions=[*(_dimension(scale, trials) for scale in shown), _objective_dimension(material, values)],
        line={
            "color": [sign * value for value in values],
            "colorscale": colour_scale("maximize"),
            "showscale": False,  # the last axis is the scale
        },
        labelfont={"size": 13},
        tickfont={"size": 11},
    )
    left_out = len(scales(material)) - len(shown)
    return Section(
        anchor="parallel",
        title="All parameters at once",
        explanation=(
            "Each line is one completed trial, from its parameters on the left to its objective on the right; dark "
            "lines are good ones. Drag along an axis to pick a range: only the trials in it stay coloured."
            + (f" The {left_out} least important parameters are left out." if left_out else "")
        ),
        parts=[Drawing(figure=drawn)],
    )


def importance(material: Material) -> Section | None:
    """How much of the objective's spread each parameter explains."""
    shares = sorted(material.importance.items(), key=lambda item: item[1])
    if not shares:
        return None
    drawn = figure(
        height=110 + 34 * len(shares),
        showlegend=False,
        xaxis={"title": {"text": "share"}, "ticksuffix": " %", "range": [0, 108]},
        yaxis={
            "tickvals": list(range(len(shares))),
            "ticktext": [label(name) for name, _ in shares],
            "showgrid": False,
            "ticks": "",
        },
    )
    drawn.add_bar(
        x=[100 * share for _, share in shares],
        y=list(range(len(shares))),
        orientation="h",
        width=0.62,
        marker={"color": COLOURS[0]},
        text=[f"{100 * share:.0f} %" if share >= 0.005 else "< 1 %" for _, share in shares],
        textposition="outside",
        cliponaxis=False,
        hovertext=[f"{escaped(name)}: {100 * share:.1f} %" for name, share in shares],
        hoverinfo="text",
    )
    return Section(
        anchor="importance",
        title="Which parameter matters",
        explanation=(
            "The share of the objective's spread over the tried space that each parameter explains, by itself and with "
            "the others (fANOVA, by Optuna, from the completed trials). With few trials it is a rough estimate."
        ),
        parts=[Drawing(figure=drawn)],
    )


def history(material: Material) -> Section | None:
    """The objective trial by trial, with the best so far."""
    groups = _groups(material)
    drawn_values = [value for trial in material.search if (value := material.last_value(trial)) is not None]
    if not drawn_values:
        return None
    drawn = figure(
        height=400,
        xaxis={"title": {"text": "trial"}},
        yaxis=value_axis(material.metric, [*drawn_values, *(row["objective"] for row in material.baselines)]),
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 50},
    )
    for name, trials, marker in groups:
        known = [trial for trial in trials if material.last_value(trial) is not None]
        if known:
            _add_marks(drawn, material, name, known, marker, _numbers(known), [material.last_value(t) for t in known])
    _add_best_so_far(drawn, material)
    for index, row in enumerate(material.baselines, start=1):
        drawn.add_scatter(
            x=[material.search[0].number, material.search[-1].number],
            y=[row["objective"], row["objective"]],
            name=f"{label(method(row['label']))}, its best",
            mode="lines",
            line={"color": COLOURS[index % len(COLOURS)], "width": 1.5, "dash": DASHES[index % len(DASHES)]},
            hovertext=f"{escaped(method(row['label']))}: {number(row['objective'])}",
            hoverinfo="text",
        )
    lost = sum(trial.state in _WITHOUT_RESULT for trial in material.search)
    return Section(
        anchor="history",
        title="How the search went on",
        explanation=(
            "The objective of each search trial in the order in which they were made, and the best so far: when the "
            "line has been flat for long, more trials would hardly find better. Trials that were stopped early are "
            "shown with their last value, which is that of a shorter training."
            + (f" {lost} without a result {'is' if lost == 1 else 'are'} not shown." if lost else "")
        ),
        parts=[Drawing(figure=drawn)],
    )


def _pair(known: Sequence[Scale]) -> Sequence[Scale]:
    """GradNorm's own parameters, else the two most important numbers, else one number, else one choice."""
    numbers = [scale for scale in known if scale.is_numeric]
    named = [scale for name in _NAMED_PAIR for scale in numbers if scale.name == name]
    if len(named) == len(_NAMED_PAIR):
        return named
    return numbers[:2] or known[:1]


def _groups(material: Material) -> list[tuple[str, list[Trial], dict[str, Any]]]:
    """Search trials by what became of them, each group with its mark."""
    done = list(material.completed)
    stopped = [trial for trial in material.search if trial.state is TrialState.EARLY_STOPPED]
    lost = [trial for trial in material.search if trial.state in _WITHOUT_RESULT]
    size = 9 if len(material.search) <= _SPARSE else 6
    return [
        ("completed", done, {"symbol": "circle", "size": size + 2, "line": {"width": 1, "color": "#1f2933"}}),
        ("stopped early", stopped, {"symbol": "triangle-down-open", "size": size, "color": GREY}),
        ("failed or infeasible", lost, {"symbol": "x-thin", "size": size, "line": {"width": 2, "color": "#000000"}}),
    ]


def _over_two(material: Material, across: Scale, up: Scale) -> go.Figure:
    drawn = figure(
        height=480,
        xaxis={"title": {"text": _axis_title(across)}, **axis(across)},
        yaxis={"title": {"text": _axis_title(up)}, **axis(up)},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 40},
    )
    for name, trials, marker in _groups(material):
        if name == "completed":
            marker |= {
                "color": [trial.objective for trial in trials],
                "colorscale": colour_scale(material.sweep.spec.objective.direction),
                "colorbar": {
                    "title": {"text": label(material.metric), "side": "right", "font": {"size": 13}},
                    "thickness": 14,
                    "exponentformat": "power",
                },
                "showscale": len({trial.objective for trial in trials}) > 1,
            }
        if trials:
            places = [across.place(trial) for trial in trials], [up.place(trial) for trial in trials]
            _add_marks(drawn, material, name, trials, marker, *places)
    best = [trial for trial in material.completed if material.best and trial.id == material.best["trial_id"]]
    if best:
        places = [across.place(trial) for trial in best], [up.place(trial) for trial in best]
        _add_marks(drawn, material, "the best", best, dict(_BEST), *places)
    return drawn


def _over_one(material: Material, across: Scale) -> go.Figure:
    values = [value for trial in material.search if (value := material.last_value(trial)) is not None]
    drawn = figure(
        height=420,
        xaxis={"title": {"text": _axis_title(across)}, **axis(across)},
        yaxis=value_axis(material.metric, values),
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 40},
    )
    for name, trials, marker in _groups(material):
        known = [trial for trial in trials if material.last_value(trial) is not None]
        if known:
            marker.setdefault("color", COLOURS[0])
            xs = [across.place(trial) for trial in known]
            _add_marks(drawn, material, name, known, marker, xs, [material.last_value(trial) for trial in known])
    return drawn


def _add_marks(
    drawn: go.Figure,
    material: Material,
    name: str,
    trials: Sequence[Trial],
    marker: dict[str, Any],
    xs: Sequence[float | None],
    ys: Sequence[float | None],
) -> None:
    kind = go.Scatter if len(material.search) <= _FEW else go.Scattergl
    told = [_told(material, trial) for trial in trials]
    drawn.add_trace(kind(x=xs, y=ys, name=name, mode="markers", marker=marker, hovertext=told, hoverinfo="text"))


def _told(material: Material, trial: Trial) -> str:
    value = f"{material.metric}: {number(material.last_value(trial))}"
    state = "" if trial.state is TrialState.COMPLETED else f" ({trial.state} at step {trial.last_step})"
    own = {**({BALANCER: trial.balancer} if material.sweep.spec.methods else {}), **trial.searched}
    lines = [f"trial {trial.number}{state}", value, *(parameters({k: v}) for k, v in own.items())]
    return "<br>".join(escaped(shortened(line, longest=80)) for line in lines)


def _axis_title(scale: Scale) -> str:
    return label(scale.name) + (" (log scale)" if scale.is_log else "")


def _numbers(trials: Iterable[Trial]) -> list[int]:
    return [trial.number for trial in trials]


def _add_best_so_far(drawn: go.Figure, material: Material) -> None:
    objective = material.sweep.spec.objective
    so_far: list[float] = []
    for trial in material.completed:
        value = trial.objective or 0.0
        so_far.append(value if not so_far or objective.is_better(value, so_far[-1]) else so_far[-1])
    numbers = _numbers(material.completed)
    if so_far:  # drawn on to the last trial, whatever became of that one
        numbers, so_far = [*numbers, material.search[-1].number], [*so_far, so_far[-1]]
        drawn.add_scatter(
            x=numbers,
            y=so_far,
            name="best so far",
            mode="lines",
            line={"color": COLOURS[0], "width": 2.5, "shape": "hv"},
            hoverinfo="skip",
        )


def _dimension(scale: Scale, trials: Sequence[Trial]) -> dict[str, Any]:
    places = [scale.place(trial) for trial in trials]
    low, high = scale.bounds
    values, texts = scale.ticks
    if scale.unused in places:
        low, values, texts = scale.unused, [scale.unused, *values], ["not used", *texts]
    texts = [shortened(text, longest=16) for text in texts]
    return {
        "label": shortened(_plain_title(scale), longest=22),
        "values": places,
        "range": [low, high],
        "tickvals": values,
        "ticktext": texts,
    }


def _plain_title(scale: Scale) -> str:
    """Parallel coordinates show tags as they are, unlike every other figure."""
    return scale.name + (" (log)" if scale.is_log else "")


def _objective_dimension(material: Material, values: Sequence[float]) -> dict[str, Any]:
    low, high = min(values), max(values)
    room = 0.0 if high > low else abs(low) or 1.0
    return {
        "label": shortened(material.metric, longest=22),
        "values": list(values),
        "range": [low - room, high + room],
        "tickformat": ".4~g",
    }
