"""What a terminal shows of a sweep."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from sweep_service.rendering import (
    console_for,
    live_view,
    number,
    parameters,
    plain,
    print_results,
    progress_line,
    results_view,
    shown_updates,
    sweeps_table,
)

ROWS = [
    {"rank": 1, "label": "gradnorm", "role": "search", "trial_id": "t1", "number": 3, "objective": 0.43219}
    | {"params": {"alpha": 1.25, "weight_lr": 0.01}, "delta_m": -3.2, "tasks": {"income": {"loss": 0.21}}},
    {"rank": 2, "label": "equal", "role": "baseline", "trial_id": "t2", "number": 5, "objective": 0.5}
    | {"params": {}, "delta_m": None, "tasks": {"income": {"loss": 0.3}}},
]
COMPARISON = {"outcome": "hurt", "mean_difference": 0.0123, "interval": [0.01, 0.0146], "p_value_holm": 0.03}
SWEEP: dict[str, Any] = {
    "id": "swp_1",
    "name": "census",
    "state": "running",
    "reason": None,
    "message": "",
    "spec": {"objective": {"metric": "val/normalized_loss"}},
    "progress": {
        "budget_trials": 16,
        "used_trials": 5,
        "trials": {"search": {"completed": 4, "failed": 1, "running": 2}, "baseline": {"pending": 1}, "confirm": {}},
    },
    "leaders": [
        {
            "role": "search",
            "balancer": "gradnorm",
            "objective": 0.43219,
            "searched": {"weight_lr": 0.01, "alpha": 1.25},
        },
        {"role": "baseline", "balancer": "equal", "objective": 0.5, "searched": {}},
    ],
    "results": {
        "leaderboard": ROWS,
        "best": ROWS[0],
        "baselines": ROWS[1:],
        "verdict": {
            "summary": "GradNorm lost to equal.",
            "metric": "test/normalized_loss",
            "confidence": 0.95,
            "margin": 0.01,
            "seeds": 5,
            "covers": "It covers seeds.",
            "against": [
                {"baseline": "equal", **COMPARISON, "num_pairs": 5, "tasks": {"income": {**COMPARISON, "num_pairs": 4}}}
            ],
        },
    },
}


def shown(renderable: Any, *, width: int = 160, colours: bool = False) -> str:
    console = Console(
        file=io.StringIO(), width=width, force_terminal=colours, color_system="truecolor" if colours else None
    )
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_line_of_progress_tells_counts_best_and_baselines() -> None:
    assert progress_line(SWEEP) == (
        "running | search 5/16 | search: 4 completed, 1 failed, 2 running | baseline: 1 pending"
        " | best 0.4322 at alpha=1.25 weight_lr=0.01 | equal 0.5"
    )


def test_the_live_view_has_a_bar_counts_the_best_with_its_parameters_and_the_baselines() -> None:
    text = shown(live_view(SWEEP))
    assert "census" in text
    assert "5/16 search trials" in text
    assert "━" in text
    assert "4 completed, 1 failed, 2 running" in text
    assert "best so far" in text
    assert "alpha=1.25 weight_lr=0.01" in text
    assert "equal" in text


def test_the_results_have_the_leaderboard_and_the_verdict_against_each_baseline_and_task() -> None:
    text = shown(results_view(SWEEP))
    (best,) = [line for line in text.splitlines() if "gradnorm" in line]
    for cell in ("0.4322", "alpha=1.25 weight_lr=0.01", "0.21", "-3.2"):
        assert cell in best
    assert "Verdict: GradNorm lost to equal." in text
    assert "95 % interval" in text
    (against,) = [line for line in text.splitlines() if "hurt" in line and "equal" in line]
    for cell in ("+0.0123", "+0.01 to +0.0146", "0.03", "5"):
        assert cell in against
    assert [line for line in text.splitlines() if "income" in line and "hurt" in line]
    assert "It covers seeds." in text


def test_a_long_leaderboard_keeps_its_baselines_in_sight() -> None:
    rows = [{**ROWS[0], "rank": rank, "trial_id": f"s{rank}"} for rank in range(1, 40)]
    last = {**ROWS[1], "rank": 40}
    text = shown(results_view({**SWEEP, "results": {"leaderboard": [*rows, last], "baselines": [last]}}))
    assert "equal" in text
    assert "… and 24 more trials" in text


@pytest.mark.parametrize(
    "results",
    [
        None,
        {},
        {"leaderboard": None, "verdict": None},
        {"leaderboard": [], "baselines": None, "verdict": {}},
        {"leaderboard": [{}], "verdict": {"against": [{}]}},
        {"leaderboard": [{"tasks": None, "params": None, "objective": None}], "verdict": {"against": None}},
        {"leaderboard": [None], "verdict": {"against": [{"interval": None, "tasks": {"a": None}, "outcome": None}]}},
        {"leaderboard": ROWS, "verdict": {"summary": None, "against": [{"interval": [None, None], "tasks": None}]}},
        "nonsense",
    ],
)
def test_missing_parts_are_borne_with(results: Any) -> None:
    assert shown(results_view({**SWEEP, "results": results})).strip()


@pytest.mark.parametrize("missing", sorted(SWEEP))
def test_a_sweep_without_one_of_its_parts_is_still_shown(missing: str) -> None:
    for value in ({key: SWEEP[key] for key in SWEEP if key != missing}, {**SWEEP, missing: None}):
        assert shown(live_view(value)).strip()
        assert shown(results_view(value)).strip()
        assert progress_line(value)


def test_text_from_outside_is_neither_markup_nor_a_command_to_the_terminal() -> None:
    evil = {**SWEEP, "name": "[red]x[/red]\x1b[2J\x07\x9b1m\nsecond", "message": "\x1b]0;title\x07[/]"}
    for text in (shown(live_view(evil)), shown(results_view(evil)), progress_line(evil)):
        assert not {"\x1b", "\x07", "\x9b"} & set(text)
    assert "[red]x[/red]" in shown(live_view(evil))
    assert "\x1b[2J" not in shown(results_view(evil), colours=True)


def test_results_are_wide_enough_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    file = io.StringIO()
    print_results(console_for(file), SWEEP)
    assert "alpha=1.25 weight_lr=0.01" in file.getvalue()


def test_where_nobody_looks_a_line_is_printed_for_each_change_and_no_other() -> None:
    file = io.StringIO()
    later = {**SWEEP, "state": "completed", "name": "not in the line"}
    with shown_updates(console_for(file)) as show:
        for sweep in (SWEEP, SWEEP, later, later):
            show(sweep)
    assert file.getvalue().splitlines() == [progress_line(SWEEP), progress_line(later)]


def test_in_a_terminal_the_view_is_redrawn_and_gone_at_the_end() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with shown_updates(console) as show:
        show(SWEEP)
        assert isinstance(console.file, io.StringIO)
        assert "5/16 search trials" in console.file.getvalue()
        show({**SWEEP, "progress": {**SWEEP["progress"], "used_trials": 6}})
        assert "6/16 search trials" in console.file.getvalue()
    assert "\x1b[1A\x1b[2K" in console.file.getvalue(), "lines are wiped when it ends"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123456, "0.1235"), (3, "3"), (1e-9, "1e-09"), (None, "–"), (float("nan"), "–"), (True, "–"), ("x", "–")],
)
def test_a_number_has_four_digits_or_is_a_dash(value: Any, text: str) -> None:
    assert number(value) == text


def test_signs_are_shown_where_they_matter() -> None:
    assert (number(0.5, sign=True), number(-1, sign=True)) == ("+0.5", "-1")


def test_parameters_are_sorted_and_plain() -> None:
    assert parameters({"b": "x\ny", "a": True, "c": [1, 2]}) == "a=True b=x y c=[1, 2]"
    assert parameters({}) == parameters(None) == "–"
    assert plain("a\x1bb") == "a b"


def test_the_results_of_several_objectives_have_their_front_the_first_rows_of_it() -> None:
    rows = [
        {"number": n, "values": {"val/loss/a": n / 10, "val/auc/b": 0.5}, "params": {"alpha": n}} for n in range(20)
    ]
    text = shown(results_view({**SWEEP, "results": {"leaderboard": ROWS, "front": rows}}))
    assert "Pareto front" in text
    assert "val/auc/b" in text
    assert "alpha=14" in text
    assert "alpha=15" not in text
    assert "… and 5 more trials" in text
    assert "Pareto" not in shown(results_view(SWEEP))


@pytest.mark.parametrize("front", [None, {}, [], [None], [{}], [{"values": None}], [{"values": {"a": None}}]], ids=repr)
def test_a_front_with_missing_parts_is_borne(front: Any) -> None:
    assert shown(results_view({**SWEEP, "results": {"leaderboard": ROWS, "front": front}}))


def test_the_live_view_has_the_gpu_hours_of_a_sweep_that_uses_gpus() -> None:
    progress = {**SWEEP["progress"], "used_gpu_hours": 1.2345}
    assert "1.234 GPU-hours" in shown(live_view({**SWEEP, "progress": progress}))
    bounded = {**SWEEP, "progress": progress, "spec": {"budget": {"gpu_hours": 8}}}
    assert "1.234/8 GPU-hours" in shown(live_view(bounded))
    assert "GPU" not in shown(live_view({**SWEEP, "progress": {**progress, "used_gpu_hours": None}}))


METHODS = [
    {"rank": 1, "balancer": "static", "role": "search", "trials": 18, "parameters": 3, "objective": 0.43219}
    | {"params": {"weight/income": 0.5}}
    | {"confirmed": {"metric": "test/normalized_loss", "mean": 0.45, "std": 0.012, "seeds": 5, "diverged": 1}},
    {"rank": None, "balancer": "dwa", "role": "search", "trials": 5, "parameters": 1, "objective": None, "params": {}}
    | {"confirmed": None},
]


def test_the_methods_are_ranked_with_what_fresh_seeds_made_of_them() -> None:
    text = shown(results_view(SWEEP | {"results": {**SWEEP["results"], "methods": METHODS}}))
    (static,) = [line for line in text.splitlines() if "weight/income=0.5" in line]
    assert [word in static for word in ("static", "18", "0.4322", "0.45 ± 0.012", "1 of 5")] == [True] * 5
    (dwa,) = [line for line in text.splitlines() if " dwa " in line]
    assert dwa.count("–") >= 4
    assert "Methods" not in shown(results_view(SWEEP))


def test_where_each_balancer_has_a_search_the_best_names_its_balancer_and_the_others_follow() -> None:
    other = {"role": "search", "balancer": "equal", "objective": 0.5, "searched": {}}
    spec = {**SWEEP["spec"], "search": {"balancers": "equal_effort"}}
    sweep = SWEEP | {"spec": spec, "leaders": [SWEEP["leaders"][0], other]}
    assert progress_line(sweep).endswith("best (gradnorm) 0.4322 at alpha=1.25 weight_lr=0.01 | equal 0.5")
    text = shown(live_view(sweep))
    assert "best so far (gradnorm)" in text
    assert "  equal" in text


def test_a_sweep_that_waits_shows_its_place_and_one_that_is_passed_over_why() -> None:
    waits = SWEEP | {"state": "queued", "position": 3, "leaders": []}
    assert progress_line(waits).startswith("queued (3 in the queue) | search 5/16")
    assert "queued (3 in the queue)" in shown(live_view(waits))
    told = "A trial asks for 8 GPUs; the cluster has: 2 CPUs and 0 GPUs."
    passed_over = waits | {"position": None, "reason": "unschedulable", "message": told}
    assert progress_line(passed_over).startswith("queued (unschedulable) | ")
    assert progress_line(passed_over).endswith(f" | {told}")
    for view in (live_view(passed_over), sweeps_table([passed_over])):
        assert "queued (unschedulable)" in shown(view)
        assert told in shown(view)
