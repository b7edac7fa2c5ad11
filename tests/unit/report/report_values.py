"""Sweeps to report on: as large, as poor and as hostile as a test wants them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from store_values import SPEC, START, new_attempt, new_report, new_sweep, new_trial

from sweep_service.domain.branches import draw_uniform
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Report, Role, Sweep, Trial
from sweep_service.report.material import Material
from sweep_service.report.page import render_report
from sweep_service.services.results import summarise

GRADNORM_SPACE: Mapping[str, Any] = {
    "alpha": {"type": "float", "low": 0.0, "high": 3.0},
    "weight_lr": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
}
HOSTILE = "</script><script>alert('x')</script><img src=x onerror=alert(1)>&amp;\"'`${1}%{x}"


def a_spec(**changes: Any) -> SweepSpec:
    document = SPEC.canonical() | {"space": dict(GRADNORM_SPACE), "initial": []}
    return SweepSpec.model_validate({**document, **changes})


def a_material(
    spec: SweepSpec | None = None,
    *,
    num_trials: int = 12,
    tasks: Sequence[str] = ("digit", "odd"),
    num_points: int = 5,
    state: SweepState = SweepState.COMPLETED,
    **changes: Any,
) -> Material:
    """A sweep whose trials are drawn at random: every fifth was stopped early, every ninth failed."""
    spec = spec or a_spec()
    sweep = new_sweep(spec=spec, state=state, reason=SweepReason.BUDGET_TRIALS, started_at=START, **changes)
    trials = [_search_trial(sweep, number, tasks) for number in range(num_trials)]
    for name in spec.baselines:
        baseline = new_trial(sweep.id, len(trials), role=Role.BASELINE, balancer=name, searched={})
        trials.append(completed(baseline, 0.7, tasks))
    trials += _repeats(sweep, trials, tasks)
    return reported(sweep, trials, tasks=tasks, num_points=num_points)


def reported(
    sweep: Sweep, trials: Sequence[Trial], *, tasks: Sequence[str] = ("digit", "odd"), num_points: int = 5
) -> Material:
    """What the service would put together of these trials."""
    results = summarise(sweep, trials, {"weight_lr": 0.75, "alpha": 0.25})
    rows = [row for row in (results["best"], *results["baselines"]) if row]
    by_id = {trial.id: trial for trial in trials}
    curves = {row["trial_id"]: curve(by_id[row["trial_id"]], tasks, num_points) for row in rows}
    return Material(sweep=replace(sweep, results=results), trials=trials, curves=curves)


def completed(trial: Trial, objective: float, tasks: Sequence[str] = ("digit", "odd"), **metrics: float) -> Trial:
    losses = {f"val/loss/{task}": objective * 10.0**place for place, task in enumerate(tasks)}
    return replace(
        trial,
        state=TrialState.COMPLETED,
        ending=TrialEnding.COMPLETED,
        objective=objective,
        metrics={"val/normalized_loss": objective, **losses, **metrics},
        last_step=300,
    )


def curve(trial: Trial, tasks: Sequence[str], num_points: int) -> list[Report]:
    """Losses that fall, weights that spread over decades."""
    reports: list[Report] = []
    for step in range(1, num_points + 1):
        metrics: dict[str, float] = {}
        for place, task in enumerate(tasks):
            loss = 10.0**place * (0.1 + math.exp(-step / num_points))
            metrics |= {f"val/loss/{task}": loss, f"train/loss/{task}": 0.9 * loss, f"weight/{task}": 10.0**-place}
            metrics |= {f"relative_rate/{task}": 1 + 0.1 * place, f"grad_norm/{task}": 2.0 * 10.0**place}
        reports.append(new_report(new_attempt(trial), step, metrics=metrics))
    return reports


def render(material: Material) -> str:
    return render_report(material.sweep, material.trials, material.curves, made_at=material.made_at)


def figures_of(page: str) -> list[Any]:
    """The figures that the page holds."""
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def _search_trial(sweep: Sweep, number: int, tasks: Sequence[str]) -> Trial:
    drawn = draw_uniform(sweep.spec.space, seed=number)
    trial = new_trial(sweep.id, number, searched=drawn, params={**drawn})
    if number % 9 == 8:
        changes = {"state": TrialState.FAILED, "ending": TrialEnding.ERROR, "message": "ValueError: no such file"}
        return replace(trial, **changes)
    value = 0.3 + 0.01 * (number * 7 % 13)
    if number % 5 == 4:
        changes = {"state": TrialState.EARLY_STOPPED, "ending": TrialEnding.PRUNED}
        return replace(trial, **changes, metrics={"val/normalized_loss": 2 * value}, last_step=30)
    return completed(trial, value, tasks)


def _repeats(sweep: Sweep, trials: Sequence[Trial], tasks: Sequence[str]) -> list[Trial]:
    results = summarise(sweep, trials)
    originals = [row for row in (results["best"], *results["baselines"]) if row]
    repeats: list[Trial] = []
    for row in originals if sweep.spec.confirm else ():
        for seed in range(3):
            value = row["objective"] + 0.001 * seed * (1 + len(repeats))
            tests = {f"test/loss/{task}": value * 10.0**place for place, task in enumerate(tasks)}
            again = new_trial(sweep.id, len(trials) + len(repeats), role=Role.CONFIRM, balancer=row["label"], seed=seed)
            done = completed(again, value, tasks, **{"test/normalized_loss": value, **tests})
            repeats.append(replace(done, confirms=row["trial_id"]))
    return repeats
