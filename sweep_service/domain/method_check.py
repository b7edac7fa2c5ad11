"""What is wrong with a search of each balancer by itself: with its budget, its sampler and its points to begin with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from sweep_service.domain.branches import within
from sweep_service.domain.errors import Finding
from sweep_service.domain.shares import method_quotas
from sweep_service.domain.sound_parts import SoundParts
from sweep_service.domain.space import Choice, Space
from sweep_service.domain.spec import BALANCER
from sweep_service.domain.spec_shape import json_pointer


def method_findings(parts: SoundParts, space: Space) -> Iterator[Finding]:
    """``space`` has the conditions that need not be written."""
    if parts.said("search", "balancers") is not None and not parts.is_searched(BALANCER):
        detail = "The balancer is not searched: list the ones to try in space, as a categorical, or remove this."
        yield Finding(pointer="/search/balancers", code="not_searched", detail=detail)
    if not parts.methods or parts.trials is None:
        return
    if parts.trials < len(parts.methods):
        detail = (
            f"There are {len(parts.methods)} balancers to try, and each needs a trial at least: allow "
            f"{len(parts.methods)} or more, or list fewer of them."
        )
        yield Finding(pointer="/budget/trials", code="too_few", detail=detail)
    elif len(parts.initial) <= parts.trials and parts.sampler is not None:
        quotas = method_quotas(space, parts.methods, trials=parts.trials, sampler=parts.sampler)
        yield from _initial_findings(parts, space, quotas)


def sampler_findings(parts: SoundParts, space: Space) -> Iterator[Finding]:
    """What the sampler cannot search, in the space of each line."""
    lines = [within(space, {BALANCER: method}) for method in parts.methods] or [space]
    if parts.sampler == "cmaes":
        for name in dict.fromkeys(name for line in lines for name, d in line.items() if isinstance(d, Choice)):
            detail = f"cmaes learns ranges only: fix {name!r} in params, or take the sampler tpe or gp."
            yield Finding(pointer=json_pointer(("space", name, "type")), code="not_for_sampler", detail=detail)
    conditional = next((name for line in lines for name, dimension in line.items() if dimension.when), None)
    if parts.sampler == "gp" and conditional is not None:
        detail = f"gp learns only what every trial has, and {conditional!r} has a condition. Take tpe or nsga2."
        yield Finding(pointer="/search/sampler", code="not_for_space", detail=detail)


def _initial_findings(parts: SoundParts, space: Space, quotas: Mapping[str, int]) -> Iterator[Finding]:
    for method, quota in quotas.items():
        own = within(space, {BALANCER: method})
        points: Sequence[object] = [
            point
            for point in parts.initial.values()
            if point.get(BALANCER, method) == method and not own.keys().isdisjoint(point)
        ]
        if len(points) > quota:
            detail = (
                f"{len(points)} of the points are for {method}, which gets {quota} of the trials: list fewer of them, "
                "or raise budget.trials."
            )
            yield Finding(pointer="/initial", code="too_many", detail=detail)
            return
