"""The page: what is in it for which sweep, and that nothing which users wrote gets out of its place."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from report_values import GRADNORM_SPACE, HOSTILE, a_material, a_spec, figures_of, render
from store_values import START, new_sweep, new_trial

from sweep_service.domain.states import SweepState, TrialEnding, TrialState
from sweep_service.report.material import Material
from sweep_service.report.page import render_report


class Outline(HTMLParser):
    """The elements of a page, and the texts between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def sections_of(page: str) -> list[str]:
    return re.findall(r'<section id="(\w+)">', page)


def scripts_of(page: str) -> list[str]:
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


@pytest.fixture(scope="module")
def full_page() -> str:
    return render(a_material())


def test_a_sweep_with_everything_has_every_section_in_the_order_of_the_questions(full_page: str) -> None:
    assert sections_of(full_page) == [
        *("overview", "verdict", "methods", "baselines", "leaderboard", "weights", "losses", "rates"),
        *("landscape", "parallel", "importance", "history", "faults", "spec"),
    ]
    assert re.findall(r'<a href="#(\w+)">', full_page) == sections_of(full_page)


def test_each_figure_of_the_page_has_its_place(full_page: str) -> None:
    places = re.findall(r'<div id="figure-(\d+)"', full_page)
    assert [int(place) for place in places] == list(range(len(figures_of(full_page))))


def test_the_page_needs_nothing_but_itself(full_page: str) -> None:
    outline = Outline(full_page)
    loaded = [value for name, value in outline.attributes if name in ("src", "href", "action", "data", "srcset")]
    assert all(value is not None and value.startswith("#") for value in loaded)
    assert not {"link", "img", "iframe", "form", "object"} & set(outline.tags)
    assert "@import" not in full_page.partition("</style>")[0]


def test_the_policy_names_the_two_scripts_and_lets_nothing_else_run(full_page: str) -> None:
    found = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', full_page)
    assert found is not None
    policy = dict(rule.strip().split(" ", 1) for rule in found[1].split(";"))
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts_of(full_page)]
    assert policy["script-src"].split() == ["'unsafe-eval'", *(f"'sha256-{digest}'" for digest in digests)]
    assert len(digests) == 2
    assert policy["default-src"] == "'none'"
    assert "\r" not in full_page, "a browser would read another script than the one that the digest is of"


TOKENS = [*"<>&\"'/!-;:%{}$`= \u2028é", "script", "</script>", "<!--", "]]>", "<b>", "alert(1)", "&lt;"]
hostile_text = st.lists(st.sampled_from(TOKENS), max_size=20).map("".join)


@settings(max_examples=15, deadline=None)
@given(written=hostile_text, message=hostile_text)
def test_what_users_wrote_stays_text(full_page: str, written: str, message: str) -> None:
    task = written.strip() or "t"
    spec = a_spec(space={"dtype": {"type": "categorical", "choices": ["float32", task]}}, labels={})
    spec = spec.model_copy(update={"name": task})
    material = a_material(spec, tasks=(task, "other"), num_trials=9, message=message)
    page = render(material)
    plotly = scripts_of(full_page)[0]
    outline, plain = Outline(page.replace(plotly, "")), Outline(full_page.replace(plotly, ""))
    assert outline.tags.count("script") == 3
    assert set(outline.tags) <= set(plain.tags), "no tag of theirs"
    assert {name for name, _ in outline.attributes} <= {name for name, _ in plain.attributes}
    if message.strip():
        assert message in outline.texts
    for name in names_in(figures_of(page)):
        assert not re.search(r"<(?!br>)", name), "plotly reads tags in names"


def names_in(figures: list[Any]) -> list[str]:
    """The texts that plotly takes for its mark-up; those of parallel coordinates it does not."""
    found: list[str] = []
    for figure in figures:
        traces = [trace for trace in figure["data"] if trace["type"] != "parcoords"]
        found += [trace["name"] for trace in traces if "name" in trace]
        found += [told for trace in traces for told in trace.get("hovertext", ()) if isinstance(told, str)]
        found += [note["text"] for note in figure["layout"].get("annotations", ())]
        for name, axis in figure["layout"].items():
            if name.startswith(("xaxis", "yaxis")):
                found += [axis.get("title", {}).get("text", ""), *axis.get("ticktext", ())]
    return found


def test_a_name_that_ends_the_script_element_does_not() -> None:
    page = render(a_material(a_spec(name=HOSTILE), tasks=(HOSTILE, "odd")))
    assert page.count("</script>") == 3
    assert HOSTILE not in page
    names = [trace["name"] for trace in figures_of(page)[4]["data"]]
    assert names[0].startswith("&lt;/script&gt;&lt;script&gt;")


def test_a_sweep_without_trials_says_so_and_has_no_figure() -> None:
    sweep = new_sweep(spec=a_spec(), state=SweepState.QUEUED)
    page = render_report(sweep, [], {}, made_at=START)
    assert sections_of(page) == ["overview", "spec"]
    assert figures_of(page) == []
    assert "No trial has been made yet." in page
    assert "none has completed yet" in page
    assert "2026-03-01 12:00:00 UTC" in page


def test_one_completed_trial_without_baselines_has_what_can_be_drawn_of_it() -> None:
    material = a_material(a_spec(baselines=[], confirm=None), num_trials=1)
    found = sections_of(render(material))
    assert {"weights", "losses", "rates", "landscape", "history", "leaderboard"} <= set(found)
    assert not {"verdict", "baselines", "parallel", "faults"} & set(found)


def test_failed_trials_alone_are_told_with_what_they_died_of() -> None:
    sweep = new_sweep(spec=a_spec(), state=SweepState.FAILED, results=None, message="None of 1 trials completed.")
    lost = new_trial(sweep.id, 0, state=TrialState.INFEASIBLE, ending=TrialEnding.NON_FINITE, message="loss is <nan>")
    page = render_report(sweep, [lost], {})
    assert sections_of(page) == ["overview", "landscape", "faults", "spec"]
    assert "loss is &lt;nan&gt;" in page
    assert "None of 1 trials completed." in page


def test_values_that_are_not_finite_leave_gaps_and_are_no_fault_of_the_page() -> None:
    material = a_material(num_points=4)
    assert material.best is not None
    best = material.best["trial_id"]
    broken = [
        replace(report, metrics={**report.metrics, "weight/digit": float("nan"), "val/loss/odd": float("inf")})
        for report in material.curves[best][1:3]
    ]
    curves = {**material.curves, best: [material.curves[best][0], *broken, material.curves[best][3]]}
    page = render(Material(sweep=material.sweep, trials=material.trials, curves=curves))
    assert "NaN" not in json.dumps(figures_of(page))
    assert "Infinity" not in json.dumps(figures_of(page))
    weights = next(figure for figure in figures_of(page) if figure["data"][0]["name"] == "digit")
    assert weights["data"][0]["y"] == [1.0, None, None, 1.0]


def test_a_large_sweep_is_drawn_whole() -> None:
    spec = a_spec(space={**GRADNORM_SPACE, "lr": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}})
    page = render(a_material(spec, num_trials=500, tasks=[f"task {place}" for place in range(10)], num_points=25))
    history = figures_of(page)[-1]["data"]
    assert sum(len(trace["x"]) for trace in history if trace["name"] in ("completed", "stopped early")) == 445
    assert len(page) < 6_500_000


def test_the_overview_tells_how_long_it_took_and_the_best_parameters() -> None:
    ended = START.replace(hour=14, minute=5)
    material = a_material(ended_at=ended)
    texts = Outline(render(material).partition("<script")[0]).texts
    assert "2 h 5 min" in texts
    assert material.best is not None
    alpha, weight_lr = (material.best["params"][name] for name in ("alpha", "weight_lr"))
    assert f"alpha = {alpha:.4g}, weight_lr = {weight_lr:.4g}" in texts


def test_the_spec_at_the_end_makes_the_same_sweep_again() -> None:
    spec = a_spec(name="a: b # 'c' <d>")
    texts = Outline(render(a_material(spec)).partition("<pre>")[2].partition("</pre>")[0]).texts
    assert yaml.safe_load("".join(texts)) == spec.canonical()
