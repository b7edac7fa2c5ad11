"""Figures of a sweep's results. Built on Figure objects alone: no pyplot, so no global state and no display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sweep_service.domain.trial import Report

_WEIGHT = "weight/"
_LINEAR_UP_TO = 30.0  # largest weight over smallest, beyond which the axis is logarithmic

# Okabe and Ito's palette without yellow (too faint on white): told apart with every common colour blindness, and
# together with the markers in grey too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def save_weight_curves(path: Path, reports: Sequence[Report], *, title: str) -> bool:
    """Write a PNG with the task weights over the optimiser steps; False, and no file, where no report has any.

    Raises:
        OSError: the file cannot be written.
    """
    curves = _curves(reports)
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
            color=_COLOURS[index % len(_COLOURS)],
            linestyle=_STYLES[index // len(_COLOURS) % len(_STYLES)],
            marker=_MARKERS[index % len(_MARKERS)],
            markersize=5,
            markevery=max(1, len(steps) // 15),
            linewidth=1.8,
        )
    axes.axhline(1.0, color="#888888", linewidth=1, linestyle=(0, (1, 2)), zorder=0, label="equal weights")
    axes.set_title(title)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("task weight")
    if _spans_decades(curves):  # on a linear axis the small ones would all lie on zero
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(title="task", loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + len(curves) // 16, frameon=False)
    figure.savefig(path)
    return True


def _spans_decades(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> bool:
    values = [weight for _, weights in curves.values() for weight in weights]
    return min(values) > 0 and max(values) / min(values) > _LINEAR_UP_TO


def _curves(reports: Sequence[Report]) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and weights by task, in the order of the steps."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for report in sorted(reports, key=lambda report: report.step):
        for key, value in report.metrics.items():
            if key.startswith(_WEIGHT):
                steps, weights = curves.setdefault(key.removeprefix(_WEIGHT), ([], []))
                steps.append(report.step)
                weights.append(value)
    return dict(sorted(curves.items()))
