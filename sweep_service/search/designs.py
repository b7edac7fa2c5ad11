"""Samplers of our own, beside Optuna's: grid, qmc and cmaes. Each is a pure function of the trials and of seeds.

Optuna's grid raises from ``tell`` when it is exhausted; its quasi-random sequence counts its points in the study, and
its CMA-ES keeps its distribution pickled in the trials: neither may be what a sweep is recovered from.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cmaes
import numpy as np
from scipy.stats import qmc

from sweep_service.domain.adoption import ADOPTED
from sweep_service.domain.branches import Grid, grid_size
from sweep_service.domain.pruning import cost
from sweep_service.domain.space import Choice, FloatRange, IntRange, Space
from sweep_service.domain.spec import Objective
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Trial
from sweep_service.ports import Draw

GIVEN = "given"  # mark of a trial of which the user has given values
_GENERATION = "cmaes:generation"
_FEWEST_BEST = 3  # adopted trials that a distribution is made of, if there are as many


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A trial of the search, as far as a design looks at it."""

    point: Mapping[str, Any]
    marks: Mapping[str, Any]  # what its draw left in Trial.search_state
    state: TrialState = TrialState.PENDING
    last_step: int = 0
    cost: float = math.inf  # of the objective, where it has one, else of its last value

    @classmethod
    def of(cls, trial: Trial, objective: Objective) -> Tried:
        value = trial.objective if trial.state is TrialState.COMPLETED else trial.metrics.get(objective.metric)
        return cls(
            point=trial.searched,
            marks=trial.search_state,
            state=trial.state,
            last_step=trial.last_step,
            cost=cost(value, objective),
        )


class Design(Protocol):
    """Chooses whole points by itself."""

    def draw(self, seed: int, trials: Sequence[Tried], given: Mapping[str, Any]) -> Draw:
        """The next point after those of the trials, which are by number; ``seed`` is this ask's own. Its values for the
        parameters that are given are not used.
        """
        ...


class GridDesign:
    """Every point of a finite space once, in an order shuffled by the sweep's seed: what a budget that is smaller than
    the grid tries is then spread over all of it.
    """

    def __init__(self, *, space: Space, seed: int) -> None:
        if grid_size(space) is None:
            raise ValueError("a grid needs a space of finitely many points")
        self._grid = Grid(space)
        self._order = random.Random(seed).sample(range(self._grid.size), self._grid.size)

    def draw(self, seed: int, trials: Sequence[Tried], given: Mapping[str, Any]) -> Draw:
        # The point of a cancelled trial has not been tried.
        tried = {_key(trial.point) for trial in trials if trial.state is not TrialState.CANCELLED}
        wanted = set(_key(given))
        tried_again: Mapping[str, Any] | None = None
        for index in self._order:
            point = self._grid.point(index)
            if wanted <= set(_key(point)):
                if _key(point) not in tried:
                    return Draw(params=point)
                tried_again = tried_again or point
        # Exhausted only where somebody asks on all the same, or for given values again: then from the start.
        return Draw(params=tried_again or self._grid.point(self._order[0]))


class QmcDesign:
    """Scrambled Sobol points: spread more evenly than random ones, at any number of them."""

    def __init__(self, *, space: Space, seed: int) -> None:
        self._space = space
        self._seed = seed

    def draw(self, seed: int, trials: Sequence[Tried], given: Mapping[str, Any]) -> Draw:
        sequence = qmc.Sobol(len(self._space), scramble=True, rng=self._seed)
        num_drawn = sum(GIVEN not in trial.marks for trial in trials)
        if num_drawn:  # scipy cannot go forward by nothing
            sequence.fast_forward(num_drawn)
        places = zip(self._space.items(), sequence.random(1)[0], strict=True)
        return Draw(params={name: dimension.at(float(place)) for (name, dimension), place in places})


class CmaesDesign:
    """CMA-ES on the ranges of the space; choices, which it knows nothing of, are drawn at random.

    The first distribution is about the best of what has been adopted (as by Nomura et al., AAAI 2021), else about the
    first point that the user gave.

    A trial carries the generation that it was drawn for. The distribution is made anew for each draw, by telling the
    generations from the first one on; each is of the first trials, by number, that have a result. Of these the
    early-stopped ones rank behind the completed, and the infeasible last.
    """

    def __init__(self, *, space: Space, seed: int) -> None:
        self._space = space
        self._ranges = {name: d for name, d in space.items() if isinstance(d, FloatRange | IntRange)}

    def draw(self, seed: int, trials: Sequence[Tried], given: Mapping[str, Any]) -> Draw:
        generator = random.Random(seed)
        chosen = {name: d.draw(generator) for name, d in self._space.items() if isinstance(d, Choice)}
        if not self._ranges:
            return Draw(params=chosen)
        optimiser = cmaes.CMA(
            **self._start(trials),
            bounds=np.array([[0.0, 1.0]] * len(self._ranges)),
            seed=seed,
            n_max_resampling=10 * len(self._ranges),
        )
        by_generation: dict[int, list[Tried]] = defaultdict(list)
        for trial in trials:
            if _GENERATION in trial.marks and trial.state in _RANKS:
                by_generation[trial.marks[_GENERATION]].append(trial)
        while (
            len(told := by_generation[optimiser.generation][: optimiser.population_size]) == optimiser.population_size
        ):
            told.sort(key=_rank)
            optimiser.tell([(self._places(trial.point), float(rank)) for rank, trial in enumerate(told)])
        places = zip(self._ranges.items(), optimiser.ask(), strict=True)
        found = {name: dimension.at(float(place)) for (name, dimension), place in places}
        return Draw(params={**chosen, **found}, state={_GENERATION: optimiser.generation})

    def _start(self, trials: Sequence[Tried]) -> Mapping[str, Any]:
        """Mean, deviation and perhaps covariance: of the best tenth of the adopted trials; about the first point that
        the user gave; about the middle of every range.
        """
        ranked = sorted((trial for trial in trials if ADOPTED in trial.marks), key=_rank)
        if ranked:
            best = ranked[: max(_FEWEST_BEST, len(ranked) // 10)]
            mean, sigma, cov = cmaes.get_warm_start_mgd([(self._places(t.point), 0.0) for t in best], gamma=1.0)
            return {"mean": mean, "sigma": sigma, "cov": cov}
        first = next((trial.point for trial in trials if GIVEN in trial.marks), None)
        mean = np.full(len(self._ranges), 0.5) if first is None else self._places(first)
        return {"mean": mean, "sigma": 1 / 6}  # of a range: three deviations to each side, as in Optuna

    def _places(self, point: Mapping[str, Any]) -> np.ndarray:
        return np.array([dimension.place(point[name]) for name, dimension in self._ranges.items()])


_RANKS: Mapping[TrialState, int] = {TrialState.COMPLETED: 0, TrialState.EARLY_STOPPED: 1, TrialState.INFEASIBLE: 2}


def _rank(trial: Tried) -> tuple[int, int, float]:
    """Best first. Of the early-stopped ones those that came further, as the pruner has compared them there."""
    came = trial.last_step if trial.state is TrialState.EARLY_STOPPED else 0
    return _RANKS[trial.state], -came, trial.cost


DESIGNS: Mapping[str, type[GridDesign] | type[QmcDesign] | type[CmaesDesign]] = {
    "grid": GridDesign,
    "qmc": QmcDesign,
    "cmaes": CmaesDesign,
}


def _key(point: Mapping[str, Any]) -> tuple[tuple[str, str, Any], ...]:
    """1 and true are two points; 1 and 1.0 of a range of real numbers are one."""
    return tuple((name, "" if type(v) in (int, float) else type(v).__name__, v) for name, v in sorted(point.items()))
