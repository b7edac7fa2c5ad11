"""The files of a sweep's run, written into a folder that is then uploaded."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import yaml

from sweep_service.domain.trial import Report, Sweep
from sweep_service.tracking.plots import save_weight_curves
from sweep_service.tracking.summary import front_csv, leaderboard_csv

PLOTS_FOLDER = "plots"


def write_spec(folder: Path, sweep: Sweep) -> None:
    document = sweep.spec.canonical()
    (folder / "spec.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "spec.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")


def write_results(folder: Path, sweep: Sweep, best_reports: Sequence[Report]) -> None:
    results = sweep.results or {}
    (folder / "leaderboard.csv").write_text(leaderboard_csv(results.get("leaderboard", ())), encoding="utf-8")
    if (front := results.get("front")) is not None:
        (folder / "front.csv").write_text(front_csv(front), encoding="utf-8")
    if verdict := results.get("verdict"):
        (folder / "verdict.json").write_text(json.dumps(verdict, indent=2, ensure_ascii=False), encoding="utf-8")
    if best := results.get("best"):
        plots = folder / PLOTS_FOLDER
        plots.mkdir()
        title = f"Task weights of the best trial ({best['label']}, trial {best['number']})"
        save_weight_curves(plots / "weights_best.png", best_reports, title=title)
