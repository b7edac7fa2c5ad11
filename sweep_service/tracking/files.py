"""The files of a sweep's run, written into a folder that is then uploaded."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from sweep_service.domain.trial import Report, Sweep, Trial
from sweep_service.tracking.plots import save_weight_curves
from sweep_service.tracking.summary import front_csv, leaderboard_csv, methods_csv

logger = logging.getLogger(__name__)

PLOTS_FOLDER = "plots"
REPORT = "report.html"


def write_spec(folder: Path, sweep: Sweep) -> None:
    document = sweep.spec.canonical()
    (folder / "spec.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "spec.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_results(folder: Path, sweep: Sweep, trials: Sequence[Trial], curves: Mapping[str, Sequence[Report]]) -> None:
    """The leaderboard, the methods, the front, the verdict, the report and the plots; ``curves`` are of the best trial
    of each method, by the trial's id. A file that cannot be made by a fault of ours is left out with a warning, and the
    others are made all the same.
    """
    writers: Sequence[Callable[[], None]] = (
        lambda: _write_leaderboard(folder, sweep),
        lambda: _write_verdict(folder, sweep),
        lambda: _write_report(folder, sweep, trials, curves),
        lambda: _write_plots(folder, sweep, curves),
    )
    for write in writers:
        try:
            write()
        except Exception:  # a figure that cannot be drawn
            logger.exception("Not all files of %s could be written.", sweep.id)


def _write_leaderboard(folder: Path, sweep: Sweep) -> None:
    results = sweep.results or {}
    (folder / "leaderboard.csv").write_text(leaderboard_csv(results.get("leaderboard", ())), encoding="utf-8")
    if methods := results.get("methods"):
        (folder / "methods.csv").write_text(methods_csv(methods), encoding="utf-8")
    if (front := results.get("front")) is not None:
        (folder / "front.csv").write_text(front_csv(front), encoding="utf-8")


def _write_verdict(folder: Path, sweep: Sweep) -> None:
    if verdict := (sweep.results or {}).get("verdict"):
        (folder / "verdict.json").write_text(json.dumps(verdict, indent=2, ensure_ascii=False), encoding="utf-8")


def _write_report(folder: Path, sweep: Sweep, trials: Sequence[Trial], curves: Mapping[str, Sequence[Report]]) -> None:
    from sweep_service.report.page import render_report  # here: plotly is wanted at the end of a sweep alone

    (folder / REPORT).write_text(render_report(sweep, trials, curves), encoding="utf-8")


def _write_plots(folder: Path, sweep: Sweep, curves: Mapping[str, Sequence[Report]]) -> None:
    if best := (sweep.results or {}).get("best"):
        plots = folder / PLOTS_FOLDER
        plots.mkdir()
        title = f"Task weights of the best trial ({best['label']}, trial {best['number']})"
        save_weight_curves(plots / "weights_best.png", curves.get(best["trial_id"], ()), title=title)
