"""The section that ranks the methods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from report_values import HOSTILE, a_material, a_spec, completed, figures_of, render, reported
from store_values import START, new_sweep, new_trial

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepState, TrialState
from sweep_service.domain.trial import Role, Trial
from sweep_service.report import methods
from sweep_service.report.comparison import beside_baselines, verdict
from sweep_service.report.material import Material
from sweep_service.report.section import Drawing

SPACE: dict[str, Any] = {
    "balancer": {"type": "categorical", "choices": ["gradnorm", "static", "equal"]},
    "weight/odd": {"type": "float", "low": 0.1, "high": 10.0, "when": {"balancer": "static"}},
    "lr": {"type": "float", "low": 0.0001, "high": 0.1},
}


def apart(**changes: Any) -> SweepSpec:
    values = {"space": SPACE, "search": {"balancers": "equal_effort"}, "baselines": ["single_task"]}
    return a_spec(**{**values, **changes})


def material(spec: SweepSpec | None = None) -> Material:
    """static is the best, equal never completed; each that did was trained again with three seeds."""
    sweep = new_sweep(spec=spec or apart(), state=SweepState.COMPLETED, started_at=START)
    trials = [
        completed(new_trial(sweep.id, 0, balancer="gradnorm", searched={"lr": 0.01}), 0.5),
        completed(new_trial(sweep.id, 1, balancer="static", searched={"weight/odd": 2.0, "lr": 0.01}), 0.4),
        replace(new_trial(sweep.id, 2, balancer="equal", searched={"lr": 0.01}), state=TrialState.FAILED),
        completed(new_trial(sweep.id, 3, role=Role.BASELINE, balancer="single_task", searched={}), 0.6),
    ]
    again: list[Trial] = []
    for trial in (trials[0], trials[1], trials[3]):
        for seed in range(3):
            value = (trial.objective or 0.0) + 0.001 * seed * (trial.number + 1)
            one = new_trial(sweep.id, 10 + len(again), role=Role.CONFIRM, balancer=trial.balancer, seed=seed)
            tests = {"test/normalized_loss": value, "test/loss/odd": value}
            again.append(replace(completed(one, value, **tests), confirms=trial.id))
    return reported(sweep, [*trials, *again])


def drawn(section: Any) -> list[Any]:
    return [part.figure for part in section.parts if isinstance(part, Drawing)]


def test_each_method_has_a_line_with_its_best_its_seeds_and_their_mean() -> None:
    section = methods.methods(material())
    assert section is not None
    (figure,) = drawn(section)
    names = list(figure.layout.yaxis.ticktext)
    assert names == ["static", "GradNorm", "single_task", "equal"]
    best, seeds, means = figure.data
    assert list(best.x) == [0.4, 0.5, 0.6]
    assert len(seeds.x) == 9
    assert list(means.y) == [0.25, 1.25, 2.25]
    page = render(material())
    assert "weight/odd = 2" in page
    assert "A method without a rank has no completed trial." in page


def test_the_page_says_by_what_the_methods_are_ranked() -> None:
    section = methods.methods(material())
    assert section is not None
    assert "ranked by the mean of test/normalized_loss over fresh seeds" in section.explanation
    found = material()
    results = dict(found.results)
    results["methods"] = [row | {"confirmed": None} if row["rank"] == 2 else row for row in results["methods"]]
    section = methods.methods(replace(found, sweep=replace(found.sweep, results=results)))
    assert section is not None
    assert "ranked by the objective of their best trials" in section.explanation


def test_another_quantity_than_the_objective_is_not_put_on_its_axis() -> None:
    other = apart(objective={"metric": "val/accuracy/digit", "direction": "maximize"})
    section = methods.methods(material(other))
    assert section is not None
    (figure,) = drawn(section)
    assert [trace.name for trace in figure.data] == ["test/normalized_loss, fresh seeds", "their mean"]
    assert figure.layout.xaxis.title.text == "test/normalized_loss"


def test_a_single_method_and_old_results_have_no_such_section() -> None:
    assert methods.methods(a_material(a_spec(baselines=[]))) is None
    old = a_material()
    results = {name: value for name, value in (old.sweep.results or {}).items() if name != "methods"}
    assert methods.methods(replace(old, sweep=replace(old.sweep, results=results))) is None
    assert render(replace(old, sweep=replace(old.sweep, results=results)))


def test_the_other_balancers_stand_beside_the_best_one_in_the_other_sections() -> None:
    found = material()
    assert [row["label"] for row in found.contenders] == ["static", "GradNorm".lower(), "single_task"]
    section = beside_baselines(found)
    assert section is not None
    assert section.title == "Other methods beside the best trial"
    judged = verdict(found)
    assert judged is not None
    assert "the best of each other method" in judged.explanation
    assert figures_of(render(found))


def test_hostile_names_stay_in_their_place() -> None:
    page = render(a_material(a_spec(name=HOSTILE)))
    assert HOSTILE not in page
