from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sweep_service.domain.verdict import DIVERGED, Comparison, Contrast, Outcome, compare, holm

LOSS = 1.0


def by_seed(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def judge(*differences: float, margin: float = 0.01) -> Comparison:
    """The comparison whose paired differences are these."""
    contrast = Contrast(
        baseline="equal",
        best=by_seed(*(LOSS + difference for difference in differences)),
        other=by_seed(*(LOSS for _ in differences)),
        margin=margin,
    )
    return compare([contrast])[0]


def test_an_interval_well_below_zero_says_that_it_helped():
    assert judge(-0.50, -0.52, -0.49, -0.51, -0.48).outcome is Outcome.HELPED


def test_an_interval_well_above_zero_says_that_it_hurt():
    assert judge(0.50, 0.52, 0.49, 0.51, 0.48).outcome is Outcome.HURT


def test_a_wide_interval_around_zero_is_inconclusive_and_needs_no_reason():
    comparison = judge(-0.5, 0.5, -0.4, 0.4, 0.1)
    assert comparison.outcome is Outcome.INCONCLUSIVE
    assert comparison.reason is None


def test_an_interval_inside_the_margin_is_equivalent():
    assert judge(-0.001, 0.001, 0.0005, -0.0005, 0.0).outcome is Outcome.EQUIVALENT


def test_a_certain_difference_that_is_smaller_than_the_margin_is_equivalent_and_not_a_gain():
    comparison = judge(-0.0050, -0.0051, -0.0049, -0.0050, -0.0050)
    assert comparison.p_value is not None
    assert comparison.p_value < 1e-5
    assert comparison.outcome is Outcome.EQUIVALENT


def test_an_interval_that_only_touches_the_margin_is_not_inside_it():
    inside, touching = judge(0.25, 0.25, margin=0.2500001), judge(0.25, 0.25, margin=0.25)
    assert (inside.outcome, touching.outcome) == (Outcome.EQUIVALENT, Outcome.HURT)


def test_an_interval_that_leaves_the_margin_on_one_side_and_covers_zero_is_inconclusive():
    comparison = judge(-0.02, 0.005, -0.012, 0.002)
    low, high = comparison.interval or (0, 0)
    assert low < -0.01 < 0 < high < 0.02
    assert comparison.outcome is Outcome.INCONCLUSIVE


def test_the_interval_and_the_p_value_are_those_of_the_paired_t_test():
    best, other = [0.61, 0.58, 0.66, 0.59, 0.62], [0.63, 0.64, 0.65, 0.66, 0.60]
    comparison = compare([Contrast(baseline="equal", best=by_seed(*best), other=by_seed(*other), margin=0.01)])[0]
    reference = stats.ttest_rel(best, other)
    interval = reference.confidence_interval(0.95)
    assert comparison.p_value == pytest.approx(reference.pvalue, rel=1e-9)
    assert comparison.interval == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert comparison.mean_difference == pytest.approx(-0.024)


def test_two_pairs_are_enough_and_give_the_wide_interval_of_one_degree_of_freedom():
    comparison = judge(-0.6, -0.4)
    half_width = 12.7062047 * 0.1  # t(0.975, 1) × standard error
    assert comparison.interval == pytest.approx((-0.5 - half_width, -0.5 + half_width), rel=1e-6)
    assert comparison.outcome is Outcome.INCONCLUSIVE


def test_one_pair_is_inconclusive_with_its_difference_and_the_reason():
    comparison = judge(-0.5)
    assert (comparison.outcome, comparison.mean_difference, comparison.interval) == (
        Outcome.INCONCLUSIVE,
        -0.5,
        None,
    )
    assert comparison.reason is not None
    assert "at least 2 seeds" in comparison.reason
    assert "there is 1" in comparison.reason


def test_no_pair_is_inconclusive_and_says_how_many_repeats_each_side_has():
    contrast = Contrast(baseline="equal", best={1: 0.5, 2: 0.6}, other={3: 0.5}, margin=0.01)
    comparison = compare([contrast])[0]
    assert comparison.num_pairs == 0
    assert comparison.mean_difference is None
    assert comparison.reason is not None
    assert "there are none" in comparison.reason
    assert "2 of the best trial's repeats and 1 of equal's" in comparison.reason


def test_only_seeds_that_both_sides_have_are_paired():
    best = {1: 0.5, 2: 0.5, 3: 0.5, 9: 100.0}
    other = {1: 1.0, 2: 1.1, 3: 0.9, 8: -100.0}
    comparison = compare([Contrast(baseline="equal", best=best, other=other, margin=0.01)])[0]
    assert comparison.num_pairs == 3
    assert comparison.mean_difference == pytest.approx(-0.5)


def test_a_number_that_is_not_finite_takes_its_pair_away_from_the_mean():
    best = {1: 0.5, 2: 0.5, 3: math.nan, 4: 0.5, 5: 0.5}
    other = {1: 1.0, 2: 1.1, 3: 1.0, 4: math.inf, 5: 0.9}
    comparison = compare([Contrast(baseline="equal", best=best, other=other, margin=0.01)])[0]
    assert comparison.num_pairs == 3
    assert comparison.mean_difference == pytest.approx(-0.5)


def test_a_loss_so_large_that_its_square_overflows_counts_as_diverged():
    best = {1: 1e200, 2: 0.5, 3: 0.5, 4: 0.5}
    other = {1: 1.0, 2: 1.1, 3: 1.0, 4: 0.9}
    comparison = compare([Contrast(baseline="equal", best=best, other=other, margin=0.01)])[0]
    assert (comparison.num_pairs, comparison.num_best_diverged) == (3, 1)
    assert comparison.outcome is Outcome.INCONCLUSIVE


BETTER, WORSE, SAME = (0.50, 0.51, 0.49, 0.50), (1.50, 1.51, 1.49, 1.50), (1.0, 1.0, 1.0, 1.0)


def judge_sides(best: Sequence[float | None], other: Sequence[float | None]) -> Comparison:
    """None: not measured on that seed."""
    sides = [{seed: v for seed, v in enumerate(side) if v is not None} for side in (best, other)]
    contrast = Contrast(baseline="equal", best=sides[0], other=sides[1], margin=0.01, best_name="GradNorm")
    return compare([contrast])[0]


@pytest.mark.parametrize("diverged", [math.nan, math.inf, -math.inf, 1e100, DIVERGED])
@pytest.mark.parametrize(
    ("best", "outcome"), [(BETTER, Outcome.INCONCLUSIVE), (SAME, Outcome.INCONCLUSIVE), (WORSE, Outcome.HURT)]
)
def test_what_diverged_where_the_baseline_did_not_neither_helped_nor_is_equivalent_and_may_have_hurt(
    best: tuple[float, ...], outcome: Outcome, diverged: float
):
    comparison = judge_sides([*best, diverged], [*SAME, 1.0])
    assert comparison.outcome is outcome
    assert (comparison.num_pairs, comparison.num_best_diverged, comparison.num_other_diverged) == (4, 1, 0)
    assert comparison.reason is not None
    assert comparison.reason.startswith("GradNorm diverged on 1 of 5 seeds")
    assert comparison.reason.endswith("so that the other seeds do not decide") == (outcome is Outcome.INCONCLUSIVE)


@pytest.mark.parametrize("diverged", [math.nan, math.inf, -math.inf, 1e100, DIVERGED])
@pytest.mark.parametrize(
    ("best", "outcome"), [(BETTER, Outcome.HELPED), (SAME, Outcome.INCONCLUSIVE), (WORSE, Outcome.INCONCLUSIVE)]
)
def test_a_baseline_that_diverged_where_the_best_did_not_cannot_have_won(
    best: tuple[float, ...], outcome: Outcome, diverged: float
):
    comparison = judge_sides([*best, 1.0], [*SAME, diverged])
    assert comparison.outcome is outcome
    assert (comparison.num_pairs, comparison.num_best_diverged, comparison.num_other_diverged) == (4, 0, 1)
    assert comparison.reason is not None
    assert comparison.reason.startswith("equal diverged on 1 of 5 seeds")


@pytest.mark.parametrize("lost", [(None, 1.0), (0.5, None), (None, None)])
def test_a_seed_that_was_not_measured_only_takes_its_pair_away(lost: tuple[float | None, float | None]):
    comparison = judge_sides([*BETTER, lost[0]], [*SAME, lost[1]])
    assert (comparison.outcome, comparison.num_pairs, comparison.reason) == (Outcome.HELPED, 4, None)


@pytest.mark.parametrize(
    ("best", "outcome"), [(BETTER, Outcome.HELPED), (SAME, Outcome.EQUIVALENT), (WORSE, Outcome.HURT)]
)
def test_a_seed_on_which_both_diverged_speaks_for_neither_and_is_told(best: tuple[float, ...], outcome: Outcome):
    comparison = judge_sides([*best, math.inf], [*SAME, math.nan])
    assert (comparison.outcome, comparison.num_pairs) == (outcome, 4)
    assert comparison.reason == "GradNorm diverged on 1 of 5 seeds and equal diverged on 1 of 5 seeds"


@pytest.mark.parametrize("best", [BETTER, SAME, WORSE])
def test_sides_that_diverged_on_different_seeds_are_inconclusive_whatever_the_others_say(best: tuple[float, ...]):
    comparison = judge_sides([*best, math.inf, 1.0], [*SAME, 1.0, math.inf])
    assert (comparison.outcome, comparison.num_pairs) == (Outcome.INCONCLUSIVE, 4)


def test_a_side_that_always_diverged_says_so_before_it_counts_the_pairs():
    comparison = judge_sides([math.inf] * 5, [*SAME, 1.0])
    assert (comparison.outcome, comparison.num_pairs, comparison.interval) == (Outcome.INCONCLUSIVE, 0, None)
    assert comparison.reason is not None
    first, second = comparison.reason.split("; ")
    assert first == "GradNorm diverged on 5 of 5 seeds"
    assert "0 of the best trial's repeats and 5 of equal's" in second


def test_equal_differences_have_an_interval_without_width_and_are_certain():
    comparison = judge(-0.25, -0.25, -0.25)
    assert comparison.interval == (-0.25, -0.25)
    assert comparison.p_value == 0.0
    assert comparison.outcome is Outcome.HELPED


def test_the_same_results_on_every_seed_are_equivalent():
    comparison = judge(0.0, 0.0, 0.0)
    assert (comparison.interval, comparison.p_value, comparison.outcome) == ((0.0, 0.0), 1.0, Outcome.EQUIVALENT)


def test_what_is_significant_alone_is_not_when_three_baselines_share_the_five_percent():
    noisy = (-0.9, -0.2, -0.7, -0.1, -0.6)  # p about 0.03
    alone = judge(*noisy)
    contrast = Contrast(
        baseline="equal", best=by_seed(*(LOSS + d for d in noisy)), other=by_seed(*[LOSS] * 5), margin=0.01
    )
    among_three = compare([contrast, contrast, contrast])[0]
    assert alone.p_value is not None
    assert 0.02 < alone.p_value < 0.05
    assert alone.outcome is Outcome.HELPED
    assert among_three.p_value == alone.p_value
    assert among_three.p_value_holm == pytest.approx(3 * alone.p_value)
    assert among_three.interval == alone.interval
    assert among_three.outcome is Outcome.INCONCLUSIVE


def test_holm_multiplies_by_what_is_left_and_never_falls():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stays_at_most_one():
    assert holm([0.6, 0.9]) == [1.0, 1.0]


def test_a_baseline_that_could_not_be_tested_still_counts_in_the_correction():
    assert holm([0.01, None, 0.02]) == pytest.approx([0.03, None, 0.04])


def test_nothing_to_compare_gives_nothing():
    assert compare([]) == ()


any_float = st.floats(allow_nan=True, allow_infinity=True)
sides = st.dictionaries(st.integers(0, 6), any_float | st.floats(-2, 2), max_size=7)


@given(contrasts=st.lists(st.tuples(sides, sides, st.floats(1e-6, 10)), max_size=4))
def test_whatever_was_measured_every_number_of_a_verdict_is_finite_and_fits_its_outcome(contrasts):
    comparisons = compare(
        [Contrast(baseline=str(i), best=b, other=o, margin=m) for i, (b, o, m) in enumerate(contrasts)]
    )
    assert [comparison.baseline for comparison in comparisons] == [str(i) for i in range(len(contrasts))]
    for comparison in comparisons:
        num_diverged = comparison.num_best_diverged + comparison.num_other_diverged
        assert (comparison.interval is not None) == (comparison.num_pairs >= 2)
        assert (comparison.reason is None) == (comparison.interval is not None and num_diverged == 0)
        assert (comparison.p_value is None) == (comparison.p_value_holm is None) == (comparison.interval is None)
        if comparison.interval is None or comparison.p_value is None or comparison.p_value_holm is None:
            assert comparison.outcome is Outcome.INCONCLUSIVE
            continue
        low, high = comparison.interval
        assert comparison.mean_difference is not None
        assert all(map(math.isfinite, (low, high, comparison.mean_difference)))
        assert low <= comparison.mean_difference <= high
        assert 0 <= comparison.p_value <= comparison.p_value_holm <= 1
        inside = -comparison.margin < low and high < comparison.margin
        assert inside or comparison.outcome is not Outcome.EQUIVALENT
        assert comparison.outcome is Outcome.EQUIVALENT or not inside or num_diverged
        assert high < 0 or comparison.outcome is not Outcome.HELPED
        assert low > 0 or comparison.outcome is not Outcome.HURT


@given(best=sides, other=sides)
def test_exchanging_the_sides_turns_helped_into_hurt(best, other):
    mirrored = {Outcome.HELPED: Outcome.HURT, Outcome.HURT: Outcome.HELPED}
    one = compare([Contrast(baseline="equal", best=best, other=other, margin=0.1)])[0]
    two = compare([Contrast(baseline="equal", best=other, other=best, margin=0.1)])[0]
    assert two.outcome is mirrored.get(one.outcome, one.outcome)
    assert two.num_pairs == one.num_pairs
    assert (two.num_best_diverged, two.num_other_diverged) == (one.num_other_diverged, one.num_best_diverged)


def test_reading_verdicts_does_not_import_scipy():
    script = "import sys, sweep_service.domain.verdict; sys.exit('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
