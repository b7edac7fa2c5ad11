"""Spaces with conditions: which parameters are active, what is left where some are fixed, how many points there are."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweep_service.domain.branches import (
    MAX_COUNTED,
    Grid,
    active_part,
    draw_uniform,
    grid_size,
    parents_first,
    within,
)
from sweep_service.domain.space import Choice, FloatRange, IntRange, Space


def choice(*choices: Any, **when: tuple[Any, ...]) -> Choice:
    return Choice(type="categorical", choices=choices, when=when)


def whole(high: int, **when: tuple[Any, ...]) -> IntRange:
    return IntRange(type="int", low=1, high=high, when=when)


CHAIN: Space = {
    "leaf": whole(3, twig=("green",)),
    "twig": choice("green", "dry", branch=("left", "right")),
    "branch": choice("left", "right", "none"),
    "sky": whole(2),
}


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """Finite spaces of choices, each of which may depend on any that come before it; in any order."""
    space: dict[str, Any] = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        parents = draw(st.lists(st.sampled_from(sorted(space)), unique=True, max_size=2)) if space else []
        when = {p: tuple(draw(st.lists(st.sampled_from(space[p].choices), min_size=1))) for p in parents}
        space[name] = choice(*range(draw(st.integers(1, 3))), **when)
    return {name: space[name] for name in draw(st.permutations(sorted(space)))}


def by_hand(space: Space) -> set[tuple[Any, ...]]:
    """Every distinct point: what is active of each combination of values."""
    names = list(space)
    combinations = itertools.product(*([d.point(i) for i in range(d.num_points or 0)] for d in space.values()))
    return {tuple(sorted(active_part(space, dict(zip(names, values, strict=True))).items())) for values in combinations}


@given(space=spaces())
def test_a_grid_has_each_different_point_once(space: Space) -> None:
    grid = Grid(space)
    points = [tuple(sorted(grid.point(index).items())) for index in range(grid.size)]
    assert len(points) == len(set(points)) == grid_size(space)
    assert set(points) == by_hand(space)


@given(space=spaces(), seed=st.integers(0, 999))
def test_what_is_drawn_has_exactly_its_active_parameters(space: Space, seed: int) -> None:
    point = draw_uniform(space, seed=seed)
    assert tuple(sorted(point.items())) in by_hand(space)
    assert draw_uniform(space, seed=seed) == point


@given(space=spaces(), data=st.data())
def test_within_fixed_values_are_the_points_that_have_them_without_them(space: Space, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name, dimension in space.items() if not dimension.when]))
    value = data.draw(st.sampled_from([space[name].point(i) for i in range(space[name].num_points or 0)]))
    with_it = {point for point in by_hand(space) if dict(point)[name] == value}
    assert by_hand(within(space, {name: value})) == {
        tuple(item for item in point if item[0] != name) for point in with_it
    }


def test_children_of_inactive_parents_are_inactive() -> None:
    values = {"leaf": 2, "twig": "green", "branch": "none", "sky": 1}
    assert active_part(CHAIN, values) == {"branch": "none", "sky": 1}
    assert active_part(CHAIN, {**values, "branch": "left"}) == {**values, "branch": "left"}
    assert active_part(CHAIN, {**values, "branch": "left", "twig": "dry"}) == {
        "twig": "dry",
        "branch": "left",
        "sky": 1,
    }


def test_parents_come_before_their_children_and_all_else_keeps_its_order() -> None:
    assert parents_first(CHAIN) == ["branch", "sky", "twig", "leaf"]
    circle: Space = {"x": choice(1, y=(1,)), "y": choice(1, x=(1,)), "z": choice(1), "lost": choice(1, nowhere=(1,))}
    assert parents_first(circle) == ["z"]


def test_true_is_not_one_in_a_condition() -> None:
    space: Space = {"flag": choice(True, 1, "1"), "child": whole(2, flag=(True,))}
    assert set(active_part(space, {"flag": True, "child": 1})) == {"flag", "child"}
    assert set(active_part(space, {"flag": 1, "child": 1})) == {"flag"}


def test_what_depends_on_a_fixed_value_that_excludes_it_is_dropped_with_its_children() -> None:
    assert set(within(CHAIN, {"branch": "none"})) == {"sky"}
    left = within(CHAIN, {"branch": "left"})
    assert (list(left), left["twig"].when, left["leaf"].when) == (
        ["leaf", "twig", "sky"],
        {},
        {"twig": ("green",)},
    )
    assert within(CHAIN, {"elsewhere": 1}) == CHAIN


def test_a_range_without_steps_makes_a_grid_endless_wherever_it_is_active() -> None:
    assert grid_size({**CHAIN, "free": FloatRange(type="float", low=0, high=1, when={"branch": ("none",)})}) is None


@pytest.mark.timeout(10)
def test_counting_the_points_of_an_enormous_space_comes_to_an_end() -> None:
    parents = {f"p{i}": choice(*range(50)) for i in range(10)}
    size = grid_size({**parents, **{f"c{i}": whole(9, **{f"p{i}": (0,)}) for i in range(10)}})
    assert size is not None
    assert size > MAX_COUNTED
