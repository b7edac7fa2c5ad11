"""Ranges of the search space: what they hold, and what is drawn from them."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from sweep_service.domain.branches import Grid, draw_uniform, grid_size
from sweep_service.domain.space import Choice, Dimension, FloatRange, IntRange, Space

finite = st.floats(min_value=-1e6, max_value=1e6, allow_nan=False)


@st.composite
def float_ranges(draw: st.DrawFn) -> FloatRange:
    low, high = sorted((draw(finite), draw(finite)))
    kind = draw(st.sampled_from(["plain", "log", "step"]))
    if kind == "log":
        low, high = 1e-9 + abs(low), 1e-9 + abs(low) + abs(high)
        return FloatRange(type="float", low=low, high=high, log=True)
    step = draw(st.floats(min_value=1e-2, max_value=1e3)) if kind == "step" else None
    return FloatRange(type="float", low=low, high=high, step=step)


@st.composite
def int_ranges(draw: st.DrawFn) -> IntRange:
    low, high = sorted((draw(st.integers(-1000, 1000)), draw(st.integers(-1000, 1000))))
    if draw(st.booleans()):
        return IntRange(type="int", low=1 + abs(low), high=1 + abs(low) + abs(high), log=True)
    return IntRange(type="int", low=low, high=high, step=draw(st.integers(1, 50)))


choices = st.lists(
    st.booleans() | st.integers(-9, 9) | st.text(max_size=3), min_size=1, max_size=6, unique_by=lambda v: (type(v), v)
).map(lambda values: Choice(type="categorical", choices=tuple(values)))
dimensions = float_ranges() | int_ranges() | choices


@given(dimension=dimensions, seed=st.integers(0, 2**31))
def test_what_is_drawn_lies_in_the_range(dimension: Any, seed: int) -> None:
    assert dimension.contains(dimension.draw(random.Random(seed)))


@given(dimension=float_ranges() | int_ranges(), seed=st.integers(0, 2**31))
def test_nothing_is_drawn_above_the_last_value(dimension: Any, seed: int) -> None:
    assert dimension.low <= dimension.draw(random.Random(seed)) <= dimension.last <= dimension.high


@given(space=st.dictionaries(st.text(min_size=1, max_size=3), dimensions, max_size=4), seed=st.integers(0, 2**31))
def test_a_configuration_is_drawn_again_from_its_seed(space: Any, seed: int) -> None:
    assert draw_uniform(space, seed=seed) == draw_uniform(space, seed=seed)
    assert list(draw_uniform(space, seed=seed)) == list(space)


@given(dimension=dimensions)
def test_a_range_survives_its_document(dimension: Any) -> None:
    again = TypeAdapter(Dimension).validate_python(dimension.model_dump(mode="json"))
    assert again == dimension
    assert type(again) is type(dimension)


@pytest.mark.parametrize(
    ("low", "high", "step", "points"),
    [
        (0.0, 0.9, 0.3, [0.0, 0.3, 0.6, 0.9]),  # in binary 3 × 0.3 is below 0.9
        (0.0, 0.3, 0.1, [0.0, 0.1, 0.2, 0.3]),  # and 0.3 // 0.1 is 2
        (0.0, 1.0, 0.4, [0.0, 0.4, 0.8]),
        (1.0, 1.0, 0.5, [1.0]),
        (-1.0, 1.0, 1.0, [-1.0, 0.0, 1.0]),
        (-1.0, -1e-160, 1.0, [-1.0]),  # -1 + 1 is above
    ],
)
def test_a_grid_has_the_points_that_were_written(low: float, high: float, step: float, points: list[float]) -> None:
    grid = FloatRange(type="float", low=low, high=high, step=step)
    generator = random.Random(1)
    assert sorted({grid.draw(generator) for _ in range(300)}) == points
    assert grid.last == points[-1]


def test_whole_numbers_on_a_grid_are_each_as_likely() -> None:
    grid = IntRange(type="int", low=1, high=8, step=3)
    generator = random.Random(2)
    counts = Counter(grid.draw(generator) for _ in range(3000))
    assert sorted(counts) == [1, 4, 7]
    assert min(counts.values()) > 850
    assert grid.last == 7


def test_a_logarithmic_range_draws_each_decade_as_often() -> None:
    wide = FloatRange(type="float", low=1e-4, high=1e-1, log=True)
    generator = random.Random(3)
    decades = Counter(math.floor(math.log10(wide.draw(generator))) for _ in range(3000))
    assert sorted(decades) == [-4, -3, -2]
    assert min(decades.values()) > 850


def test_true_is_not_one_and_one_is_not_true() -> None:
    both = Choice(type="categorical", choices=(True, 1, "1"))
    assert [both.contains(value) for value in (True, 1, "1", False, 1.0)] == [True, True, True, False, False]
    assert not IntRange(type="int", low=0, high=1).contains(True)
    assert not FloatRange(type="float", low=0.0, high=1.0).contains(True)


@pytest.mark.parametrize("same", [(1, 1.0), (0, -0.0), (True, True), ("a", "a")])
def test_choices_that_are_the_same_value_are_refused(same: tuple[Any, Any]) -> None:
    with pytest.raises(ValidationError, match="twice"):
        Choice(type="categorical", choices=same)


def test_a_range_of_a_single_value_draws_that_value() -> None:
    assert FloatRange(type="float", low=0.5, high=0.5).draw(random.Random(4)) == 0.5
    assert IntRange(type="int", low=3, high=3, log=True).draw(random.Random(4)) == 3


def test_a_range_cannot_be_changed() -> None:
    fixed = IntRange(type="int", low=0, high=1)
    with pytest.raises(ValidationError, match="frozen"):
        fixed.high = 2  # pyright: ignore[reportAttributeAccessIssue]


_DIMENSIONS = [
    FloatRange(type="float", low=-1.0, high=3.0),
    FloatRange(type="float", low=1e-4, high=1e-1, log=True),
    FloatRange(type="float", low=0.1, high=0.95, step=0.2),
    FloatRange(type="float", low=2.0, high=2.0),
    IntRange(type="int", low=3, high=20, step=4),
    IntRange(type="int", low=1, high=512, log=True),
    IntRange(type="int", low=7, high=7, log=True),
]


@pytest.mark.parametrize("dimension", [*_DIMENSIONS, Choice(type="categorical", choices=("a", 1, True))], ids=repr)
@given(place=st.floats(0, 1))
def test_every_place_of_a_range_is_a_value_of_it(dimension: Dimension, place: float) -> None:
    assert dimension.contains(dimension.at(place))
    if dimension.num_points is not None:
        points = [repr(dimension.point(index)) for index in range(dimension.num_points)]
        assert repr(dimension.at(place)) in points
        assert len(set(points)) == dimension.num_points


@pytest.mark.parametrize("dimension", _DIMENSIONS, ids=repr)
@given(seed=st.integers(0, 99))
def test_the_place_of_a_value_leads_back_to_it(dimension: FloatRange | IntRange, seed: int) -> None:
    value = dimension.draw(random.Random(seed))
    place = dimension.place(value)  # pyright: ignore[reportArgumentType]
    assert 0 <= place <= 1
    assert dimension.at(place) == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_places_in_even_distances_give_each_point_as_often() -> None:
    stepped = FloatRange(type="float", low=0.1, high=0.95, step=0.2)
    assert Counter(stepped.at((i + 0.5) / 500) for i in range(500)) == {
        0.1: 100,
        0.3: 100,
        0.5: 100,
        0.7: 100,
        0.9: 100,
    }


def test_a_grid_has_every_point_of_a_finite_space_once() -> None:
    space: Space = {
        "x": FloatRange(type="float", low=0.1, high=0.5, step=0.2),
        "n": IntRange(type="int", low=1, high=2),
        "kind": Choice(type="categorical", choices=("a", "b")),
    }
    assert grid_size(space) == 12
    points = [Grid(space).point(index) for index in range(12)]
    assert points[:3] == [
        {"x": 0.1, "n": 1, "kind": "a"},
        {"x": 0.1, "n": 1, "kind": "b"},
        {"x": 0.1, "n": 2, "kind": "a"},
    ]
    assert len({repr(point) for point in points}) == 12
    assert grid_size({**space, "free": FloatRange(type="float", low=0, high=1)}) is None
    assert grid_size({}) == 1
