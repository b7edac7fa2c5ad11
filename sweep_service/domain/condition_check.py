"""What is wrong with the conditions of a space, and the conditions that its author need not write."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sweep_service.domain.errors import Finding
from sweep_service.domain.space import Choice, Dimension, Scalar, Space
from sweep_service.domain.spec import BALANCER
from sweep_service.domain.spec_shape import json_pointer, suggest
from trainables.catalog import Trainable

SINGLE_TASK = "single_task"


def with_implied_conditions(space: Space, trainable: Trainable) -> dict[str, Dimension]:
    """The space, with a condition on the balancer, where it is searched, for what not all of its choices read: nobody
    wants a value drawn that changes nothing.
    """
    balancer = space.get(BALANCER)
    choices = balancer.choices if isinstance(balancer, Choice) else ()
    filled: dict[str, Dimension] = {}
    for name, dimension in space.items():
        readers = _readers(trainable, name, choices)
        is_needed = 0 < len(readers) < len(choices) and BALANCER not in dimension.when
        when = {**dimension.when, BALANCER: tuple(readers)}
        filled[name] = dimension.model_copy(update={"when": when}) if is_needed else dimension
    return filled


def condition_findings(
    space: Space, *, is_searched: Callable[[str], bool], is_fixed: Callable[[str], bool]
) -> Iterator[Finding]:
    """``space`` holds the ranges whose shape is right; ``is_searched`` knows of the others too."""
    for name, dimension in space.items():
        for parent, values in dimension.when.items():
            pointer = json_pointer(("space", name, "when", parent))
            if is_fixed(parent) and not is_searched(parent):
                detail = f"{parent!r} is fixed in params: the condition is always true or never. Search it, or drop it."
                yield Finding(pointer=pointer, code="not_searched", detail=detail)
            elif not is_searched(parent):
                detail = f"{parent!r} is not searched.{suggest(parent, (n for n in space if n != name))}"
                yield Finding(pointer=pointer, code="not_searched", detail=detail)
            elif parent in space:
                yield from _parent_findings(pointer, parent, space[parent], values)
        if name in _ancestors(space, name):
            detail = f"{name!r} depends on itself, be it by way of others; drop one of the conditions."
            yield Finding(pointer=json_pointer(("space", name, "when")), code="circular", detail=detail)


def balancer_findings(space: Space, trainable: Trainable) -> Iterator[Finding]:
    """What the catalogue says to a searched balancer, and to conditions on it."""
    balancer = space.get(BALANCER)
    if not isinstance(balancer, Choice):
        return
    if balancer.when:
        detail = "Every trial has a balancer; it can depend on nothing. Drop the condition."
        yield Finding(pointer=json_pointer(("space", BALANCER, "when")), code="not_conditional", detail=detail)
    if SINGLE_TASK in balancer.choices:
        detail = (
            f"{SINGLE_TASK!r} trains one network a task: that is what balancers of one network are measured by, and "
            "costs as many times as much. List it in baselines."
        )
        place = balancer.choices.index(SINGLE_TASK)
        yield Finding(pointer=json_pointer(("space", BALANCER, "choices", place)), code="not_a_choice", detail=detail)
    for name, dimension in space.items():
        named = [value for value in dimension.when.get(BALANCER, ()) if balancer.contains(value)]
        readers = _readers(trainable, name, named)
        unread = [value for value in named if value not in readers]
        if unread:
            detail = f"The balancer {unread[0]!r} does not read {name!r}: searching it changes nothing. Remove it."
            pointer = json_pointer(("space", name, "when", BALANCER))
            yield Finding(pointer=pointer, code="unused_parameter", detail=detail)


def _parent_findings(pointer: str, parent: str, dimension: Dimension, values: Sequence[Scalar]) -> Iterator[Finding]:
    if not isinstance(dimension, Choice):
        detail = (
            f"{parent!r} is a range; a condition needs a parameter of type categorical, which may list numbers too."
        )
        yield Finding(pointer=pointer, code="not_categorical", detail=detail)
        return
    unknown = [value for value in values if not dimension.contains(value)]
    if unknown:
        known = ", ".join(repr(choice) for choice in dimension.choices[:20])
        detail = f"{unknown[0]!r} is none of the choices of {parent!r}: {known}."
        yield Finding(pointer=pointer, code="invalid_value", detail=detail)


def _ancestors(space: Space, name: str) -> set[str]:
    """What the parameter depends on, directly or not; itself if it goes round in a circle."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        dimension = space.get(waiting.pop())
        new = set(dimension.when) - found if dimension is not None else set()
        found |= new
        waiting += new
    return found


def _readers(trainable: Trainable, name: str, balancers: Sequence[Scalar]) -> Sequence[Scalar]:
    """Those of the balancers that read the parameter."""
    parameter = trainable.parameter(name)
    if parameter is None or parameter.used_by is None:
        return balancers
    return [balancer for balancer in balancers if balancer in parameter.used_by]
