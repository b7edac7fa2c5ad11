"""What a sweep can learn of an earlier one: its trials, where they could be trials of the new sweep.

Each line learns of the same line of the earlier sweep, so that neither the search nor a baseline has a start that the
others have not. What is adopted is copied; the earlier sweep may go on, or be deleted.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweep_service.domain.branches import active_part
from sweep_service.domain.lines import Line, all_defaults, fixed_params, lines_of, reads
from sweep_service.domain.pruning import cost
from sweep_service.domain.space import Choice, fitted, value_misfit
from sweep_service.domain.spec import BALANCER, Objective, SweepSpec
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import AdoptedTrial, Role, Sweep, Trial
from trainables.catalog import Trainable

LEARNERS = frozenset({"tpe", "gp", "cmaes", "nsga2"})
"""Samplers that have a use for what other trials have shown."""

ADOPTED = "adopted"
"""Mark, in Trial.search_state, of what a sampler is given for a trial and is an adopted one."""

MAX_ADOPTED = 500  # of a line
_MAX_OF_SAMPLER: Mapping[str, int] = {"gp": 200}  # whose time grows with the cube of it
_MAX_SHOWN = 60  # characters of a value
_MAX_REASONS = 5  # told of a line; the rest are counted

_WITH_RESULT = frozenset({TrialState.COMPLETED, TrialState.EARLY_STOPPED})

# Whatever they are, a trial ends with the same result, or with one of as much worth.
_OF_NO_ACCOUNT = frozenset({"seed", "report_every", "checkpoint_every"})


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Why trials could not be adopted, and how many."""

    reason: str
    trials: int


@dataclass(frozen=True, kw_only=True)
class LineAdoption:
    """What one line adopts."""

    line: Line
    considered: int  # trials of that line that have a result, or were stopped early
    adopted: tuple[AdoptedTrial, ...]
    left_out: tuple[LeftOut, ...]  # most frequent first


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What a sweep adopts of another."""

    sweep_id: str  # the earlier one's
    lines: tuple[LineAdoption, ...]  # those of the search, then the baselines; none that searches nothing
    strays: int  # search trials with a result that are of no line here: their balancer is none of the choices

    @property
    def search(self) -> tuple[LineAdoption, ...]:
        return tuple(one for one in self.lines if one.line.role is Role.SEARCH)

    @property
    def adopted(self) -> tuple[AdoptedTrial, ...]:
        return tuple(trial for line in self.lines for trial in line.adopted)

    @property
    def summary(self) -> str:
        """For people."""
        parts = [_told(one, "search" if one.line.is_whole_search else str(one.line.balancer)) for one in self.lines]
        if self.strays:
            parts.append(f"Left out are {self.strays} search trials of other balancers.")
        return f"The samplers begin with trials of {self.sweep_id}. {' '.join(parts)}"


def adopt(spec: SweepSpec, trainable: Trainable, source: Sweep, trials: Sequence[Trial]) -> Adoption:
    """What the spec's sweep adopts of the source, whose trials these are, by number. The source has the same trainable
    and objective.
    """
    limit = _MAX_OF_SAMPLER.get(spec.search.sampler, MAX_ADOPTED)
    fixed = fixed_params(spec, trainable)
    fixed = {**all_defaults(trainable, fixed), **fixed}
    lines = lines_of(spec, trainable)
    return Adoption(
        sweep_id=source.id,
        lines=tuple(
            _adopt_line(line, spec.objective, trainable, fixed, trials, limit)
            for line in lines
            if line.space  # one that searches nothing learns nothing
        ),
        strays=sum(
            trial.role is Role.SEARCH and trial.state in _WITH_RESULT and not any(line.holds(trial) for line in lines)
            for trial in trials
        ),
    )


def as_history(sweep: Sweep, line: Line) -> Sequence[Trial]:
    """What the line has adopted, as a sampler is told of trials: numbered below 0, for they are none of the sweep."""
    own = [trial for trial in sweep.adopted if line.holds(trial)]
    metric = sweep.spec.objective.metric
    return [
        Trial(
            id=trial.trial_id,
            sweep_id=sweep.id,
            number=number,
            role=trial.role,
            balancer=trial.balancer,
            params=trial.point,
            searched=trial.point,
            search_state={ADOPTED: True},
            seed=0,
            state=trial.state,
            objective=trial.value if trial.state is TrialState.COMPLETED else None,
            metrics={metric: trial.value},
            last_step=trial.last_step,
            created_at=sweep.created_at,
        )
        for number, trial in enumerate(own, start=-len(own))
    ]


def _adopt_line(
    line: Line,
    objective: Objective,
    trainable: Trainable,
    fixed: Mapping[str, Any],
    trials: Sequence[Trial],
    limit: int,
) -> LineAdoption:
    considered = [trial for trial in trials if line.holds(trial) and trial.state in _WITH_RESULT]
    found: list[AdoptedTrial] = []
    reasons: Counter[str] = Counter()
    for trial in considered:
        value = trial.objective if trial.objective is not None else trial.metrics.get(objective.metric, math.nan)
        values = {**all_defaults(trainable, fixed), **trial.params}
        point = active_part(line.space, values)
        reason = _misfit(line, trainable, fixed, trial.balancer, values, point)
        if reason is None and not math.isfinite(value):
            reason = "it was stopped before it had a value of the objective"
        if reason is not None:
            reasons[reason] += 1
            continue
        found.append(
            AdoptedTrial(
                trial_id=trial.id,
                role=trial.role,
                balancer=trial.balancer,
                point={name: fitted(line.space[name], point[name]) for name in point},
                state=trial.state,
                value=value,
                last_step=trial.last_step,
            )
        )
    kept = _bounded(found, objective, limit)
    if len(kept) < len(found):
        reasons[f"a line adopts {limit} at most: the best, and of the others the last"] += len(found) - len(kept)
    left_out = tuple(LeftOut(reason=reason, trials=number) for reason, number in reasons.most_common())
    return LineAdoption(line=line, considered=len(considered), adopted=tuple(kept), left_out=left_out)


def _misfit(
    line: Line,
    trainable: Trainable,
    fixed: Mapping[str, Any],
    balancer: str,
    values: Mapping[str, Any],
    point: Mapping[str, Any],
) -> str | None:
    """Why a trial with those values could be none of the line; None: it could."""
    for parameter in trainable.parameters_for(fixed):
        name = parameter.name
        was, here = values.get(name), fixed.get(name)
        if name in point:
            if value_misfit(line.space[name], was):
                return f"params.{name} was {_shown(was)}{_where(line, name, was)}"
        elif name == BALANCER:
            if line.balancer not in (None, balancer):
                return f"params.{name} was {_shown(balancer)}, here {_shown(line.balancer)}"
        elif was != here and name not in _OF_NO_ACCOUNT and reads(trainable, balancer, name):
            return f"params.{name} was {_shown(was)}, here {_shown(here)}"
    return None


def _where(line: Line, name: str, was: Any) -> str:
    dimension = line.space[name]
    if isinstance(dimension, Choice):
        return ", none of the choices here"
    if dimension.contains(was):
        return ", between the steps here"
    return f", here it is searched from {dimension.low:g} to {dimension.high:g}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _bounded(found: Sequence[AdoptedTrial], objective: Objective, limit: int) -> Sequence[AdoptedTrial]:
    """The better half of the limit by rank, the rest by age: of the best alone nobody learns what is bad."""
    if len(found) <= limit:
        return found
    places = range(len(found))
    ranked = sorted(places, key=lambda i: (found[i].state is not TrialState.COMPLETED, cost(found[i].value, objective)))
    best = set(ranked[: limit // 2])
    last = [place for place in places if place not in best][-(limit - len(best)) :]
    return [found[place] for place in sorted({*best, *last})]


def _told(one: LineAdoption, name: str) -> str:
    left = len(one.left_out)
    shown = [f"{each.trials}: {each.reason}" for each in one.left_out[:_MAX_REASONS]]
    if left > _MAX_REASONS:
        rest = sum(each.trials for each in one.left_out[_MAX_REASONS:])
        shown.append(f"{rest}: for {left - _MAX_REASONS} other reasons")
    reasons = f"; left out: {'; '.join(shown)}" if shown else ""
    return f"{name}: {len(one.adopted)} of {one.considered}{reasons}."
