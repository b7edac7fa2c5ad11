"""When a trial is ended early: pure judgements of curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sweep_service.domain.pruning import Curve, cost, reason_to_stop
from sweep_service.domain.spec import EarlyStopping, Objective

ASHA = EarlyStopping(pruner="asha", min_steps=10, reduction_factor=3)
MEDIAN = EarlyStopping(pruner="median", min_steps=10, startup_trials=2)
HYPERBAND = EarlyStopping(pruner="hyperband", min_steps=10, reduction_factor=3)


def curve(number: int, *costs: float, every: int = 10) -> Curve:
    return Curve(number=number, steps=tuple(every * (i + 1) for i in range(len(costs))), costs=costs)


def stops(rule: EarlyStopping, own: Curve, others: Sequence[Curve], **changes: Any) -> bool:
    more: dict[str, Any] = {"num_completed": 10, "max_steps": 100, **changes}
    return reason_to_stop(rule, own, others, **more) is not None


def test_asha_lets_the_best_third_of_those_that_came_so_far_pass_a_rung() -> None:
    field = [curve(number, float(number)) for number in range(9)]
    stopped = [stops(ASHA, own, [other for other in field if other is not own]) for own in field]
    assert stopped == [False] * 3 + [True] * 6


def test_asha_compares_at_its_rungs_and_nowhere_else() -> None:
    """10, 30 and 90 of 100 steps."""
    others = [curve(number, *[0.0] * 9) for number in range(1, 9)]
    stopped = [step for step in range(1, 11) if stops(ASHA, curve(0, *[1.0] * step), others)]
    assert stopped == [1, 3, 9]


def test_asha_takes_the_first_value_at_or_after_a_rung() -> None:
    late = [curve(number, 9.0, 0.0, every=25) for number in range(1, 4)]  # at 25 steps, and at 50
    assert not stops(ASHA, curve(0, 5.0), late), "the others had 9 when they passed the rung at 10"
    assert stops(ASHA, curve(0, 9.5), late)


def test_one_report_that_passes_several_rungs_is_judged_at_each() -> None:
    others = [curve(number, 5.0) for number in range(1, 5)]
    further = [curve(number, 5.0, 5.0, 1.0) for number in range(5, 9)]
    assert stops(ASHA, Curve(number=0, steps=(40,), costs=(4.0,)), [*others, *further])


def test_the_first_trial_at_a_rung_and_equal_ones_go_on() -> None:
    assert not stops(ASHA, curve(0, 5.0), [])
    assert not stops(ASHA, curve(0, 5.0), [curve(number, 5.0) for number in range(1, 9)])


def test_median_ends_a_trial_whose_best_value_is_worse_than_the_median_of_the_others() -> None:
    others = [curve(1, 1.0, 1.0), curve(2, 2.0, 2.0), curve(3, 3.0, 3.0)]
    assert stops(MEDIAN, curve(0, 4.0, 2.5), others)
    assert not stops(MEDIAN, curve(0, 4.0, 2.0), others)
    assert not stops(MEDIAN, curve(0, 1.5, 9.0), others), "its best value counts, not its last"


def test_median_compares_with_what_the_others_had_at_the_same_step() -> None:
    others = [curve(number, 5.0, 0.0, 0.0) for number in range(1, 4)]
    assert not stops(MEDIAN, curve(0, 4.0), others)
    assert stops(MEDIAN, curve(0, 4.0, 4.0), others)


def test_median_waits_for_its_startup_trials() -> None:
    others = [curve(number, 0.0) for number in range(1, 9)]
    assert not stops(MEDIAN, curve(0, 4.0), others, num_completed=1)
    assert stops(MEDIAN, curve(0, 4.0), others, num_completed=2)


def test_hyperband_compares_within_a_bracket_and_never_ends_a_trial_of_the_last_one() -> None:
    field = [curve(number, *[float(-number)] * 9) for number in range(200)]  # the later the better
    ended = {own.number: [] for own in field}
    for own in field:
        for length in (1, 3, 9):
            grown = Curve(number=own.number, steps=own.steps[:length], costs=own.costs[:length])
            if stops(HYPERBAND, grown, [other for other in field if other is not own]):
                ended[own.number].append(own.steps[length - 1])
    firsts = Counter(min(steps, default=0) for number, steps in ended.items() if number < 100)
    assert set(firsts) == {10, 30, 90, 0}, "three brackets that begin to compare at one rung each, and one that never"
    assert firsts[10] > firsts[30] > firsts[90]


def test_hyperband_gives_even_a_few_trials_to_more_than_one_bracket() -> None:
    def ends_first(number: int) -> bool:
        crowd = [curve(other, 0.0) for other in range(1000, 1400)]
        return stops(HYPERBAND, curve(number, 1.0), crowd)

    assert {ends_first(number) for number in range(6)} == {True, False}


@pytest.mark.parametrize("rule", [ASHA, MEDIAN, HYPERBAND])
def test_nothing_is_ended_before_min_steps_nor_at_the_last_step(rule: EarlyStopping) -> None:
    others = [curve(number, *[0.0] * 20, every=5) for number in range(1, 200)]
    for number in range(200, 230):
        assert not stops(rule, curve(number, 9.0, every=5), others)
        assert not stops(rule, curve(number, *[9.0] * 20, every=5), others)


def test_none_ends_nothing_and_a_tenth_of_the_steps_is_the_least_by_default() -> None:
    others = [curve(number, 0.0) for number in range(1, 9)]
    assert not stops(EarlyStopping(pruner="none"), curve(0, 1.0), others)
    assert stops(EarlyStopping(), curve(0, 1.0), others)
    assert not stops(EarlyStopping(), curve(0, 1.0), others, max_steps=110)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
def test_what_is_no_number_is_worse_than_any_number_in_either_direction(value: float | None, direction: str) -> None:
    objective = Objective.model_validate({"direction": direction})
    assert cost(value, objective) > max(cost(1e300, objective), cost(-1e300, objective))
    field = [curve(number, 1.0) for number in range(1, 6)]
    assert stops(ASHA, curve(0, cost(value, objective)), field)
    assert stops(MEDIAN, curve(0, cost(value, objective)), field)
    hopeless = [curve(number, math.inf) for number in range(1, 6)]
    assert not stops(ASHA, curve(0, 1.0), hopeless)
    assert not stops(MEDIAN, curve(0, math.inf), hopeless), "a metric that nobody has yet is nobody's fault"


def test_more_is_better_where_the_objective_is_maximised() -> None:
    maximise, minimise = (Objective.model_validate({"direction": way}) for way in ("maximize", "minimize"))
    assert cost(2.0, maximise) < cost(1.0, maximise)
    assert cost(2.0, minimise) > cost(1.0, minimise)


_costs = st.lists(st.floats(-5, 5) | st.just(math.inf), min_size=1, max_size=9)


@given(rule=st.sampled_from([ASHA, MEDIAN, HYPERBAND]), own=_costs, field=st.lists(_costs, max_size=12), data=st.data())
def test_the_order_of_the_others_does_not_matter(
    rule: EarlyStopping, own: list[float], field: list[list[float]], data: st.DataObject
) -> None:
    others = [curve(number, *costs) for number, costs in enumerate(field, start=1)]
    shuffled = data.draw(st.permutations(others))
    assert stops(rule, curve(0, *own), others) == stops(rule, curve(0, *own), shuffled)


@given(rule=st.sampled_from([ASHA, MEDIAN, HYPERBAND]), field=st.lists(_costs, min_size=1, max_size=12))
def test_of_trials_that_came_equally_far_the_best_is_never_ended(rule: EarlyStopping, field: list[list[float]]) -> None:
    length = min(len(costs) for costs in field)
    curves = [curve(number, *costs[:length]) for number, costs in enumerate(field)]
    best = min(curves, key=lambda one: one.costs[-1])
    if rule is MEDIAN:
        best = min(curves, key=lambda one: min(one.costs))
    assert not stops(rule, best, [other for other in curves if other is not best])


@pytest.mark.parametrize(
    ("pruner", "field"),
    [
        ("median", "reduction_factor"),
        ("asha", "startup_trials"),
        ("hyperband", "startup_trials"),
        ("none", "min_steps"),
    ],
)
def test_a_setting_that_the_pruner_does_not_read_is_refused(pruner: Any, field: str) -> None:
    with pytest.raises(ValidationError, match=f"does not read {field}"):
        EarlyStopping.model_validate({"pruner": pruner, field: 5})
