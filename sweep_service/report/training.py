"""How the best trial was trained: task weights, losses, training rates and gradient norms over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plotly.subplots import make_subplots

from sweep_service.report.material import Material, Row, method
from sweep_service.report.section import Drawing, Section
from sweep_service.report.series import Series, all_values, series_by_task
from sweep_service.report.theme import (
    GREY,
    SYMBOLS,
    TEMPLATE,
    escaped,
    figure,
    label,
    line_style,
    value_axis,
)

STEP = "optimiser step"
_MARKERS_UP_TO = 12  # points of a curve that are marked, to tell it from others in grey
_COLUMNS = 3  # of small multiples
_PANEL_HEIGHT = 230
_LOSSES_LINEAR_UP_TO = 8.0  # the end of a curve is what matters, and its beginning would leave it no room


def weights(material: Material) -> Section | None:
    """The task weights of the best trial."""
    curves = _curves_of_best(material, "weight/")
    if not curves or material.best is None:
        return None
    drawing = _by_task(curves, "task weight", reference=1.0, reference_name="equal weights")
    return Section(
        anchor="weights",
        title="Task weights of the best trial",
        explanation=(
            f"What each task's loss was multiplied by while trial {material.best['number']} "
            f"({method(material.best['label'])}) was trained. GradNorm's weights always sum to the number of tasks, so "
            "that 1 is what every task would have with equal weights; a large weight mostly says that the task's loss "
            "is a small number."
        ),
        parts=[drawing],
    )


def losses(material: Material) -> Section | None:
    """The losses of the best trial and of the other methods' best, a panel a task."""
    rows = [row for row in material.contenders if material.curves.get(row["trial_id"])]
    curves = {
        split: [series_by_task(material.curves[row["trial_id"]], f"{split}/loss/") for row in rows]
        for split in ("val", "train")
    }
    tasks = sorted({task for of_split in curves.values() for by_task in of_split for task in by_task})
    if not tasks:
        return None
    columns = min(_COLUMNS, len(tasks))
    num_rows = -(-len(tasks) // columns)
    panels = make_subplots(
        rows=num_rows,
        cols=columns,
        subplot_titles=[label(task, longest=34) for task in tasks],
        horizontal_spacing=0.2 / columns,
        vertical_spacing=min(0.35, 75 / (_PANEL_HEIGHT * num_rows)),
    )
    named: set[str] = set()  # what the legend has already; not every line is in the first panel
    for place, task in enumerate(tasks):
        at: dict[str, Any] = {"row": 1 + place // columns, "col": 1 + place % columns}
        for index, row in enumerate(rows):
            for split in ("train", "val"):
                if series := curves[split][index].get(task):
                    line = _loss_line(row, index, split, series)
                    is_new = split == "val" and line["legendgroup"] not in named
                    panels.add_trace({**line, "showlegend": is_new}, **at)
                    named |= {line["legendgroup"]} if is_new else set()
        drawn = [value for split in curves.values() for of_row in split for value in of_row.get(task, ([], []))[1]]
        panels.update_yaxes(**value_axis("", drawn, log_beyond=_LOSSES_LINEAR_UP_TO), nticks=6, **at)
        panels.update_xaxes(nticks=5, title={"text": STEP if place + columns >= len(tasks) else ""}, **at)
    panels.update_annotations(font={"size": 13})
    panels.update_layout(
        template=TEMPLATE,
        height=_PANEL_HEIGHT * num_rows + 90,
        margin={"t": 40, "b": 85},
        showlegend=True,
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0},
    )
    whose = ["the best trial"] if material.best else []
    whose += ["the best trial of each baseline"] if material.baselines else []
    return Section(
        anchor="losses",
        title="Losses by task",
        explanation=(
            f"Each task's own loss, not multiplied by its weight, of {' and of '.join(whose)}. The solid line is the "
            "validation split, the dotted one the training data; a gap that opens between them is overfitting."
        ),
        parts=[Drawing(figure=panels)],
    )


def rates(material: Material) -> Section | None:
    """The relative training rates of the best trial, and its gradient norms."""
    curves = _curves_of_best(material, "relative_rate/")
    norms = _curves_of_best(material, "grad_norm/")
    parts = []
    if curves:
        parts.append(_by_task(curves, "relative training rate", reference=1.0, reference_name="average of the tasks"))
    if norms:
        parts.append(_by_task(norms, "gradient norm"))
    if not parts:
        return None
    told = []
    if curves:
        told.append(
            "The relative training rate is a task's loss as a share of what it was in the beginning, over the average "
            "of these shares: above 1 the task has come less far than the others, and GradNorm gives it a larger "
            "gradient, the more so the larger alpha is."
        )
    if norms:
        told.append(
            "The gradient norm is the length of the task's gradient at the last shared layer, before its weight: where "
            "it differs by decades, equal weights would let the largest one drown the others."
        )
    return Section(anchor="rates", title="Training rates and gradient norms", explanation=" ".join(told), parts=parts)


def _curves_of_best(material: Material, prefix: str) -> dict[str, Series]:
    return series_by_task(material.curves.get(material.best["trial_id"], ()), prefix) if material.best else {}


def _by_task(
    curves: Mapping[str, Series], quantity: str, *, reference: float | None = None, reference_name: str = ""
) -> Drawing:
    """One line a task."""
    values = all_values(curves)
    drawn = figure(
        height=max(340, 60 + 22 * len(curves)),
        xaxis={"title": {"text": STEP}},
        yaxis=value_axis(quantity, values, from_zero=True),
        legend={"title": {"text": "task"}},
    )
    for index, (task, (steps, points)) in enumerate(curves.items()):
        drawn.add_scatter(
            x=steps,
            y=points,
            name=label(task, longest=28),
            mode="lines+markers",
            line=line_style(index),
            marker={"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 7, "maxdisplayed": _MARKERS_UP_TO},
            hovertext=[
                f"{escaped(task)}<br>step {step}: {point:.4g}" for step, point in zip(steps, points, strict=True)
            ],
            hoverinfo="text",
        )
    if reference is not None:
        ends = [min(min(steps) for steps, _ in curves.values()), max(max(steps) for steps, _ in curves.values())]
        drawn.add_scatter(
            x=ends,
            y=[reference, reference],
            name=reference_name,
            mode="lines",
            line={"color": GREY, "width": 1, "dash": "dot"},
            hoverinfo="skip",
        )
    return Drawing(figure=drawn)


def _loss_line(row: Row, index: int, split: str, series: Series) -> dict[str, Any]:
    steps, values = series
    is_val = split == "val"
    name = f"{method(row['label'])}{' (best)' if index == 0 and row['role'] == 'search' else ''}"
    shown = f"{escaped(name)}, {'validation' if is_val else 'training'}"
    style = line_style(index)
    return {
        "type": "scatter",
        "x": steps,
        "y": values,
        "name": label(name),
        "legendgroup": str(index),  # a click hides both of its lines
        "mode": "lines+markers" if is_val else "lines",
        "line": {**style, "width": 2} if is_val else {"color": style["color"], "dash": "dot", "width": 1},
        "marker": {"symbol": SYMBOLS[index % len(SYMBOLS)], "size": 6, "maxdisplayed": 7},
        "opacity": 1.0 if is_val else 0.75,
        "hovertext": _told(shown, steps, values),
        "hoverinfo": "text",
    }


def _told(name: str, steps: Sequence[int], values: Sequence[float]) -> list[str]:
    """What hovering says of each point; the name is plotly's mark-up."""
    return [f"{name}<br>step {step}: {value:.4g}" for step, value in zip(steps, values, strict=True)]
