from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Role, Sweep, Trial
from sweep_service.services.ranking import best_baseline, best_trial
from sweep_service.services.results import summarise

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SEEDS: tuple[int, ...] = (101, 102, 103, 104, 105)


def make_spec(**changes: Any) -> SweepSpec:
    document = {
        "name": "census",
        "trainable": "census_income",
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
        "budget": {"trials": 4},
        "baselines": ["equal", "single_task"],
        "confirm": {"seeds": 5},
    }
    return SweepSpec.model_validate(document | changes)


def make_sweep(**changes: Any) -> Sweep:
    return Sweep(
        id="swp_1",
        project="default",
        created_by="ann",
        spec=make_spec(**changes),
        state=SweepState.RUNNING,
        created_at=NOW,
        updated_at=NOW,
    )


def make_trial(number: int, objective: float | None, **changes: Any) -> Trial:
    trial = Trial(
        id=f"trl_{number}",
        sweep_id="swp_1",
        number=number,
        role=Role.SEARCH,
        balancer="gradnorm",
        params={"alpha": 0.5, "lr": 0.001},
        searched={"alpha": 0.5},
        seed=number,
        state=TrialState.COMPLETED,
        objective=objective,
        created_at=NOW,
    )
    return replace(trial, **changes)


def baseline(number: int, objective: float, balancer: str, **changes: Any) -> Trial:
    return make_trial(number, objective, role=Role.BASELINE, balancer=balancer, searched={}, **changes)


def repeats(of: Trial, losses: dict[int, float], *, first: int, **task_losses: float) -> list[Trial]:
    """One confirm trial a seed, with that test loss; the tasks' losses move along with it."""
    return [
        replace(
            of,
            id=f"trl_{first + i}",
            number=first + i,
            role=Role.CONFIRM,
            confirms=of.id,
            seed=seed,
            metrics={"test/normalized_loss": loss}
            | {f"test/loss/{task}": unit * loss for task, unit in task_losses.items()},
        )
        for i, (seed, loss) in enumerate(losses.items())
    ]


def around(centre: float) -> dict[int, float]:
    return {seed: centre + 0.001 * i for i, seed in enumerate(SEEDS)}


def test_the_best_trial_has_the_lowest_objective_when_minimizing_and_the_highest_when_maximizing():
    trials = [make_trial(0, 0.5), make_trial(1, 0.3), make_trial(2, 0.7)]
    low, high = make_spec(), make_spec(objective={"metric": "val/auc/income", "direction": "maximize"})
    best_low, best_high = best_trial(low, trials), best_trial(high, trials)
    assert best_low is not None
    assert best_high is not None
    assert (best_low.number, best_high.number) == (1, 2)


def test_of_equal_trials_the_first_made_is_the_best():
    best = best_trial(make_spec(), [make_trial(3, 0.3), make_trial(1, 0.3), make_trial(2, 0.3)])
    assert best is not None
    assert best.number == 1


@pytest.mark.parametrize("state", [s for s in TrialState if s is not TrialState.COMPLETED])
def test_a_trial_that_was_not_completed_is_never_the_best(state: TrialState):
    assert best_trial(make_spec(), [make_trial(0, 0.1, state=state)]) is None


@pytest.mark.parametrize("objective", [None, math.nan, math.inf, -math.inf])
def test_a_trial_without_a_finite_objective_is_never_the_best(objective: float | None):
    best = best_trial(make_spec(), [make_trial(0, objective), make_trial(1, 0.9)])
    assert best is not None
    assert best.number == 1


def test_an_objective_of_zero_is_a_number_like_any_other():
    trials = [make_trial(0, 0.5), make_trial(1, 0.0), make_trial(2, -0.5)]
    assert [row["number"] for row in summarise(make_sweep(), trials)["leaderboard"]] == [2, 1, 0]


def test_baselines_and_repeats_never_count_as_the_best_trial():
    search = make_trial(0, 0.9)
    others = [baseline(1, 0.1, "equal"), make_trial(2, 0.05, role=Role.CONFIRM, confirms="trl_0")]
    best = best_trial(make_spec(), [search, *others])
    assert best is not None
    assert best.number == 0


def test_the_best_baseline_is_taken_among_its_own_kind_only():
    trials = [
        baseline(0, 0.9, "equal"),
        baseline(1, 0.8, "equal"),
        baseline(2, 0.1, "single_task"),
        make_trial(3, 0.01, balancer="equal"),
    ]
    best = best_baseline(make_spec(), trials, "equal")
    assert best is not None
    assert best.number == 1
    assert best_baseline(make_spec(), trials, "inverse_initial_loss") is None


def test_the_leaderboard_ranks_search_and_baseline_trials_together():
    trials = [make_trial(0, 0.5), baseline(1, 0.3, "equal"), make_trial(2, 0.4), make_trial(3, None)]
    results = summarise(make_sweep(), [*trials, *repeats(trials[0], around(0.1), first=4)])
    rows = [(row["rank"], row["number"], row["label"], row["role"]) for row in results["leaderboard"]]
    assert rows == [(1, 1, "equal", "baseline"), (2, 2, "gradnorm", "search"), (3, 0, "gradnorm", "search")]
    assert results["best"] == results["leaderboard"][1]
    assert results["baselines"] == [results["leaderboard"][0]]


def test_a_row_has_the_searched_parameters_and_the_validation_metrics_by_task():
    metrics = {
        "val/loss/income": 0.2,
        "val/auc/income": 0.9,
        "val/normalized_loss": 0.5,
        "train/loss/income": 0.1,
        "weight/income": 1.2,
        "val/loss/a/b": 0.7,
        "val/rmse/weeks": math.nan,
    }
    row = summarise(make_sweep(), [make_trial(0, 0.5, metrics=metrics)])["best"]
    assert row["params"] == {"alpha": 0.5}
    assert row["tasks"] == {"income": {"loss": 0.2, "auc": 0.9}, "a/b": {"loss": 0.7}}


def test_delta_m_is_the_mean_relative_change_against_one_network_a_task():
    alone = baseline(0, 0.5, "single_task", metrics={"val/loss/a": 0.5, "val/loss/b": 20.0})
    worse_alone = baseline(1, 0.9, "single_task", metrics={"val/loss/a": 5.0, "val/loss/b": 5.0})
    joint = make_trial(2, 0.4, metrics={"val/loss/a": 0.4, "val/loss/b": 22.0})
    rows = {row["number"]: row for row in summarise(make_sweep(), [alone, worse_alone, joint])["leaderboard"]}
    assert rows[2]["delta_m"] == pytest.approx((-20 + 10) / 2)
    assert rows[0]["delta_m"] == 0.0


def test_delta_m_is_left_out_where_that_baseline_did_not_run_or_a_loss_is_missing():
    joint = make_trial(0, 0.4, metrics={"val/loss/a": 0.4})
    alone = baseline(1, 0.5, "single_task", metrics={"val/loss/a": 0.5, "val/loss/b": 1.0})
    assert summarise(make_sweep(), [joint])["best"]["delta_m"] is None
    assert summarise(make_sweep(), [joint, alone])["best"]["delta_m"] is None


def test_a_sweep_in_which_nothing_completed_has_an_empty_leaderboard():
    results = summarise(make_sweep(), [make_trial(0, None, state=TrialState.FAILED)])
    methods = results.pop("methods")
    assert [(row["balancer"], row["rank"], row["trials"]) for row in methods] == [
        ("gradnorm", None, 1),
        ("equal", None, 0),
        ("single_task", None, 0),
    ]
    nothing = {"best": None, "front": None, "verdict": None, "importance": None}
    assert results == {"leaderboard": [], "baselines": [], **nothing}


@pytest.fixture
def originals() -> list[Trial]:
    return [make_trial(0, 0.5), baseline(1, 0.6, "equal"), baseline(2, 0.55, "single_task")]


def test_there_is_no_verdict_without_repeats_or_where_none_was_asked_for(originals: list[Trial]):
    again = repeats(originals[0], around(0.5), first=3)
    assert summarise(make_sweep(), originals)["verdict"] is None
    assert summarise(make_sweep(confirm=None), [*originals, *again])["verdict"] is None


def test_the_verdict_compares_the_best_with_each_baseline_on_the_test_split(originals: list[Trial]):
    best, equal, alone = originals
    trials = [
        *originals,
        *repeats(best, around(0.50), first=3, income=0.4, weeks=100.0),
        *repeats(equal, around(0.60), first=8, income=0.4, weeks=100.0),
        *repeats(alone, around(0.40), first=13, income=0.4, weeks=100.0),
    ]
    verdict = summarise(make_sweep(), trials)["verdict"]
    against = {comparison["baseline"]: comparison for comparison in verdict["against"]}
    assert [c["baseline"] for c in verdict["against"]] == ["equal", "single_task"]
    assert against["equal"]["outcome"] == "helped"
    assert against["equal"]["mean_difference"] == pytest.approx(-0.1)
    assert against["single_task"]["outcome"] == "hurt"
    assert against["single_task"]["mean_difference"] == pytest.approx(0.1)
    assert against["equal"]["tasks"]["weeks"]["mean_difference"] == pytest.approx(-10.0)
    assert against["equal"]["tasks"]["weeks"]["metric"] == "test/loss/weeks"
    assert (verdict["metric"], verdict["confidence"], verdict["margin"], verdict["seeds"]) == (
        "test/normalized_loss",
        0.95,
        0.01,
        5,
    )


def test_the_summary_says_plainly_where_gradnorm_lost(originals: list[Trial]):
    best, equal, alone = originals
    trials = [
        *originals,
        *repeats(best, around(0.50), first=3, income=0.9, weeks=100.0),
        *repeats(equal, around(0.60), first=8, income=0.4, weeks=100.0),
        *repeats(alone, around(0.40), first=13, income=0.4, weeks=100.0),
    ]
    summary = summarise(make_sweep(), trials)["verdict"]["summary"]
    against_equal, against_alone = summary.split(". GradNorm ")
    assert against_equal.startswith("GradNorm helped against equal: its test/normalized_loss is lower")
    assert "it lost on income and it won on weeks" in against_equal
    assert against_alone.startswith("lost to single_task: its test/normalized_loss is higher")
    assert summary.endswith("it lost on income and weeks.")


def test_the_summary_names_the_balancer_that_was_searched():
    best, other = make_trial(0, 0.5, balancer="equal"), baseline(1, 0.6, "single_task")
    trials = [best, other, *repeats(best, around(0.5), first=2), *repeats(other, around(0.6), first=7)]
    verdict = summarise(make_sweep(baselines=["single_task"]), trials)["verdict"]
    assert verdict["summary"].startswith("equal helped against single_task")


def test_a_tie_is_called_equivalent_with_its_margin(originals: list[Trial]):
    best, equal, _ = originals
    trials = [*originals, *repeats(best, around(0.5), first=3), *repeats(equal, around(0.5001), first=8)]
    verdict = summarise(make_sweep(), trials)["verdict"]
    assert verdict["against"][0]["outcome"] == "equivalent"
    assert "GradNorm and equal are equivalent" in verdict["summary"]
    assert "±0.01" in verdict["summary"]


def ended(trial: Trial, ending: TrialEnding) -> Trial:
    """With metrics that must not be read: they are not of its last step."""
    return replace(trial, state=ending.state, ending=ending, metrics={"test/normalized_loss": 0.0})


@pytest.mark.parametrize(
    "ending", [TrialEnding.OUT_OF_MEMORY, TrialEnding.ERROR, TrialEnding.WORKER_LOST, TrialEnding.CANCELLED]
)
def test_a_repeat_that_was_not_measured_takes_its_seed_out_of_the_pairs_and_the_sentence_says_so(
    originals: list[Trial], ending: TrialEnding
):
    best, equal, _ = originals
    of_best = repeats(best, around(0.5), first=3)
    of_best[0] = ended(of_best[0], ending)
    trials = [*originals, *of_best, *repeats(equal, around(0.6), first=8)]
    verdict = summarise(make_sweep(), trials)["verdict"]
    assert verdict["against"][0]["num_pairs"] == 4
    assert verdict["against"][0]["mean_difference"] == pytest.approx(-0.1)
    assert verdict["against"][0]["outcome"] == "helped"
    assert verdict["against"][0]["num_diverged"] == {"best": 0, "baseline": 0}
    assert "4 of 5 seeds" in verdict["summary"]
    assert "diverged" not in verdict["summary"]


def test_a_best_trial_that_diverged_on_some_seeds_has_not_helped_and_the_summary_says_why(originals: list[Trial]):
    best, equal, _ = originals
    of_best = repeats(best, around(0.5), first=3, income=0.5)
    of_best[:3] = [ended(trial, TrialEnding.NON_FINITE) for trial in of_best[:3]]
    trials = [*originals, *of_best, *repeats(equal, around(0.6), first=8, income=0.5)]
    verdict = summarise(make_sweep(), trials)["verdict"]
    against = verdict["against"][0]
    assert (against["outcome"], against["num_pairs"]) == ("inconclusive", 2)
    assert against["mean_difference"] == pytest.approx(-0.1)
    assert against["num_diverged"] == {"best": 3, "baseline": 0}
    assert against["reason"] == "GradNorm diverged on 3 of 5 seeds, so that the other seeds do not decide"
    assert against["tasks"]["income"]["outcome"] == "inconclusive"
    assert verdict["summary"].startswith("GradNorm against equal is inconclusive")
    assert against["reason"] in verdict["summary"]


def test_a_baseline_that_diverged_on_some_seeds_leaves_the_gain_and_the_summary_says_so(originals: list[Trial]):
    best, equal, _ = originals
    of_equal = repeats(equal, around(0.6), first=8)
    of_equal[4] = ended(of_equal[4], TrialEnding.NON_FINITE)
    verdict = summarise(make_sweep(), [*originals, *repeats(best, around(0.5), first=3), *of_equal])["verdict"]
    assert verdict["against"][0]["outcome"] == "helped"
    assert verdict["against"][0]["num_diverged"] == {"best": 0, "baseline": 1}
    assert "; equal diverged on 1 of 5 seeds." in verdict["summary"]


def test_a_loss_too_large_to_compute_with_is_divergence_too(originals: list[Trial]):
    best, equal, _ = originals
    of_best = repeats(best, around(0.5) | {SEEDS[2]: 1e120}, first=3)
    verdict = summarise(make_sweep(), [*originals, *of_best, *repeats(equal, around(0.6), first=8)])["verdict"]
    assert verdict["against"][0]["outcome"] == "inconclusive"
    assert "GradNorm diverged on 1 of 5 seeds" in verdict["summary"]


def test_a_baselines_diverged_loss_does_not_stretch_the_margin_of_a_task(originals: list[Trial]):
    best, equal, _ = originals
    of_equal = repeats(equal, dict(zip(SEEDS, (1e120, 1e120, 1e120, 0.5, 0.5), strict=True)), first=8, weeks=1000.0)
    trials = [*originals, *repeats(best, around(0.5), first=3, weeks=1000.0), *of_equal]
    task = summarise(make_sweep(), trials)["verdict"]["against"][0]["tasks"]["weeks"]
    assert task["margin"] == pytest.approx(0.01 * 500.0)


def test_a_best_trial_that_diverged_on_every_seed_is_told_as_that(originals: list[Trial]):
    best, equal, _ = originals
    of_best = [ended(trial, TrialEnding.NON_FINITE) for trial in repeats(best, around(0.5), first=3)]
    verdict = summarise(make_sweep(), [*originals, *of_best, *repeats(equal, around(0.6), first=8)])["verdict"]
    assert verdict["summary"].startswith("GradNorm against equal is inconclusive: GradNorm diverged on 5 of 5 seeds;")
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict


def test_a_baseline_without_repeats_is_inconclusive_with_the_reason(originals: list[Trial]):
    best, equal, _ = originals
    trials = [*originals, *repeats(best, around(0.5), first=3), *repeats(equal, around(0.6), first=8)]
    verdict = summarise(make_sweep(), trials)["verdict"]
    alone = verdict["against"][1]
    assert (alone["outcome"], alone["interval"], alone["num_pairs"]) == ("inconclusive", None, 0)
    assert "0 of single_task's have one" in alone["reason"]
    assert f"GradNorm against single_task is inconclusive: {alone['reason']}." in verdict["summary"]


def test_a_baseline_that_never_completed_is_inconclusive(originals: list[Trial]):
    best, equal, alone = originals
    failed = replace(alone, state=TrialState.FAILED, objective=None)
    trials = [best, equal, failed, *repeats(best, around(0.5), first=3), *repeats(equal, around(0.6), first=8)]
    assert summarise(make_sweep(), trials)["verdict"]["against"][1]["outcome"] == "inconclusive"


def test_repeats_of_a_trial_that_is_no_longer_the_best_do_not_speak_for_the_new_best(originals: list[Trial]):
    best, equal, _ = originals
    better = make_trial(50, 0.1)
    trials = [*originals, better, *repeats(best, around(0.5), first=3), *repeats(equal, around(0.6), first=8)]
    verdict = summarise(make_sweep(), trials)["verdict"]
    assert {c["outcome"] for c in verdict["against"]} == {"inconclusive"}
    assert verdict["against"][0]["num_pairs"] == 0


def test_the_margin_of_a_task_is_a_share_of_the_baselines_loss_on_it(originals: list[Trial]):
    best, equal, _ = originals
    trials = [
        *originals,
        *repeats(best, around(0.5), first=3, weeks=1000.0),
        *repeats(equal, around(0.5), first=8, weeks=1000.0),
    ]
    task = summarise(make_sweep(), trials)["verdict"]["against"][0]["tasks"]["weeks"]
    assert task["margin"] == pytest.approx(0.01 * 502.0)


def test_the_verdict_says_what_its_interval_does_not_cover(originals: list[Trial]):
    trials = [*originals, *repeats(originals[0], around(0.5), first=3)]
    covers = summarise(make_sweep(), trials)["verdict"]["covers"]
    assert "seed" in covers
    assert "do not cover the sampling of the test split" in covers


def test_results_are_plain_json_whatever_was_measured(originals: list[Trial]):
    best, equal, _ = originals
    wild = dict(zip(SEEDS, (math.nan, math.inf, 1e308, 1e308, 0.5), strict=True))
    odd = make_trial(60, 0.2, metrics={"val/loss/a": math.inf, "val/normalized_loss": math.nan})
    trials = [
        *originals,
        odd,
        *repeats(odd, wild, first=3, a=1.0),
        *repeats(best, wild, first=20),
        *repeats(equal, wild, first=8, a=1.0),
    ]
    results = summarise(make_sweep(), trials)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
