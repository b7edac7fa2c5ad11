"""The lines of a sweep: the search is one, or one for each balancer; each baseline is one. What each has fixed, and
what it searches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep_service.domain.branches import within
from sweep_service.domain.shares import baseline_quota, search_quotas
from sweep_service.domain.space import Space
from sweep_service.domain.spec import BALANCER, SweepSpec
from sweep_service.domain.trial import AdoptedTrial, Role, Trial
from trainables.catalog import Trainable


@dataclass(frozen=True, kw_only=True)
class Line:
    """One sampler's trials."""

    role: Role
    balancer: str | None  # None: each trial's own is drawn
    space: Space
    quota: int  # trials that it gets, unless the sweep ends earlier
    is_whole_search: bool = False  # all trials of the search are its own, whatever balancer they have

    def holds(self, trial: Trial | AdoptedTrial) -> bool:
        """Whether it is a trial of this line."""
        return trial.role is self.role and (self.is_whole_search or trial.balancer == self.balancer)


def lines_of(spec: SweepSpec, trainable: Trainable) -> Sequence[Line]:
    """The search, or one line of it for each balancer in the order of the choices; then the baselines in the spec's."""
    baselines = [(name, _space_of(name, spec, trainable)) for name in spec.baselines]
    return [
        *_search_lines(spec, trainable),
        *(
            Line(role=Role.BASELINE, balancer=name, space=space, quota=baseline_quota(spec, space))
            for name, space in baselines
        ),
    ]


def _search_lines(spec: SweepSpec, trainable: Trainable) -> Sequence[Line]:
    quotas = search_quotas(spec)
    if spec.methods:
        return [
            Line(role=Role.SEARCH, balancer=name, space=_space_of(name, spec, trainable), quota=quotas[name])
            for name in spec.methods
        ]
    balancer = None if BALANCER in spec.space else str(fixed_params(spec, trainable)[BALANCER])
    space = _space_of(balancer, spec, trainable)
    return [Line(role=Role.SEARCH, balancer=balancer, space=space, quota=quotas[None], is_whole_search=True)]


def fixed_params(spec: SweepSpec, trainable: Trainable) -> dict[str, Any]:
    """What every trial has where it is not searched, or not active: the spec's values, else the defaults."""
    return {**trainable.defaults(), "seed": spec.search.seed, **spec.params}


def all_defaults(trainable: Trainable, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial with those parameters has where they say nothing, its tasks' own ones included: those are left out
    of a trial that was not given them.
    """
    return {p.name: p.default for p in trainable.parameters_for(params) if p.default is not None}


def reads(trainable: Trainable, balancer: str, name: str) -> bool:
    """Whether the parameter exists and makes a difference to a trial with that balancer."""
    parameter = trainable.parameter(name)
    return parameter is not None and (parameter.used_by is None or balancer in parameter.used_by)


def _space_of(balancer: str | None, spec: SweepSpec, trainable: Trainable) -> Space:
    if balancer is None:
        return spec.space
    read: Mapping[str, Any] = {name: d for name, d in spec.space.items() if reads(trainable, balancer, name)}
    return within(read, {BALANCER: balancer})
