"""The toy experiment runs on tiny settings, measures what it says, and judges claims by their numbers alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from benchmarks.paper_toy import Settings, document_of, first_jobs, main, run_experiment, settings_from, text_of
from benchmarks.paper_toy_claims import (
    DOES_NOT,
    REPRODUCES,
    UNDECIDED,
    best_of_draw,
    claims_of,
    own_best_lr,
    search_counts,
)
from benchmarks.paper_toy_plots import save_plots
from benchmarks.paper_toy_runs import (
    EQUAL,
    GRADNORM,
    LOG_UNIFORM,
    UNCERTAINTY,
    UNIFORM,
    Cell,
    Row,
    random_weights,
    run_job,
    undone_scales,
)

CELL = Cell(num_tasks=2, spread="std")
TINY = Settings(
    tasks=(2,),
    spreads=("std",),
    seeds=2,
    steps={2: 4},
    batch_size=20,
    other_lrs=(0.001,),
    rows=200,
    uniform_vectors=2,
    log_uniform_vectors=1,
    reports=2,
    workers=1,
)


def row(method, seed, test_sum, *, lr=0.005, validation_sum=None, draw=""):
    return Row(
        num_tasks=2,
        spread="std",
        seed=seed,
        method=method,
        lr=lr,
        steps=4,
        test_sum=test_sum,
        validation_sum=test_sum if validation_sum is None else validation_sum,
        test_ratios={},
        weights=(),
        draw=draw,
        curve=(),
        weight_curves={},
    )


def rows_of(method, sums, **keywords):
    return [row(method, seed, value, **keywords) for seed, value in enumerate(sums)]


def only_claim(ours, theirs, method=EQUAL):
    (claim,) = claims_of([*rows_of(GRADNORM, ours), *rows_of(method, theirs)], CELL, 0.005)
    return claim


@pytest.fixture(scope="module")
def result():
    return run_experiment(TINY)


def test_every_method_is_trained_on_every_seed_and_the_best_random_weights_too(result):
    num_runs = {}
    for one in result.rows:
        num_runs[one.method, one.lr] = num_runs.get((one.method, one.lr), 0) + 1
    moving = dict.fromkeys([(method, lr) for method in (GRADNORM, EQUAL, UNCERTAINTY) for lr in (0.005, 0.001)], 2)
    static = {"uniform 0": 1, "uniform 1": 1, "log-uniform 0": 1, "best uniform": 2, "best log-uniform": 2}
    others = {("uncertainty, s at lr", 0.005): 2, ("static 1/σ²", 0.005): 1}
    assert num_runs == {**moving, **others, **{(method, 0.005): count for method, count in static.items()}}
    for one in result.rows:
        assert one.test_sum == pytest.approx(sum(one.test_ratios.values()))
        assert one.curve[0] == (0, 2.0)
        assert one.curve[-1] == (4, pytest.approx(one.test_sum, rel=1e-5))


def test_the_result_is_told_as_text_as_json_and_as_figures(result, tmp_path):
    text = text_of(result)
    assert text.count("GradNorm below equal weights") == 2  # at one learning rate, and each at its best
    assert "best of 2 uniform static weights" in text
    document = json.loads(json.dumps(document_of(result), allow_nan=False))
    assert len(document["rows"]) == len(result.rows)
    assert {claim["verdict"] for claim in document["claims"]} <= {REPRODUCES, DOES_NOT, UNDECIDED}
    paths = save_plots(tmp_path / "new", result.rows, TINY.lr)
    assert [path.name for path in paths] == ["curves.png", "weights.png", "static.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_unit_is_the_loss_of_the_very_network_that_training_starts_from():
    jobs = [job for job in first_jobs(TINY) if job.method == EQUAL and job.seed == 1]
    unmoved = run_job(replace(jobs[0], lr=1e-12, steps=1, reports=1))
    assert unmoved.test_ratios == pytest.approx({"f1": 1.0, "f2": 1.0}, abs=1e-5)
    assert unmoved.validation_sum == pytest.approx(2.0, abs=1e-5)


def test_a_training_that_diverges_has_an_infinite_sum_which_json_calls_null(result):
    job = next(job for job in first_jobs(TINY) if job.method == EQUAL)
    diverged = run_job(replace(job, lr=100.0, steps=50, reports=1))
    assert math.isinf(diverged.test_sum)
    document = document_of(replace(result, rows=[diverged]))
    assert document["rows"][0]["test_sum"] is None


def test_random_weights_sum_to_the_number_of_tasks_and_do_not_change():
    for draw in (UNIFORM, LOG_UNIFORM):
        vectors = random_weights(draw, num_tasks=3, count=50, seed=0)
        assert vectors == random_weights(draw, num_tasks=3, count=50, seed=0)
        assert vectors != random_weights(draw, num_tasks=3, count=50, seed=1)
        assert all(sum(vector) == pytest.approx(3) and min(vector) > 0 for vector in vectors)
    ratios = [max(vector) / min(vector) for vector in random_weights(LOG_UNIFORM, num_tasks=2, count=200, seed=0)]
    assert 1e3 < max(ratios) <= 1e4


def test_the_weights_that_undo_the_scales_are_as_their_squares():
    near, far = undone_scales(2)
    assert near / far == pytest.approx(1e4)
    assert near + far == pytest.approx(2)


def test_a_claim_has_the_paired_differences_of_its_seeds():
    claim = only_claim([1.0, 1.2, 1.1], [1.5, 1.6, 1.7])
    assert claim.mean_difference == pytest.approx(-0.5)
    assert claim.sd_of_difference == pytest.approx(0.1)
    half = 4.302653 * 0.1 / math.sqrt(3)  # the 97.5 % quantile of t with 2 degrees of freedom
    assert claim.interval == pytest.approx((-0.5 - half, -0.5 + half))
    assert (claim.num_won, claim.num_pairs, claim.num_seeds) == (3, 3, 3)
    assert claim.verdict == REPRODUCES


@pytest.mark.parametrize(
    ("ours", "theirs", "verdict"),
    [
        ([1.0, 1.01, 1.02], [1.5, 1.5, 1.5], REPRODUCES),
        ([1.5, 1.51, 1.52], [1.0, 1.0, 1.0], DOES_NOT),
        ([1.0, 2.0, 1.4], [1.5, 1.5, 1.5], UNDECIDED),
        ([1.0], [2.0], UNDECIDED),  # one seed decides nothing
        ([1.0, 1.01, math.inf], [1.5, 1.5, 1.5], DOES_NOT),
        ([1.0, 1.01, math.inf], [1.5, 1.5, math.inf], REPRODUCES),
        ([1.0, 1.01, 1.02], [1.5, 1.5, math.inf], REPRODUCES),
    ],
)
def test_a_verdict_follows_from_the_interval_and_from_what_diverged(ours, theirs, verdict):
    assert only_claim(ours, theirs).verdict == verdict


def test_as_good_as_allows_a_hundredth_of_the_sum_before_training():
    theirs = [*rows_of("best uniform", [1.5, 1.5, 1.5]), row("uniform 0", 0, 1.5, draw=UNIFORM)]
    (claim,) = claims_of([*rows_of(GRADNORM, [1.51, 1.511, 1.512]), *theirs], CELL, 0.005)
    assert (claim.margin, claim.verdict) == (0.02, REPRODUCES)
    (claim,) = claims_of([*rows_of(GRADNORM, [1.53, 1.531, 1.532]), *theirs], CELL, 0.005)
    assert claim.verdict == DOES_NOT


def test_own_learning_rates_are_chosen_on_the_validation_split():
    rows = [
        *rows_of(GRADNORM, [1.0, 1.1]),
        *rows_of(GRADNORM, [0.5, 0.6], lr=0.001, validation_sum=3.0),
        *rows_of(EQUAL, [2.0, 2.0]),
        *rows_of(EQUAL, [1.0, 1.2], lr=0.001),
        *rows_of(UNCERTAINTY, [2.0, 2.0]),
    ]
    assert own_best_lr(rows, CELL, GRADNORM) == 0.005
    assert own_best_lr(rows, CELL, EQUAL) == 0.001
    own = [claim for claim in claims_of(rows, CELL, 0.005) if "its best" in claim.text and claim.other == EQUAL]
    assert [(claim.lr, claim.other_lr) for claim in own] == [(0.005, 0.001)]
    assert own[0].mean_difference == pytest.approx(-0.05)


def test_the_best_random_weights_are_chosen_on_the_validation_split_and_counted_on_the_test_split():
    drawn = [
        row("uniform 0", 0, 1.0, validation_sum=1.4, draw=UNIFORM),
        row("uniform 1", 0, 1.3, validation_sum=1.2, draw=UNIFORM),
        row("uniform 2", 0, 1.6, validation_sum=1.6, draw=UNIFORM),
    ]
    chosen = best_of_draw(drawn, CELL, UNIFORM)
    assert chosen is not None
    assert chosen.method == "uniform 1"
    assert best_of_draw(drawn, CELL, LOG_UNIFORM) is None
    (count,) = search_counts([*drawn, *rows_of(GRADNORM, [1.5, 9.0])], CELL, 0.005)
    assert (count.num_static, count.num_below_gradnorm, count.best_static, count.gradnorm) == (3, 2, 1.0, 1.5)


def test_options_change_what_the_presets_say():
    quick, _, as_json = settings_from(["--quick", "--json"])
    full, _, _ = settings_from([])
    assert as_json
    assert quick.seeds < full.seeds
    assert full.uniform_vectors == 100
    changed, out, as_json = settings_from(["--quick", "--seeds", "7", "--steps", "9", "--tasks", "3", "--out", "x"])
    assert (changed.seeds, changed.steps, changed.tasks, out.name, as_json) == (7, {3: 9}, [3], "x", False)


def test_the_command_prints_one_object_and_tells_its_progress_elsewhere(tmp_path, capsys):
    few = "--tasks 2 --seeds 1 --steps 2 --rows 200 --uniform-vectors 0 --log-uniform-vectors 0 --reports 1 --workers 1"
    main(["--quick", "--json", "--out", str(tmp_path), *few.split()])
    captured = capsys.readouterr()
    assert {one["seed"] for one in json.loads(captured.out)["rows"]} == {0}
    assert "networks: 4 of 4" in captured.err
