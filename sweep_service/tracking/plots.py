"""Figures of a sweep's results. Built on Figure objects alone: no pyplot, so no global state and no display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sweep_service.domain.trial import Report
from sweep_service.report.palette import COLOURS
from sweep_service.report.series import all_values, series_by_task, spans_decades

_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def save_weight_curves(path: Path, reports: Sequence[Report], *, title: str) -> bool:
    """Write a PNG with the task weights over the optimiser steps; False, and no file, where no report has any.

    Raises:
        OSError: the file cannot be written.
    """
    curves = series_by_task(reports, "weight/")
    if not curves:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (task, (steps, weights)) in enumerate(curves.items()):
        axes.plot(
            steps,
            weights,
            label=task.replace("$", r"\$"),  # or matplotlib reads a formula
            color=COLOURS[index % len(COLOURS)],
            linestyle=_STYLES[index // len(COLOURS) % len(_STYLES)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=5,
            markevery=max(1, len(steps) // 15),
            linewidth=1.8,
        )
    axes.axhline(1.0, color="#888888", linewidth=1, linestyle=(0, (1, 2)), zorder=0, label="equal weights")
    axes.set_title(title)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("task weight")
    if spans_decades(all_values(curves)):  # on a linear axis the small ones would all lie on zero
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(title="task", loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + len(curves) // 16, frameon=False)
    figure.savefig(path)
    return True
