"""Did it help? The verdict with its intervals, and the baselines beside the best trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sweep_service.report.material import Material, Row, is_finite, method
from sweep_service.report.palette import COLOURS
from sweep_service.report.section import Drawing, Emphasis, Html, Part, Section, joined, number, table, text
from sweep_service.report.theme import BAND, GREY, SYMBOLS, escaped, figure, label, named_axis, value_axis

# In the order in which the legend lists them: symbol and colour.
_OUTCOMES: Mapping[str, tuple[str, str, str]] = {
    "helped": ("helped: the best trial is better", "circle", "#0072B2"),
    "equivalent": ("equivalent: the difference is too small to matter", "diamond", "#009E73"),
    "inconclusive": ("inconclusive", "circle-open", GREY),
    "hurt": ("hurt: the other one is better", "square", "#D55E00"),
}
_ROW_HEIGHT = 30
_REFERENCES = ("equal", "inverse_initial_loss", "single_task")  # the first that ran is what the others are measured by


@dataclass(frozen=True, kw_only=True)
class _Interval:
    """A difference with its interval, in the units of its figure."""

    name: str
    outcome: str
    mean: float
    low: float | None
    high: float | None
    told: str  # by hovering, as plotly's mark-up


def verdict(material: Material) -> Section | None:
    """Whether the best trial beat each baseline, and each other balancer that is searched by itself, overall and task
    by task.
    """
    found: Mapping[str, Any] = material.results.get("verdict") or {}
    against: Sequence[Mapping[str, Any]] = found.get("against") or ()
    if not against:
        return None
    margin = found["margin"]
    parts: list[Part] = [joined(['<p class="summary">', text(found["summary"]), "</p>"])]
    overall = [
        _interval(method(row["baseline"]), row, unit=1.0, told=found["metric"])
        for row in against
        if is_finite(row["mean_difference"])
    ]
    if overall:
        title = f"difference in {found['metric']}, best minus other"
        caption = "Overall. The band is the margin: a difference whose interval lies inside it is too small to matter."
        parts.append(Drawing(figure=_forest(overall, margin=margin, title=title), caption=caption))
    if by_task := list(_by_task(against, margin)):
        drawn = _forest(by_task, margin=100 * margin, title="difference in the task's test loss, % of the other's")
        caption = "Task by task, in per cent of the other one's loss: tasks have losses in different units."
        parts.append(Drawing(figure=drawn, caption=caption))
    parts += [_numbers(found, against), joined(['<p class="note">', text(found["covers"]), "</p>"])]
    return Section(
        anchor="verdict",
        title="Verdict",
        explanation=(
            f"The best trial and {_others(material)} were trained again with the same {found['seeds']} fresh seeds, "
            "and measured on the test split, which nothing has been chosen by. Left of zero the best trial is better. "
            f"A line is the {100 * found['confidence']:g} % interval of the mean difference over the seeds: the "
            "shorter it is, the better the difference is known."
        ),
        parts=parts,
    )


def _others(material: Material) -> str:
    return "the best of each other method" if material.sweep.spec.methods else "each baseline's best"


def beside_baselines(material: Material) -> Section | None:
    """The losses of the best trial and the baselines by task, relative to one of them."""
    rows = material.contenders
    reference = next((row for name in _REFERENCES for row in rows[1:] if row["label"] == name), None)
    if reference is None or len(rows) < 2:
        return None
    units = {task: loss for task, loss in _losses(reference).items() if loss > 0}
    others = [row for row in rows if row is not reference]
    ratios = {
        row["trial_id"]: {task: loss / units[task] for task, loss in _losses(row).items() if task in units}
        for row in others
    }
    tasks = [task for task in sorted(units) if any(task in of_row for of_row in ratios.values())]
    if not tasks:
        return None
    name = method(reference["label"])
    drawn = figure(
        height=130 + (14 + 16 * len(others)) * len(tasks),
        xaxis=value_axis(
            f"validation loss, as a multiple of that with {name}",
            [1.0, *(value for of_row in ratios.values() for value in of_row.values())],
            from_zero=True,
        ),
        yaxis={**named_axis(tasks), "showgrid": False},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 50},
    )
    for place, row in enumerate(others):
        shift = 0.0 if len(others) == 1 else 0.5 * (place / (len(others) - 1) - 0.5)
        _add_ratios(drawn, row, rows.index(row), shift, tasks, ratios[row["trial_id"]])
    drawn.add_vline(x=1, line={"color": GREY, "width": 1.5, "dash": "dot"})
    return Section(
        anchor="baselines",
        title=f"{'Other methods' if material.sweep.spec.methods else 'Baselines'} beside the best trial",
        explanation=(
            f"The validation loss of each task, of the best trial and of {_others(material)}, as a multiple of what "
            f"{name} reached: left of 1 is better than {name}. These are the trials of the search, one seed each; what "
            "may be concluded from them is in the verdict."
        ),
        parts=[Drawing(figure=drawn)],
    )


def _interval(name: str, row: Mapping[str, Any], *, unit: float, told: str) -> _Interval:
    low, high = row["interval"] or (None, None)
    seeds = f"{row['num_pairs']} seeds"
    bounds = "no interval" if low is None else f"{number(low, sign=True)} to {number(high, sign=True)}"
    lines = (name, f"{told}: {number(row['mean_difference'], sign=True)} ({bounds}), {seeds}", row["outcome"])
    return _Interval(
        name=name,
        outcome=row["outcome"],
        mean=row["mean_difference"] / unit,
        low=None if low is None else low / unit,
        high=None if high is None else high / unit,
        told="<br>".join(escaped(line) for line in lines),
    )


def _by_task(against: Iterable[Mapping[str, Any]], margin: float) -> Iterable[_Interval]:
    """Differences in per cent of the baseline's median loss, which a task's margin is a known share of."""
    for row in against:
        for task, of_task in row["tasks"].items():
            unit = of_task["margin"] / margin / 100
            if is_finite(of_task["mean_difference"]) and unit > 0:
                name = f"{method(row['baseline'])} · {task}"
                yield _interval(name, of_task, unit=unit, told=of_task["metric"])


def _forest(intervals: Sequence[_Interval], *, margin: float, title: str) -> go.Figure:
    """A row each, the first on top."""
    drawn = figure(
        height=120 + _ROW_HEIGHT * len(intervals),
        xaxis={"title": {"text": label(title, longest=80)}},
        yaxis={**named_axis([interval.name for interval in intervals]), "showgrid": False},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 40},
    )
    drawn.add_vrect(x0=-margin, x1=margin, fillcolor=BAND, line_width=0, layer="below")
    drawn.add_vline(x=0, line={"color": GREY, "width": 1.5, "dash": "dot"}, layer="below")
    for outcome, (words, symbol, colour) in _OUTCOMES.items():
        places = [place for place, interval in enumerate(intervals) if interval.outcome == outcome]
        own = [intervals[place] for place in places]
        if not own:
            continue
        drawn.add_scatter(
            x=[interval.mean for interval in own],
            y=places,
            name=words,
            mode="markers",
            marker={"symbol": symbol, "color": colour, "size": 11, "line": {"width": 2, "color": colour}},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [0 if i.high is None else i.high - i.mean for i in own],
                "arrayminus": [0 if i.low is None else i.mean - i.low for i in own],
                "color": colour,
                "thickness": 2,
                "width": 5,
            },
            hovertext=[interval.told for interval in own],
            hoverinfo="text",
        )
    return drawn


def _numbers(found: Mapping[str, Any], against: Iterable[Mapping[str, Any]]) -> Html:
    header = ("against", "outcome", "difference", f"{100 * found['confidence']:g} % interval", "margin", "p (Holm)")
    rows: list[Sequence[object]] = []
    for row in against:
        rows.append(Emphasis(_cells(method(row["baseline"]), row)))
        rows += [_cells(f"\u2003{task}", of_task) for task, of_task in row["tasks"].items()]
    return joined(
        [
            "<details><summary>The numbers</summary>",
            table((*header, "seeds", "remark"), rows, numeric=range(2, 7)),
            "</details>",
        ]
    )


def _cells(name: str, row: Mapping[str, Any]) -> tuple[object, ...]:
    low, high = row["interval"] or (None, None)
    bounds = "–" if low is None else f"{number(low, sign=True)} to {number(high, sign=True)}"
    measured = (number(row["mean_difference"], sign=True), bounds, f"±{number(row['margin'])}")
    return name, row["outcome"], *measured, number(row["p_value_holm"]), row["num_pairs"], row["reason"] or ""


def _losses(row: Row) -> dict[str, float]:
    found = {task: metrics.get("loss") for task, metrics in row["tasks"].items()}
    return {task: loss for task, loss in found.items() if loss is not None and is_finite(loss)}


def _add_ratios(
    drawn: go.Figure, row: Row, index: int, shift: float, tasks: Sequence[str], ratios: Mapping[str, float]
) -> None:
    """One mark a task, a little above or below its line; ``index`` is that of its colour in the other figures too."""
    known = [(place, task) for place, task in enumerate(tasks) if task in ratios]
    name = f"{method(row['label'])}{' (best)' if index == 0 else ''}"
    drawn.add_scatter(
        x=[ratios[task] for _, task in known],
        y=[place + shift for place, _ in known],
        name=label(name),
        mode="markers",
        marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 12, "color": COLOURS[index % len(COLOURS)]},
        hovertext=[
            f"{escaped(name)}, trial {row['number']}<br>{escaped(task)}: {number(row['tasks'][task]['loss'])}, "
            f"{number(ratios[task])} times the reference"
            for _, task in known
        ],
        hoverinfo="text",
    )
