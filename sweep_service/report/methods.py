"""Which method is best: the balancers and the baselines beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from sweep_service.report.material import Material, Row, is_finite, method
from sweep_service.report.palette import COLOURS
from sweep_service.report.section import (
    Drawing,
    Emphasis,
    Html,
    Part,
    Section,
    aligned,
    joined,
    number,
    parameters,
    table,
    text,
)
from sweep_service.report.theme import SYMBOLS, escaped, figure, label, named_axis, value_axis

_ROW_HEIGHT = 34


def methods(material: Material) -> Section | None:
    """The best of each method, by rank, and what fresh seeds made of it."""
    rows: Sequence[Row] = material.results.get("methods") or ()
    if len(rows) < 2:
        return None
    ranked = [row for row in rows if row["rank"] is not None]
    is_by_fresh_seeds = bool(ranked) and all(row["confirmed"] for row in ranked)
    parts: list[Part] = []
    if any(is_finite(row["objective"]) for row in rows):
        parts.append(_drawn(material, rows))
    parts.append(_table(material, rows))
    if any(row["rank"] is None for row in rows):
        parts.append(joined(['<p class="note">', text("A method without a rank has no completed trial."), "</p>"]))
    return Section(
        anchor="methods",
        title="The methods, ranked",
        explanation=(
            "Each balancer of the search and each baseline (shaded) with its best trial. "
            + (
                f"They are ranked by the mean of {ranked[0]['confirmed']['metric']} over fresh seeds: the best of "
                "many trials owes its own result to luck as well. Whether a difference is more than chance says the "
                "verdict."
                if is_by_fresh_seeds
                else "They are ranked by the objective of their best trials, one seed each: of methods that lie close "
                "together, another seed may turn the order round."
            )
        ),
        parts=parts,
    )


def _drawn(material: Material, rows: Sequence[Row]) -> Drawing:
    """A line a method, the first on top: its best trial's objective, the fresh seeds, and their mean. What the fresh
    seeds measured alone, where that is another quantity than the objective: it would not fit on one axis.
    """
    metric = next((row["confirmed"]["metric"] for row in rows if row["confirmed"]), None)
    is_same = metric is None or metric.partition("/")[2] == material.metric.partition("/")[2]
    objectives = [(place, row["objective"]) for place, row in enumerate(rows) if is_same]
    repeats = [(place, value) for place, row in enumerate(rows) for value in (row["confirmed"] or {}).get("values", ())]
    means = [(place, (row["confirmed"] or {}).get("mean")) for place, row in enumerate(rows)]
    drawn = figure(
        height=130 + _ROW_HEIGHT * len(rows),
        xaxis=value_axis(
            material.metric if metric is None else metric.partition("/")[2] if is_same else metric,
            [value for _, value in (*objectives, *repeats) if is_finite(value)],
        ),
        yaxis={**named_axis([method(row["balancer"]) for row in rows]), "showgrid": False},
        legend={"orientation": "h", "y": 1, "yanchor": "bottom", "x": 0},
        margin={"t": 50},
    )
    filled = {"symbol": SYMBOLS[0], "size": 11, "color": COLOURS[0]}
    hollow = {"symbol": "circle-open", "size": 8, "color": COLOURS[1]}
    _add(drawn, rows, f"{material.metric}, best trial", objectives, 0.0, filled)
    _add(drawn, rows, f"{metric}, fresh seeds", repeats, 0.25, hollow)
    line = {"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": COLOURS[1]}}
    _add(drawn, rows, "their mean", means, 0.25, line)
    return Drawing(figure=drawn)


def _add(
    drawn: go.Figure,
    rows: Sequence[Row],
    name: str,
    points: Sequence[tuple[int, float | None]],
    below: float,
    marker: Mapping[str, Any],
) -> None:
    """Marks of values, each a little below the line of its method."""
    known = [(place, value) for place, value in points if is_finite(value)]
    if known:
        drawn.add_scatter(
            x=[value for _, value in known],
            y=[place + below for place, _ in known],
            name=label(name),
            mode="markers",
            marker=dict(marker),
            hovertext=[escaped(f"{method(rows[place]['balancer'])}: {number(value)}") for place, value in known],
            hoverinfo="text",
        )


def _table(material: Material, rows: Sequence[Row]) -> Html:
    has_repeats = any(row["confirmed"] for row in rows)
    header = ("#", "method", "trials", "tuned", material.metric)
    fresh = ("mean of fresh seeds", "spread (std)", "seeds") if has_repeats else ()
    lines: list[Sequence[object]] = []
    for row in rows:
        found = row["confirmed"] or {}
        cells = (
            "–" if row["rank"] is None else row["rank"],
            method(row["balancer"]),
            row["trials"],
            row["parameters"],
            aligned(row["objective"]),
            *((aligned(found.get("mean")), aligned(found.get("std")), _seeds(found)) if has_repeats else ()),
            "–" if row["number"] is None else row["number"],
            parameters(row["params"]),
        )
        lines.append(Emphasis(cells) if row["role"] == "baseline" else cells)
    numeric = (0, *range(2, 6 + len(fresh)))
    return table((*header, *fresh, "trial", "its parameters"), lines, numeric=numeric)


def _seeds(found: Row) -> str:
    if not found:
        return "–"
    return f"{found['seeds']}" + (f", {found['diverged']} diverged" if found["diverged"] else "")
