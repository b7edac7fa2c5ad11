"""The methods of a sweep, ranked, and the verdict over several balancers."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from test_summary_of_results import SEEDS, around, baseline, ended, make_sweep, make_trial, repeats

from sweep_service.domain.states import TrialEnding, TrialState
from sweep_service.domain.trial import Sweep, Trial
from sweep_service.services.ranking import contenders
from sweep_service.services.results import summarise

SPACE = {
    "balancer": {"type": "categorical", "choices": ["gradnorm", "static", "equal"]},
    "alpha": {"type": "float", "low": 0.0, "high": 3.0, "when": {"balancer": "gradnorm"}},
    "lr": {"type": "float", "low": 0.0001, "high": 0.1},
}


def apart(**changes: Any) -> Sweep:
    """A sweep that searches each balancer by itself."""
    values = {"space": SPACE, "search": {"balancers": "equal_effort"}, "baselines": ["single_task"]}
    return make_sweep(**{**values, **changes})


@pytest.fixture
def trials() -> list[Trial]:
    return [
        make_trial(0, 0.50, searched={"alpha": 0.5, "lr": 0.001}),
        make_trial(1, 0.70, searched={"alpha": 1.5, "lr": 0.001}),
        make_trial(2, 0.45, balancer="static", searched={"lr": 0.01}),
        make_trial(3, 0.60, balancer="equal", searched={"lr": 0.01}),
        make_trial(4, None, balancer="equal", searched={"lr": 0.02}, state=TrialState.FAILED),
        baseline(5, 0.65, "single_task"),
    ]


def rows_of(sweep: Sweep, trials: list[Trial]) -> dict[str, dict[str, Any]]:
    methods = summarise(sweep, trials)["methods"]
    assert [row["rank"] for row in methods] == sorted((row["rank"] for row in methods), key=lambda r: (r is None, r))
    return {row["balancer"]: row for row in methods}


def confirmed(trials: list[Trial], **losses: float) -> list[Trial]:
    """With repeats about those losses, by balancer."""
    again: list[Trial] = []
    for sweep_trial in contenders(apart().spec, trials):
        if sweep_trial.balancer in losses:
            again += repeats(sweep_trial, around(losses[sweep_trial.balancer]), first=100 * (1 + sweep_trial.number))
    return [*trials, *again]


def test_a_row_a_method_with_its_best_trial_and_its_effort(trials: list[Trial]) -> None:
    methods = summarise(apart(), trials)["methods"]
    assert [(row["rank"], row["balancer"], row["role"], row["objective"]) for row in methods] == [
        (1, "static", "search", 0.45),
        (2, "gradnorm", "search", 0.50),
        (3, "equal", "search", 0.60),
        (4, "single_task", "baseline", 0.65),
    ]
    assert [(row["trials"], row["parameters"]) for row in methods] == [(1, 1), (2, 2), (2, 1), (1, 0)]
    assert methods[1]["trial_id"] == "trl_0"
    assert methods[1]["params"] == {"alpha": 0.5, "lr": 0.001}
    assert methods[1]["confirmed"] is None


def test_while_a_method_waits_for_its_fresh_seeds_all_are_ranked_by_their_objective(trials: list[Trial]) -> None:
    rows = rows_of(apart(), confirmed(trials, single_task=0.30, gradnorm=0.90))
    assert list(rows) == ["static", "gradnorm", "equal", "single_task"]
    assert rows["gradnorm"]["confirmed"]["mean"] == pytest.approx(0.90, abs=0.01)


def test_fresh_seeds_rank_before_the_objective_of_the_luckiest_trial(trials: list[Trial]) -> None:
    rows = rows_of(apart(), confirmed(trials, gradnorm=0.40, static=0.55, equal=0.50, single_task=0.70))
    assert list(rows) == ["gradnorm", "equal", "static", "single_task"]
    found = rows["static"]["confirmed"]
    values = list(around(0.55).values())
    assert found["metric"] == "test/normalized_loss"
    assert found["mean"] == pytest.approx(sum(values) / len(values))
    assert 0 < found["std"] < 0.01
    assert (found["seeds"], found["diverged"], len(found["values"])) == (len(SEEDS), 0, len(SEEDS))


def test_a_method_that_diverged_comes_after_those_that_did_not(trials: list[Trial]) -> None:
    all_of_them = confirmed(trials, gradnorm=0.40, static=0.55, equal=0.50, single_task=0.70)
    first = next(i for i, t in enumerate(all_of_them) if t.confirms == "trl_0")
    all_of_them[first] = ended(all_of_them[first], TrialEnding.NON_FINITE)
    rows = rows_of(apart(), all_of_them)
    assert list(rows) == ["equal", "static", "single_task", "gradnorm"]
    assert (rows["gradnorm"]["confirmed"]["diverged"], rows["gradnorm"]["confirmed"]["seeds"]) == (1, 5)
    every = [ended(t, TrialEnding.NON_FINITE) if t.confirms == "trl_0" else t for t in all_of_them]
    row = rows_of(apart(), every)["gradnorm"]
    assert (row["rank"], row["confirmed"]["mean"], row["confirmed"]["diverged"]) == (4, None, 5)


def test_a_method_without_a_completed_trial_is_last_and_has_no_rank(trials: list[Trial]) -> None:
    failed = [replace(t, state=TrialState.FAILED, objective=None) if t.balancer == "static" else t for t in trials]
    rows = rows_of(apart(), failed)
    assert list(rows)[-1] == "static"
    assert (rows["static"]["rank"], rows["static"]["trial_id"], rows["static"]["trials"]) == (None, None, 1)
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows


def test_a_sweep_of_one_balancer_ranks_it_among_its_baselines() -> None:
    best, equal = make_trial(0, 0.5), baseline(1, 0.4, "equal")
    again = [*repeats(best, around(0.3), first=3), *repeats(equal, around(0.4), first=20)]
    rows = rows_of(make_sweep(baselines=["equal"]), [best, equal, *again])
    assert [(row["role"], row["parameters"], row["rank"]) for row in rows.values()] == [
        ("search", 1, 1),
        ("baseline", 0, 2),
    ]


def test_where_the_sampler_chose_the_balancer_the_objective_ranks_them(trials: list[Trial]) -> None:
    sampled = apart(search={"balancers": "sampled"})
    rows = rows_of(sampled, [*trials, *repeats(trials[2], around(0.9), first=50)])
    assert list(rows) == ["static", "gradnorm", "equal", "single_task"]


def test_the_best_of_each_method_is_compared_with_the_best_one_and_all_count_in_the_correction(
    trials: list[Trial],
) -> None:
    verdict = summarise(apart(), confirmed(trials, gradnorm=0.55, static=0.45, equal=0.5, single_task=0.7))["verdict"]
    assert [(row["baseline"], row["role"], row["outcome"]) for row in verdict["against"]] == [
        ("single_task", "baseline", "helped"),
        ("gradnorm", "search", "helped"),
        ("equal", "search", "helped"),
    ]
    p_values = sorted((row["p_value"], row["p_value_holm"]) for row in verdict["against"])
    assert p_values[0][1] == pytest.approx(3 * p_values[0][0])
    assert verdict["summary"].startswith(
        "Of 3 balancers, tuned with as many trials per parameter, static has the best val/normalized_loss. "
        "static helped against single_task"
    )
    assert "static helped against GradNorm" in verdict["summary"]


def test_the_best_is_chosen_without_the_test_split_and_may_lose_there(trials: list[Trial]) -> None:
    found = summarise(apart(), confirmed(trials, gradnorm=0.40, static=0.55, equal=0.5, single_task=0.7))
    assert found["best"]["label"] == "static"
    assert found["methods"][0]["balancer"] == "gradnorm"
    assert "static lost to GradNorm" in found["verdict"]["summary"]


def test_a_balancer_that_never_completed_counts_in_the_correction(trials: list[Trial]) -> None:
    failed = [replace(t, state=TrialState.FAILED, objective=None) if t.balancer == "equal" else t for t in trials]
    verdict = summarise(apart(), confirmed(failed, gradnorm=0.55, static=0.45, single_task=0.7))["verdict"]
    assert [row["outcome"] for row in verdict["against"]] == ["helped", "helped", "inconclusive"]
    tested = min((row for row in verdict["against"] if row["p_value"] is not None), key=lambda row: row["p_value"])
    assert tested["p_value_holm"] == pytest.approx(3 * tested["p_value"])
