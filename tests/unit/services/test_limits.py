"""Who may run how many packs where the service limits them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sweep_service.domain.limits import Demand, PackLimit
from sweep_service.domain.resources import Resources
from sweep_service.domain.states import CONDUCTED, SweepState
from sweep_service.services.limits import UNLIMITED, allowance_of, allowances

ADS = PackLimit(label="team:ads", packs=4)
EVERYONE = PackLimit(project="default", packs=6)


def demand(
    name: str, parallel: int = 4, *, priority: int = 0, num_packs: int = 0, team: str = "ads", **changes: Any
) -> Demand:
    values: dict[str, Any] = {
        "id": name,
        "project": "default",
        "labels": {"team": team},
        "priority": priority,
        "state": SweepState.RUNNING,
        "reason": None,
        "message": "",
        "resources": Resources(parallel=parallel),
        "num_packs": num_packs,
    }
    return Demand(**values | changes)


def most(demands: Sequence[Demand], *limits: PackLimit) -> Mapping[str, int]:
    return {name: allowance.most for name, allowance in allowances(demands, limits).items()}


@pytest.mark.parametrize(
    ("demands", "shares"),
    [
        ([demand("a", 9)], {"a": 4}),
        ([demand("a", 3)], {"a": 3}),
        ([demand("a"), demand("b")], {"a": 2, "b": 2}),
        ([demand("a", 1), demand("b"), demand("c", 2)], {"a": 1, "b": 2, "c": 1}),
        ([demand("a"), demand("b", priority=1)], {"a": 1, "b": 3}),
        ([demand("a"), demand("b", 2, priority=1), demand("c")], {"a": 1, "b": 2, "c": 1}),
        ([demand(name) for name in "abcde"], {"a": 1, "b": 1, "c": 1, "d": 1, "e": 0}),
        ([*(demand(name) for name in "abcd"), demand("z", priority=1)], {"a": 1, "b": 1, "c": 1, "d": 0, "z": 1}),
    ],
)
def test_each_gets_one_then_the_highest_priority_what_it_wants(
    demands: Sequence[Demand], shares: Mapping[str, int]
) -> None:
    assert most(demands, ADS) == shares


def test_a_sweep_is_under_every_limit_that_names_it_and_what_one_keeps_from_it_goes_to_others() -> None:
    demands = [demand("a", 9), demand("b", 9, team="search"), demand("c", 9, team="search", project="other")]
    assert most(demands, ADS, EVERYONE) == {"a": 3, "b": 3}
    tight = ADS.model_copy(update={"packs": 1})
    assert most(demands, tight, EVERYONE) == {"a": 1, "b": 5}


def test_a_sweep_under_no_limit_has_none() -> None:
    assert allowance_of("c", [demand("c", team="search")], [ADS]) == UNLIMITED
    assert allowance_of("gone", [demand("a")], [ADS]) == UNLIMITED


def test_what_holds_a_sweep_back_is_named() -> None:
    found = allowances([demand("a"), demand("b", 1)], [EVERYONE, ADS])
    assert found["a"].told == "Held back by the limit of 4 packs at once for the label team:ads."
    assert found["b"].told == ""


def test_nobody_starts_what_others_have_not_yet_given_back() -> None:
    holder, newcomer = demand("a", num_packs=4), demand("b", priority=1)
    found = allowances([holder, newcomer], [ADS])
    assert (found["a"].most, found["a"].startable) == (1, 1)
    assert (found["b"].most, found["b"].startable) == (3, 0)
    later = allowances([replace(holder, num_packs=2), newcomer], [ADS])
    assert later["b"].startable == 2
    last = allowances([replace(holder, num_packs=1), replace(newcomer, num_packs=2)], [ADS])
    assert last["b"].startable == 3


def test_newcomers_do_not_both_start_in_the_one_place_that_has_come_free() -> None:
    found = allowances([demand("a", num_packs=3), demand("b"), demand("c")], [ADS])
    assert {name: one.most for name, one in found.items()} == {"a": 2, "b": 1, "c": 1}
    assert {name: one.startable for name, one in found.items()} == {"a": 2, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("state", "num_packs", "wanted"),
    [
        (SweepState.STARTING, 0, 4),
        (SweepState.PAUSING, 2, 2),
        (SweepState.CANCELLING, 0, 0),
        (SweepState.STOPPING, 2, 2),
        (SweepState.STOPPING, 0, 1),  # a trial that has given way is to be trained to its end
    ],
)
def test_what_is_about_to_end_or_to_rest_asks_for_no_more_than_it_has(
    state: SweepState, num_packs: int, wanted: int
) -> None:
    assert demand("a", state=state, num_packs=num_packs).wanted == wanted


# --- laws -------------------------------------------------------------------------------------------------------------

LIMITS = [PackLimit(label="team:ads", packs=3), PackLimit(label="team:search", packs=5), EVERYONE]
crowds = st.lists(
    st.builds(
        lambda parallel, priority, num_packs, team, project, state: demand(
            "", parallel, priority=priority, num_packs=num_packs, team=team, project=project, state=state
        ),
        st.integers(1, 9),
        st.integers(-1, 1),
        st.integers(0, 5),
        st.sampled_from(["ads", "search", "none"]),
        st.sampled_from(["default", "other"]),
        st.sampled_from(sorted(CONDUCTED)),
    ),
    max_size=7,
).map(lambda found: [replace(one, id=f"swp_{place}") for place, one in enumerate(found)])


def under(limit: PackLimit, demands: Sequence[Demand]) -> list[Demand]:
    return [one for one in demands if limit.applies_to(one.project, one.labels)]


@given(crowds, st.lists(st.sampled_from(LIMITS), unique=True))
def test_no_limit_is_exceeded_nobody_gets_what_it_does_not_want_and_nothing_is_left_over(
    demands: list[Demand], limits: list[PackLimit]
) -> None:
    found = allowances(demands, limits)
    used = {limit: sum(found[one.id].most for one in under(limit, demands)) for limit in limits}
    assert all(used[limit] <= limit.packs for limit in limits)
    for one in demands:
        own = [limit for limit in limits if limit.applies_to(one.project, one.labels)]
        if not own:
            assert one.id not in found
            continue
        assert found[one.id].most <= one.wanted
        is_held_back = found[one.id].most < one.wanted
        assert not is_held_back or any(used[limit] == limit.packs for limit in own)
        assert bool(found[one.id].told) is is_held_back


@given(crowds, st.lists(st.sampled_from(LIMITS), unique=True))
def test_what_is_started_never_makes_more_than_a_limit_allows(demands: list[Demand], limits: list[PackLimit]) -> None:
    found = allowances(demands, limits)
    for limit in limits:
        members = under(limit, demands)
        now = sum(one.num_packs for one in members)
        then = sum(max(one.num_packs, found[one.id].startable) for one in members)
        assert then <= max(limit.packs, now)
    for name, allowance in found.items():
        (one,) = [one for one in demands if one.id == name]
        assert min(one.num_packs, allowance.most) <= allowance.startable <= allowance.most


@given(crowds.filter(bool), st.sampled_from(LIMITS), st.data())
def test_a_higher_priority_never_gets_less(demands: list[Demand], limit: PackLimit, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(demands) - 1))
    raised = [replace(one, priority=one.priority + 1) if i == place else one for i, one in enumerate(demands)]
    name = demands[place].id
    assert allowance_of(name, raised, [limit]).most >= allowance_of(name, demands, [limit]).most


@given(crowds, st.lists(st.sampled_from(LIMITS), unique=True), st.randoms())
def test_the_order_in_which_they_are_listed_does_not_matter(
    demands: list[Demand], limits: list[PackLimit], random: Any
) -> None:
    shuffled = random.sample(demands, len(demands))
    assert allowances(shuffled, limits) == allowances(demands, limits)


@given(crowds, st.sampled_from(LIMITS))
def test_of_one_priority_nobody_is_two_ahead_of_another_that_wants_more(
    demands: list[Demand], limit: PackLimit
) -> None:
    found = allowances(demands, [limit])
    members = under(limit, demands)
    for one in members:
        for other in members:
            if one.priority == other.priority and found[other.id].most < other.wanted:
                assert found[one.id].most <= found[other.id].most + 1


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"packs": 2},
        {"label": "team:ads", "project": "p", "packs": 2},
        {"label": "team", "packs": 2},
        {"label": "team:ads"},
        {"label": "team:ads", "packs": 0},
        {"project": "p", "packs": "2"},
        {"project": "p", "packs": 2, "pack": 2},
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PackLimit.model_validate(wrong)
