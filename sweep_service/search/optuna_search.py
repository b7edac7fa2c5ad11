"""Search by Optuna: our space as its distributions, its samplers by name, ask and tell.

The study lives in memory and is rebuilt from the stored trials; Optuna's own storage is not used. Each ask gets a
sampler of its own, seeded from (sweep seed, trial number): a rebuilt study then draws what the lost one would have
drawn, and never the points it has drawn before, which one generator restarted from the sweep's seed does.
"""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from sweep_service.domain.adoption import ADOPTED
from sweep_service.domain.branches import active_part, is_active, parents_first
from sweep_service.domain.front import values_of
from sweep_service.domain.space import Choice, Dimension, FloatRange, Space
from sweep_service.domain.spec import Objective
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Trial
from sweep_service.ports import Draw
from sweep_service.search.designs import DESIGNS, GIVEN, Tried
from sweep_service.search.samplers import BREEDERS, OPTUNA_SAMPLERS, Fixed

_SILENT = "silent:"  # mark, in Trial.search_state, of a value that a breeder carries on though it is not active

_OPTUNA_STATES: Mapping[TrialState, OptunaState] = {
    TrialState.PENDING: OptunaState.RUNNING,
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.RESTING: OptunaState.RUNNING,
    TrialState.COMPLETED: OptunaState.COMPLETE,
    TrialState.EARLY_STOPPED: OptunaState.PRUNED,
    TrialState.INFEASIBLE: OptunaState.FAIL,
    TrialState.FAILED: OptunaState.FAIL,
    TrialState.CANCELLED: OptunaState.FAIL,
}


class OptunaSearch:
    """One study over one space. Implements :class:`sweep_service.ports.Search`.

    ``history`` holds the trials of this search made before, in any order and state; each is told as what it is, the
    ones that still run as pending. What has been adopted of another sweep is among them, with numbers below 0.
    ``budget`` is the number of trials that the search will be asked for in all. Where there are ``objectives``, these
    are what is driven, and ``objective`` is not looked at.
    """

    def __init__(
        self,
        *,
        space: Space,
        objective: Objective,
        objectives: Sequence[Objective] = (),
        sampler: str,
        seed: int,
        budget: int,
        history: Sequence[Trial] = (),
    ) -> None:
        optuna.logging.set_verbosity(logging.WARNING)
        self._space = space
        self._order = parents_first(space)
        self._distributions = {name: distribution(dimension) for name, dimension in space.items()}
        self._sampler = sampler
        self._tried: dict[int, Tried] = {}  # by our number
        design = DESIGNS.get(sampler)
        self._design = design(space=space, seed=seed) if design else None
        self._objective = objective
        self._objectives = objectives
        self._seed = seed
        self._budget = budget
        self._study = optuna.create_study(directions=[one.direction for one in objectives or (objective,)])
        self._optuna_numbers: dict[int, int] = {}  # our trial number -> the study's
        self._ended: set[int] = set()  # our numbers; kept here, because to ask the study copies every trial it has
        for trial in sorted(history, key=lambda trial: trial.number):
            self._tried[trial.number] = Tried.of(trial, objective)
            self._study.add_trial(self._frozen(trial))
            self._optuna_numbers[trial.number] = len(self._optuna_numbers)
            if _OPTUNA_STATES[trial.state].is_finished():
                self._ended.add(trial.number)

    def ask(self, number: int, given: Mapping[str, Any] | None = None) -> Draw:
        """Choose the parameters of the trial of that number; those that are given have the given values."""
        seed = derive_seed(self._seed, number)
        fixed = Draw(params=dict(given or {}), state={GIVEN: True} if given else {})
        rest = (
            RandomSampler(seed=seed)
            if self._design
            else OPTUNA_SAMPLERS[self._sampler](seed, self._budget, self._space)
        )
        if self._design is not None:
            own = self._design.draw(seed, list(self._tried.values()), fixed.params)
            # What was given is no draw of the design's distribution, nor of its sequence.
            whole = active_part(self._space, {**own.params, **fixed.params})
            fixed = Draw(params=whole, state=fixed.state or own.state)
        self._study.sampler = Fixed(fixed.params, rest) if fixed.params else rest
        asked = self._study.ask()
        params = self._choose(asked)
        self._optuna_numbers[number] = asked.number
        # ``study.trials`` would copy every trial in depth, at 5,000 of them for longer than TPE thinks. Of the one that
        # is read here the attributes are copied: a Draw shares nothing with the study.
        drawn = self._study.get_trials(deepcopy=False)[asked.number]
        silent = {_SILENT + name: value for name, value in asked.params.items() if name not in params}
        draw = Draw(params=params, state={**deepcopy(drawn.system_attrs), **fixed.state, **silent})
        self._tried[number] = Tried(point=draw.params, marks=draw.state)
        return draw

    def _choose(self, asked: optuna.Trial) -> dict[str, Any]:
        """The values of the active parameters. Breeders are asked for the others as well: they cross whole points, in
        which such values lie still, as some genes do.
        """
        params: dict[str, Any] = {}
        for name in self._order:
            active = is_active(self._space[name], params)
            if active or self._sampler in BREEDERS:
                value = _suggest(asked, name, self._space[name])
                params |= {name: value} if active else {}
        chosen = asked.params  # as the study keeps them: what was suggested may be of numpy's types
        return {name: chosen[name] for name in self._space if name in params}

    def tell(self, trial: Trial) -> None:
        """Take note of how a trial ended."""
        if trial.number in self._ended:
            return
        self._tried[trial.number] = Tried.of(trial, self._objective)
        state, number = self._state(trial), self._optuna_numbers[trial.number]
        values = self._values(trial)
        storage = self._study._storage  # a study has no door for values of a trial that its own ask did not hand out
        for step, seen in self._intermediate(trial).items():
            trial_id = storage.get_trial_id_from_study_id_trial_number(self._study._study_id, number)
            storage.set_trial_intermediate_value(trial_id, step, seen)
        self._study.tell(number, values, state=state)
        self._ended.add(trial.number)

    def _values(self, trial: Trial) -> Sequence[float] | None:
        """What the study takes for its result; None: it has none."""
        if trial.state is not TrialState.COMPLETED or trial.objective is None:
            return None
        return values_of(trial, self._objectives) if self._objectives else [trial.objective]

    def _state(self, trial: Trial) -> OptunaState:
        """What the study takes it for. By several objectives only a trial that has them all has a result."""
        state = _OPTUNA_STATES[trial.state]
        is_without = self._objectives and state.is_finished() and self._values(trial) is None
        return OptunaState.FAIL if is_without else state

    def _intermediate(self, trial: Trial) -> Mapping[int, float]:
        """The last value of a trial that was stopped early, by its step. Samplers rank such trials by that alone: the
        further it came the better, of equally far ones the better value. An earlier value says nothing to them.
        """
        if self._state(trial) is not OptunaState.PRUNED or self._objective.metric not in trial.metrics:
            return {}
        return {trial.last_step: trial.metrics[self._objective.metric]}

    def _frozen(self, trial: Trial) -> FrozenTrial:
        state = self._state(trial)
        intermediate = self._intermediate(trial)
        last = [value for value in intermediate.values() if not math.isnan(value)]
        marks = dict(trial.search_state)
        silent = {key.removeprefix(_SILENT): marks.pop(key) for key in list(marks) if key.startswith(_SILENT)}
        if self._sampler in BREEDERS and ADOPTED in marks:
            # An earlier sweep's trial has no values for what is not active here; any would do.
            generator = random.Random(derive_seed(self._seed, trial.number))
            silent = {name: dimension.draw(generator) for name, dimension in self._space.items()}
        params = {**silent, **trial.searched}
        return create_trial(
            state=state,
            # Of one that was stopped early Optuna takes the last value for the trial's when it is told, but not here.
            values=self._values(trial) or last or None,
            intermediate_values=dict(intermediate),
            params=params,
            distributions={name: self._distributions[name] for name in params},
            system_attrs=marks,
        )


def derive_seed(seed: int, number: int) -> int:
    """A seed below 2³¹ for the ask of that number. Hashed, since neighbouring seeds give related streams."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _suggest(asked: optuna.Trial, name: str, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        return asked.suggest_categorical(name, dimension.choices)
    if isinstance(dimension, FloatRange):
        return asked.suggest_float(name, dimension.low, dimension.last, log=dimension.log, step=dimension.step)
    return asked.suggest_int(name, dimension.low, dimension.last, log=dimension.log, step=dimension.step)


def distribution(dimension: Dimension) -> BaseDistribution:
    """The dimension as Optuna has it."""
    if isinstance(dimension, Choice):
        return CategoricalDistribution(dimension.choices)
    if isinstance(dimension, FloatRange):
        return FloatDistribution(dimension.low, dimension.last, log=dimension.log, step=dimension.step)
    return IntDistribution(dimension.low, dimension.last, log=dimension.log, step=dimension.step)
