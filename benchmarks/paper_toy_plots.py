"""Figures of the toy experiment. Built on Figure objects alone: no pyplot, so no global state and no display."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.paper_toy_runs import (
    EQUAL,
    GRADNORM,
    LOG_UNIFORM,
    UNCERTAINTY,
    UNCERTAINTY_AT_LR,
    UNDONE_SCALES,
    UNIFORM,
    Cell,
    Row,
    undone_scales,
)
from sweep_service.report.palette import COLOURS
from trainables.problems.toy_regression import scales

LABELS = {
    GRADNORM: "GradNorm",
    EQUAL: "equal weights",
    UNCERTAINTY: "uncertainty",
    UNCERTAINTY_AT_LR: "uncertainty, s at lr",
    UNDONE_SCALES: "static 1/σ²",
}
_COLOUR = {
    GRADNORM: COLOURS[1],
    EQUAL: COLOURS[0],
    UNCERTAINTY: COLOURS[2],
    UNCERTAINTY_AT_LR: COLOURS[3],
    UNDONE_SCALES: COLOURS[6],
}
_DASH = {GRADNORM: "-", EQUAL: "--", UNCERTAINTY: "-.", UNCERTAINTY_AT_LR: ":", UNDONE_SCALES: (0, (1, 1))}
HIGHEST_SHOWN = 1.25  # of T, which is the sum before training
_SUM = r"$\Sigma_i\ L_i(t)\,/\,L_i(0)$, test"


def save_plots(folder: Path, rows: Sequence[Row], lr: float) -> list[Path]:
    """Write the figures of the rows with that learning rate as PNG files; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    shared = [row for row in rows if row.lr == lr]
    figures = {
        "curves.png": ("Test loss over the training: mean and standard deviation over seeds", _curves),
        "weights.png": (
            "GradNorm's weights, mean over seeds; dotted: 1/σ², at which the tasks would be equal",
            _weights,
        ),
    }
    if any(row.draw for row in shared):
        figures["static.png"] = ("Networks with random static weights, all of one seed", _histogram)
    paths = []
    for name, (title, draw) in figures.items():
        paths.append(folder / name)
        _save(paths[-1], shared, title, draw)
    return paths


def _save(path: Path, rows: Sequence[Row], title: str, draw: Callable[[Axes, Sequence[Row], Cell], None]) -> None:
    """One panel a cell: T by row, the reading of N(0, 10) by column."""
    sizes = sorted({row.num_tasks for row in rows})
    spreads = sorted({row.spread for row in rows})
    figure = Figure(figsize=(1.6 + 6.4 * len(spreads), 0.9 + 3.3 * len(sizes)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(sizes), len(spreads), squeeze=False)
    for axes, cell in zip(panels.flat, (Cell(num_tasks=n, spread=s) for n in sizes for s in spreads), strict=True):
        draw(axes, [row for row in rows if row.cell == cell], cell)
        axes.set_title(f"T = {cell.num_tasks}, N(0, 10) by its {cell.spread}", fontsize=10)
        axes.grid(visible=True, alpha=0.25)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path)


def _curves(axes: Axes, rows: Sequence[Row], cell: Cell) -> None:
    shown = []
    for method, label in LABELS.items():
        curves = [row.curve for row in rows if row.method == method and math.isfinite(row.test_sum)]
        if not curves or len(curves[0]) <= 2:
            continue
        steps = [step for step, _ in curves[0]]
        sums = np.array([[value for _, value in curve] for curve in curves])
        mean, spread = sums.mean(axis=0), sums.std(axis=0, ddof=1 if len(sums) > 1 else 0)
        axes.plot(steps, mean, color=_COLOUR[method], linestyle=_DASH[method], linewidth=1.8, label=label)
        axes.fill_between(steps, mean - spread, mean + spread, color=_COLOUR[method], alpha=0.15, linewidth=0)
        shown.append(mean)
    axes.axhline(cell.num_tasks, color="#888888", linewidth=1, zorder=0)
    axes.set_xlim(left=0)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(_SUM)
    if shown:
        # The first steps may take a sum far beyond T, and one network that diverges would hide the others.
        axes.set_ylim(top=min(1.05 * max(mean.max() for mean in shown), HIGHEST_SHOWN * cell.num_tasks))
        axes.legend(fontsize=8, frameon=False)


def _weights(axes: Axes, rows: Sequence[Row], cell: Cell) -> None:
    ours = [row for row in rows if row.method == GRADNORM and math.isfinite(row.test_sum)]
    all_scales = scales(cell.num_tasks)
    colour_of = colormaps["viridis"]
    by_scale = sorted(range(cell.num_tasks), key=lambda index: all_scales[index])
    for rank, index in enumerate(by_scale):
        colour = colour_of(0.9 * rank / (cell.num_tasks - 1))
        if ours:
            steps = [step for step, _ in ours[0].curve[1:]]
            mean = np.mean([row.weight_curves[f"f{index + 1}"] for row in ours], axis=0)
            label = f"σ = {all_scales[index]:g}"
            axes.plot([0, *steps], [1.0, *mean], color=colour, linewidth=1.6, label=label)
        axes.axhline(undone_scales(cell.num_tasks)[index], color=colour, linewidth=1, linestyle=":")
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("task weight")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _histogram(axes: Axes, rows: Sequence[Row], cell: Cell) -> None:
    drawn = {draw: [row.test_sum for row in rows if row.draw == draw] for draw in (UNIFORM, LOG_UNIFORM)}
    finite = {draw: [value for value in values if math.isfinite(value)] for draw, values in drawn.items()}
    search_seeds = {row.seed for row in rows if row.draw}
    marks = {
        method: value
        for method in LABELS
        for value in [row.test_sum for row in rows if row.method == method and row.seed in search_seeds]
        if math.isfinite(value)
    }
    everything = [*(value for values in finite.values() for value in values), *marks.values()]
    bins = np.linspace(min(everything), max(everything), 41)
    axes.hist(
        [finite[draw] for draw in drawn],
        bins=bins.tolist(),
        stacked=True,
        color=["#b0b7c3", COLOURS[4]],
        label=[f"{len(values)} {draw} weights" for draw, values in drawn.items()],
    )
    for method, value in marks.items():
        axes.axvline(value, color=_COLOUR[method], linestyle=_DASH[method], linewidth=1.8, label=LABELS[method])
    axes.set_xlabel(_SUM + ", last step")
    axes.set_ylabel("networks")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
