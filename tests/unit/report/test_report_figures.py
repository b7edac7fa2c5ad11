"""What the figures show."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_values import GRADNORM_SPACE, a_material, a_spec, completed, reported
from store_values import new_sweep, new_trial

from sweep_service.domain.space import Choice, FloatRange, IntRange
from sweep_service.domain.states import SweepState, TrialState
from sweep_service.report import comparison, search, training
from sweep_service.report.material import Material
from sweep_service.report.scales import Scale
from sweep_service.report.section import Drawing, Section, aligned, number
from sweep_service.report.series import log_ticks, series_by_task


def drawings(make: Callable[[Material], Section | None], material: Material) -> list[Any]:
    """The figures of a section, as plotly's JSON."""
    section = make(material)
    assert section is not None
    return [part.figure.to_plotly_json() for part in section.parts if isinstance(part, Drawing)]


def traces(figure: Any) -> dict[str, Any]:
    return {trace.get("name"): trace for trace in figure["data"]}


# --- training -------------------------------------------------------------------------------------------------------


def test_weights_that_span_decades_are_on_a_logarithmic_axis_and_others_are_not() -> None:
    far, near = a_material(tasks=("a", "b", "c")), a_material(tasks=("a", "b"))
    assert drawings(training.weights, far)[0]["layout"]["yaxis"]["type"] == "log"
    assert "type" not in drawings(training.weights, near)[0]["layout"]["yaxis"]


def test_weights_are_those_of_the_best_trial_by_task_with_equal_weights_beside() -> None:
    figure = drawings(training.weights, a_material(tasks=("digit", "odd"), num_points=3))[0]
    assert list(traces(figure)) == ["digit", "odd", "equal weights"]
    assert list(traces(figure)["odd"]["x"]) == [1, 2, 3]
    assert list(traces(figure)["odd"]["y"]) == [0.1, 0.1, 0.1]


def test_each_task_has_a_panel_with_the_best_and_each_baseline_on_both_splits() -> None:
    material = a_material(a_spec(baselines=["equal", "single_task"]), tasks=("a", "b"))
    figure = drawings(training.losses, material)[0]
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["a", "b"]
    assert len(figure["data"]) == 2 * 3 * 2  # tasks, trials, splits
    legend = [trace["name"] for trace in figure["data"] if trace["showlegend"]]
    assert legend == ["GradNorm (best)", "equal", "single_task"]


def test_a_trial_that_the_first_panel_lacks_is_in_the_legend_all_the_same() -> None:
    material = a_material(tasks=("a", "b"))
    equal = material.baselines[0]["trial_id"]
    without_a = [
        replace(report, metrics={key: value for key, value in report.metrics.items() if not key.endswith("/a")})
        for report in material.curves[equal]
    ]
    figure = drawings(training.losses, replace(material, curves={**material.curves, equal: without_a}))[0]
    assert [trace["name"] for trace in figure["data"] if trace["showlegend"]] == ["GradNorm (best)", "equal"]


def test_training_rates_and_gradient_norms_are_of_the_best_trial() -> None:
    rate, norm = drawings(training.rates, a_material(tasks=("a", "b")))
    assert set(traces(rate)["b"]["y"]) == {1.1}
    assert set(traces(norm)["b"]["y"]) == {20.0}


def test_a_long_curve_is_thinned_evenly_and_keeps_its_ends() -> None:
    material = a_material(num_points=2000)
    assert material.best is not None
    steps, _ = series_by_task(material.curves[material.best["trial_id"]], "weight/")["digit"]
    assert (len(steps), steps[0], steps[-1]) == (500, 1, 2000)
    assert max(after - before for before, after in pairwise(steps)) <= 5


# --- the verdict ----------------------------------------------------------------------------------------------------


def test_the_forest_has_the_verdicts_own_numbers_and_its_margin() -> None:
    material = a_material()
    row = material.results["verdict"]["against"][0]
    overall, by_task = drawings(comparison.verdict, material)
    helped = traces(overall)["helped: the best trial is better"]
    low, high = row["interval"]
    assert list(helped["x"]) == [row["mean_difference"]]
    assert helped["x"][0] + helped["error_x"]["array"][0] == pytest.approx(high)
    assert helped["x"][0] - helped["error_x"]["arrayminus"][0] == pytest.approx(low)
    band = overall["layout"]["shapes"][0]
    assert (band["x0"], band["x1"]) == (-0.01, 0.01)
    assert by_task["layout"]["yaxis"]["ticktext"] == ["equal · digit", "equal · odd"]


def test_tasks_of_different_units_are_compared_in_per_cent_of_the_baselines_loss() -> None:
    material = a_material(tasks=("small", "large"))  # the same losses, but for a factor of ten
    by_task = drawings(comparison.verdict, material)[1]
    small, large = by_task["data"][0]["x"]
    assert small == pytest.approx(large)
    assert small == pytest.approx(-57, abs=2)  # 0.3 against 0.7


def test_losses_beside_the_baselines_are_relative_to_equal_weights() -> None:
    material = a_material(a_spec(baselines=["single_task", "equal"]))
    figure = drawings(comparison.beside_baselines, material)[0]
    assert list(traces(figure)) == ["GradNorm (best)", "single_task"]
    assert list(traces(figure)["GradNorm (best)"]["x"]) == pytest.approx([0.3 / 0.7] * 2)
    assert list(traces(figure)["single_task"]["x"]) == pytest.approx([1.0, 1.0])


# --- the search -----------------------------------------------------------------------------------------------------


def test_the_landscape_is_over_gradnorms_own_parameters_with_the_learning_rate_on_a_log_scale() -> None:
    space = {"lr": {"type": "float", "low": 1e-4, "high": 1e-2}, **GRADNORM_SPACE}
    material = a_material(a_spec(space=space))
    figure = drawings(search.landscape, material)[0]
    assert figure["layout"]["xaxis"]["title"]["text"] == "alpha"
    assert figure["layout"]["yaxis"]["title"]["text"] == "weight_lr (log scale)"
    assert figure["layout"]["yaxis"]["ticktext"] == ["0.0001", "0.001", "0.01", "0.1"]
    done = traces(figure)["completed"]
    assert list(done["y"]) == [math.log10(trial.searched["weight_lr"]) for trial in material.completed]
    assert list(done["marker"]["color"]) == [trial.objective for trial in material.completed]


def test_trials_that_were_stopped_or_failed_have_marks_of_their_own_and_the_best_a_ring() -> None:
    material = a_material(num_trials=12)
    found = traces(drawings(search.landscape, material)[0])
    assert {name: len(trace["x"]) for name, trace in found.items()} == {
        "completed": 9,
        "stopped early": 2,
        "failed or infeasible": 1,
        "the best": 1,
    }
    assert material.best is not None
    assert found["the best"]["x"][0] == material.best["params"]["alpha"]


def test_without_gradnorms_parameters_the_two_most_important_numbers_are_shown() -> None:
    space = {name: {"type": "float", "low": 0, "high": 1} for name in ("a", "b", "c")}
    space["kind"] = {"type": "categorical", "choices": ["x", "y"]}
    material = a_material(a_spec(space=space))
    results = {**material.results, "importance": {"kind": 0.5, "c": 0.3, "a": 0.15, "b": 0.05}}
    figure = drawings(search.landscape, replace(material, sweep=replace(material.sweep, results=results)))[0]
    assert (figure["layout"]["xaxis"]["title"]["text"], figure["layout"]["yaxis"]["title"]["text"]) == ("c", "a")


def test_a_space_of_choices_alone_is_drawn_choice_by_choice() -> None:
    material = a_material(a_spec(space={"kind": {"type": "categorical", "choices": ["x", 1, True]}}))
    figure = drawings(search.landscape, material)[0]
    assert figure["layout"]["xaxis"]["ticktext"] == ["x", "1", "true"]
    places = {"'x'": 0.0, "1": 1.0, "True": 2.0}
    chosen = [repr(trial.searched["kind"]) for trial in material.completed]
    assert set(chosen) == set(places)
    assert list(traces(figure)["completed"]["x"]) == [places[value] for value in chosen]


def test_parallel_coordinates_have_the_parameters_by_importance_and_then_the_objective() -> None:
    space = {**GRADNORM_SPACE, "kind": {"type": "categorical", "choices": ["x", "<b>y</b>"]}, "one": {"type": "int"}}
    space["one"] |= {"low": 3, "high": 3}
    material = a_material(a_spec(space=space))
    (lines,) = drawings(search.parallel, material)[0]["data"]
    labels = [dimension["label"] for dimension in lines["dimensions"]]
    assert labels == ["weight_lr (log)", "alpha", "kind", "val/normalized_loss"]
    assert lines["dimensions"][2]["ticktext"] == ["x", "<b>y</b>"], "parallel coordinates read no tags"
    assert list(lines["dimensions"][3]["values"]) == [trial.objective for trial in material.completed]


def test_a_trial_without_a_parameter_has_a_place_beside_its_axis() -> None:
    material = a_material()
    first = material.completed[0]
    without = replace(first, searched={"weight_lr": first.searched["weight_lr"]})
    trials = [without if trial.id == first.id else trial for trial in material.trials]
    (lines,) = drawings(search.parallel, reported(material.sweep, trials))[0]["data"]
    alpha = next(dimension for dimension in lines["dimensions"] if dimension["label"] == "alpha")
    assert alpha["ticktext"][0] == "not used"
    assert alpha["values"][0] == alpha["tickvals"][0] < 0


def test_the_history_shows_the_best_so_far_whichever_way_is_better() -> None:
    for direction, expected in (("minimize", [5, 5, 3, 3]), ("maximize", [5, 6, 6, 6])):
        spec = a_spec(objective={"metric": "val/normalized_loss", "direction": direction}, baselines=[], confirm=None)
        sweep = new_sweep(spec=spec, state=SweepState.COMPLETED)
        values = (5.0, 6.0, 3.0)
        trials = [completed(new_trial(sweep.id, place), value) for place, value in enumerate(values)]
        trials.append(new_trial(sweep.id, 3, state=TrialState.FAILED))
        figure = drawings(search.history, reported(sweep, trials))[0]
        assert list(traces(figure)["best so far"]["y"]) == expected
        assert list(traces(figure)["best so far"]["x"]) == [0, 1, 2, 3]


def test_the_history_shows_stopped_trials_with_their_last_value_and_the_baselines() -> None:
    found = traces(drawings(search.history, a_material())[0])
    stopped = [trial for trial in a_material().search if trial.state is TrialState.EARLY_STOPPED]
    assert list(found["stopped early"]["y"]) == [trial.metrics["val/normalized_loss"] for trial in stopped]
    assert set(found["equal, its best"]["y"]) == {0.7}


def test_importance_is_in_per_cent_with_the_largest_on_top() -> None:
    figure = drawings(search.importance, a_material())[0]
    assert list(figure["data"][0]["x"]) == [25, 75]
    assert figure["layout"]["yaxis"]["ticktext"] == ["alpha", "weight_lr"]


# --- axes and numbers -----------------------------------------------------------------------------------------------

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e300, max_value=1e300)


@given(finite, finite, st.booleans())
def test_ticks_of_a_range_lie_in_it_rise_and_are_few(one: float, other: float, log: bool) -> None:
    low, high = sorted((abs(one), abs(other)) if log else (one, other))
    if low == high or (log and low < 1e-300):
        return
    scale = Scale(name="x", dimension=FloatRange(type="float", low=low, high=high, log=log))
    places, texts = scale.ticks
    assert places == sorted(places)
    assert len(places) == len(texts) <= 20
    assert (places[0], places[-1]) == scale.bounds


@given(st.integers(1, 1000), st.integers(1, 1000), st.booleans())
def test_ticks_of_whole_numbers_are_whole_and_differ(one: int, other: int, log: bool) -> None:
    low, high = sorted((one, other))
    places, texts = Scale(name="x", dimension=IntRange(type="int", low=low, high=high, log=log)).ticks
    assert len(set(texts)) == len(places)
    assert all("." not in text for text in texts)


def test_choices_by_the_hundred_get_some_ticks() -> None:
    scale = Scale(name="x", dimension=Choice(type="categorical", choices=tuple(range(300))))
    places, texts = scale.ticks
    assert len(places) == len(texts) <= 25


def test_ticks_of_a_logarithmic_axis_are_round() -> None:
    assert log_ticks(0.03, 3) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2])
    assert log_ticks(1e-4, 2) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert len(log_ticks(1e-300, 1e300)) <= 12


def test_numbers_have_four_digits_and_what_is_none_a_dash() -> None:
    assert [number(value) for value in (0.123456, 3, 1e-7, float("nan"), None, True)] == [
        *("0.1235", "3", "1e−07", "–", "–", "–"),
    ]
    assert (number(0.5, sign=True), number(-0.5, sign=True)) == ("+0.5", "−0.5")
    assert [aligned(value) for value in (0.5, 84.6, 3, None)] == ["0.5000", "84.60", "3", "–"]
