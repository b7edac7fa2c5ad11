"""How the trials of the budget are shared out among the balancers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_documents import CATALOG, changed

from sweep_service.domain.shares import apportion, num_parameters, search_quotas
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec

FREE = {"type": "float", "low": 0.0, "high": 1.0}
BALANCER = {"type": "categorical", "choices": ["gradnorm", "static", "equal"]}


def spec(trials: int = 12, sampler: str = "tpe", **space: Any) -> SweepSpec:
    document = changed(
        ("/space", {"balancer": BALANCER, **space}),
        ("/budget/trials", trials),
        ("/search/sampler", sampler),
        ("/baselines", []),
    )
    return check_spec(document, CATALOG)


def quotas(one: SweepSpec) -> list[int]:
    return list(search_quotas(one).values())


GRADNORM = {"alpha": FREE, "weight_lr": {**FREE, "low": 0.01}}
WEIGHT = {"weight/weeks": {**FREE, "low": 0.1}}


def test_each_balancer_gets_as_many_trials_per_parameter_that_it_has() -> None:
    assert quotas(spec(12, **GRADNORM, **WEIGHT, free=FREE)) == [6, 4, 2]
    assert quotas(spec(13, **GRADNORM, **WEIGHT, free=FREE)) == [7, 4, 2]


def test_one_with_nothing_to_tune_runs_once_and_the_others_share_the_rest() -> None:
    assert quotas(spec(13, **GRADNORM, **WEIGHT)) == [8, 4, 1]
    assert quotas(spec(12, **GRADNORM)) == [10, 1, 1]


def test_the_largest_branch_of_nested_conditions_counts() -> None:
    shuffled = {"type": "categorical", "choices": [True, False], "when": {"balancer": "static"}}
    space = {"shuffle": shuffled, "free": {**FREE, "when": {"shuffle": True}}}
    document = changed(("/space", {"balancer": BALANCER, **GRADNORM, **space}), ("/baselines", []))
    del document["params"]["shuffle"]
    assert quotas(check_spec(document, CATALOG)) == [16, 15, 1]


def test_no_more_than_there_are_points_in_a_grid_and_the_rest_goes_to_the_others() -> None:
    grid = {"alpha": {**FREE, "step": 0.1}, "weight/weeks": {"type": "categorical", "choices": [1.0, 2.0]}}
    assert quotas(spec(12, "grid", **grid)) == [9, 2, 1]
    assert quotas(spec(100, "grid", **grid)) == [11, 2, 1]


def test_the_search_that_is_one_line_has_them_all() -> None:
    document = changed(("/space", {"balancer": BALANCER, "alpha": FREE}), ("/search/balancers", "sampled"))
    assert search_quotas(check_spec(document, CATALOG)) == {None: 32}
    assert search_quotas(check_spec(changed(), CATALOG)) == {None: 32}


def test_a_stored_spec_from_before_there_was_a_choice_is_one_line() -> None:
    stored = spec(12, **GRADNORM).canonical()
    assert stored["search"].pop("balancers") == "equal_effort"
    assert SweepSpec.trusted(stored).methods == ()


def test_a_space_without_conditions_counts_its_names() -> None:
    assert num_parameters({}) == 0
    assert num_parameters(check_spec(changed(), CATALOG).space) == 3


_weights = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@given(weights=_weights, extra=st.integers(0, 500))
def test_shares_add_up_to_the_total_and_are_in_proportion_within_one(weights: list[int], extra: int) -> None:
    total = len(weights) + extra
    shares = apportion(total, weights, [None] * len(weights))
    assert sum(shares) == total
    assert min(shares) >= 1
    exact = [total * weight / sum(weights) for weight in weights]
    if min(exact) >= 1:  # else those that get 1 take something from the others
        assert all(abs(share - due) < 1 for share, due in zip(shares, exact, strict=True))


@given(weights=_weights, extra=st.integers(0, 500), data=st.data())
def test_caps_are_kept_and_what_they_leave_is_shared_in_proportion(
    weights: list[int], extra: int, data: st.DataObject
) -> None:
    caps: Sequence[int | None] = [data.draw(st.none() | st.integers(1, 40)) for _ in weights]
    total = len(weights) + extra
    shares = apportion(total, weights, caps)
    most = math.inf if None in caps else sum(cap or 0 for cap in caps)
    assert sum(shares) == min(total, most)
    assert all(1 <= share <= (cap or total) for share, cap in zip(shares, caps, strict=True))
    between = [
        (share - 1) / weight
        for share, weight, cap in zip(shares, weights, caps, strict=True)
        if share != cap and share > 1
    ]
    per_parameter = [
        (share + 1) / weight for share, weight, cap in zip(shares, weights, caps, strict=True) if share != cap
    ]
    # The rates that the shares stand for, each known within one trial, agree.
    assert not between or max(between) <= min(per_parameter)


@given(weights=_weights, total=st.integers(12, 300))
def test_a_larger_total_takes_at_most_one_trial_from_anybody(weights: list[int], total: int) -> None:
    few, many = (apportion(size, weights, [None] * len(weights)) for size in (total, total + 1))
    assert all(after >= before - 1 for before, after in zip(few, many, strict=True))


@pytest.mark.parametrize("trials", [3, 4, 5])
def test_a_budget_just_large_enough_gives_everyone_a_trial(trials: int) -> None:
    assert sum(quotas(spec(trials, **GRADNORM, free=FREE))) == trials
