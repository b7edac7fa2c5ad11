"""The section on several objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from report_values import HOSTILE, a_material, a_spec, completed, figures_of, render, reported
from store_values import new_sweep, new_trial

from sweep_service.domain.trial import Role
from sweep_service.report.front import pareto_front
from sweep_service.report.material import Material
from sweep_service.report.section import Drawing

BOTH = [{"metric": "val/loss/digit"}, {"metric": "val/accuracy/digit", "direction": "maximize"}]
# Trial 0 is beaten by 1; 1, 2 and 3 beat each other in turn.
POINTS = ((0.5, 0.5), (0.4, 0.6), (0.6, 0.8), (0.9, 0.9))


def material(
    points: Sequence[tuple[float, float]] = POINTS, objectives: Sequence[Any] = BOTH, name: str = "alpha"
) -> Material:
    sweep = new_sweep(spec=a_spec(objectives=list(objectives), baselines=["equal"], confirm=None))
    trials = [
        completed(
            new_trial(sweep.id, number, searched={"alpha": 0.5 * number}), loss, **{"val/accuracy/digit": accuracy}
        )
        for number, (loss, accuracy) in enumerate(points)
    ]
    baseline = new_trial(sweep.id, len(trials), role=Role.BASELINE, balancer="equal", searched={})
    trials.append(completed(baseline, 0.7, **{"val/accuracy/digit": 0.7}))
    return reported(sweep, trials)


def test_the_front_is_told_apart_from_what_it_beats_and_the_baselines_stand_beside() -> None:
    section = pareto_front(material())
    assert section is not None
    (drawing, *_) = section.parts
    assert isinstance(drawing, Drawing)
    traces = {trace["name"]: trace for trace in drawing.figure.to_plotly_json()["data"]}
    assert list(traces["on the front"]["x"]) == [0.4, 0.6, 0.9]
    assert list(traces["on the front"]["y"]) == [0.6, 0.8, 0.9]
    assert list(traces["beaten"]["x"]) == [0.5]
    assert list(traces["equal, its best"]["y"]) == [0.7]


def test_each_further_objective_is_a_figure_of_its_own() -> None:
    section = pareto_front(material(objectives=[*BOTH, {"metric": "val/loss/odd"}]))
    assert section is not None
    assert sum(isinstance(part, Drawing) for part in section.parts) == 2


def test_a_sweep_of_one_objective_and_one_without_a_result_have_no_such_section() -> None:
    assert pareto_front(a_material()) is None
    assert pareto_front(material(points=())) is None


def test_the_page_holds_the_front_and_bears_names_of_any_kind() -> None:
    page = render(material(name=HOSTILE))
    assert 'id="front"' in page
    assert len(figures_of(page)) > 1
    assert HOSTILE not in page
