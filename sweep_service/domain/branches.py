"""Spaces with conditions: which parameters a point has, and how many different points there are.

A parameter with ``when`` is *active* in a point where every parameter that it names is itself active and has one of the
given values; a point has values for its active parameters only. Parameters without ``when`` are always active.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from sweep_service.domain.space import Choice, Dimension, Scalar, Space, is_same

MAX_COUNTED = 1_000_000  # points of a space with conditions, which have to be counted branch by branch


def is_active(dimension: Dimension, point: Mapping[str, Any]) -> bool:
    """Whether what the point has lets that parameter be active; its parents must be in the point where they are."""
    return _holds(dimension.when, point)


def parents_first(space: Space) -> Sequence[str]:
    """The names in an order in which each one comes after those that it depends on, and in the space's own wherever
    that allows it. One that depends on itself, or on what is not in the space, is left out.
    """
    if not any(dimension.when for dimension in space.values()):
        return list(space)
    placed: dict[str, None] = {}
    while True:
        ready = [name for name, d in space.items() if name not in placed and d.when.keys() <= placed.keys()]
        if not ready:
            return list(placed)
        placed |= dict.fromkeys(ready)


def active_part(space: Space, values: Mapping[str, Any]) -> dict[str, Any]:
    """The point that is left of values for more parameters than are active."""
    point: dict[str, Any] = {}
    for name in parents_first(space):
        if name in values and is_active(space[name], point):
            point[name] = values[name]
    return {name: point[name] for name in space if name in point}


def within(space: Space, fixed: Mapping[str, Scalar]) -> Space:
    """What is still to be searched where those parameters have those values."""
    left: dict[str, Dimension] = {}
    for name in parents_first(space):
        dimension = space[name]
        decided = {parent: values for parent, values in dimension.when.items() if parent in fixed}
        when = {parent: values for parent, values in dimension.when.items() if parent not in fixed}
        if name not in fixed and _holds(decided, fixed) and when.keys() <= left.keys():
            left[name] = dimension.model_copy(update={"when": when}) if decided else dimension
    return {name: left[name] for name in space if name in left}


def draw_uniform(space: Space, *, seed: int) -> dict[str, Scalar]:
    """One configuration drawn uniformly from the space; the same seed gives the same one."""
    generator = random.Random(seed)
    return active_part(space, {name: dimension.draw(generator) for name, dimension in space.items()})


def grid_size(space: Space) -> int | None:
    """How many points the space has; None: endlessly many. With conditions they are counted to MAX_COUNTED only."""
    if any(dimension.num_points is None for dimension in space.values()):
        return None
    counted = 0
    for branch in branches(space):
        counted += _num_points(space, branch)
        if counted > MAX_COUNTED and branch:
            break
    return counted


class Grid:
    """The points of a finite space, each once. The last name's values follow each other."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._branches = list(branches(space))
        self._ends = list(accumulate(_num_points(space, branch) for branch in self._branches))

    @property
    def size(self) -> int:
        return self._ends[-1]

    def point(self, index: int) -> dict[str, Scalar]:
        """The point of that index, from 0 on."""
        place = bisect_right(self._ends, index)
        branch = self._branches[place]
        index -= self._ends[place - 1] if place else 0
        point: dict[str, Scalar] = dict(branch)
        for name in reversed(free(self._space, branch)):
            dimension = self._space[name]
            index, here = divmod(index, dimension.num_points or 1)
            point[name] = dimension.point(here)
        return {name: point[name] for name in self._space if name in point}


def branches(space: Space) -> Iterator[Mapping[str, Scalar]]:
    """Every combination of values that decides what else is active: of those parameters that others depend on, as far
    as they are active themselves.
    """
    parents = {parent for dimension in space.values() for parent in dimension.when}
    deciding = [name for name in parents_first(space) if name in parents]
    return _continued(space, deciding, {})


def _continued(space: Space, deciding: Sequence[str], chosen: Mapping[str, Scalar]) -> Iterator[Mapping[str, Scalar]]:
    if not deciding:
        yield chosen
        return
    name, rest = deciding[0], deciding[1:]
    dimension = space[name]
    if not is_active(dimension, chosen):
        yield from _continued(space, rest, chosen)
        return
    assert isinstance(dimension, Choice), name
    for value in dimension.choices:
        yield from _continued(space, rest, {**chosen, name: value})


def free(space: Space, branch: Mapping[str, Scalar]) -> Sequence[str]:
    """The parameters that are active in that branch and not decided by it."""
    parents = {parent for dimension in space.values() for parent in dimension.when}
    return [name for name in parents_first(space) if name not in parents and is_active(space[name], branch)]


def _holds(when: Mapping[str, Sequence[Scalar]], point: Mapping[str, Any]) -> bool:
    return all(
        parent in point and any(is_same(point[parent], value) for value in values) for parent, values in when.items()
    )


def _num_points(space: Space, branch: Mapping[str, Scalar]) -> int:
    return math.prod(space[name].num_points or 1 for name in free(space, branch))
