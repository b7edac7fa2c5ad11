"""The samplers of Optuna that are used, as this service needs them: pure functions of the trials and of a seed.

What a sampler of Optuna keeps beside the trials is lost with the process that kept it, and the trials that end late
then make another history of it; here there is nothing to lose.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.samplers.nsgaii import BLXAlphaCrossover
from optuna.study import Study, StudyDirection, create_study
from optuna.trial import FrozenTrial, create_trial
from optuna.trial import TrialState as OptunaState

from sweep_service.domain.adoption import ADOPTED
from sweep_service.domain.branches import active_part
from sweep_service.domain.packing import num_startup
from sweep_service.domain.space import Space

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ExperimentalWarning)
    _CROSSOVER = BLXAlphaCrossover()


def _tpe(seed: int, budget: int, space: Space) -> BaseSampler:
    # constant_liar: trials that still run count as bad, so that packs in parallel do not crowd on one point.
    return TPESampler(seed=seed, n_startup_trials=num_startup(budget), constant_liar=True)


def _random(seed: int, budget: int, space: Space) -> BaseSampler:
    return RandomSampler(seed=seed)


def _gp(seed: int, budget: int, space: Space) -> BaseSampler:
    return _Gp(seed=seed, num_random=num_startup(budget))


def _nsga2(seed: int, budget: int, space: Space) -> BaseSampler:
    # A population of fifty, Optuna's, is the whole of a small sweep: eight generations learn more. Children lie between
    # and about their parents: Optuna's, which take each value from one of them, and one of two values by chance, were
    # no better after 120 trials of two parameters than random points (tried).
    return _Nsga2(space, seed=seed, population_size=min(50, max(4, budget // 8)))


OPTUNA_SAMPLERS: Mapping[str, Callable[[int, int, Space], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "gp": _gp,
    "nsga2": _nsga2,
}
"""By name: (seed of one ask, trials in all, space) -> the sampler for it."""

BREEDERS = frozenset({"nsga2"})
"""Samplers that make points of points: they need values for all parameters, active or not."""


class _Gp(GPSampler):
    """A Gaussian process that keeps away from what ended without a result. Optuna's overlooks such trials, those that
    were stopped early too, and asks for the same point again; trials that still run it knows.
    """

    def __init__(self, *, seed: int, num_random: int) -> None:
        super().__init__(seed=seed, n_startup_trials=num_random)
        self._num_random = num_random

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """By a copy of the study in which the trials without a result have the worst of the results."""
        trials = study.get_trials(deepcopy=False)
        results = [trial.values for trial in trials if trial.state is OptunaState.COMPLETE]
        if len(results) < self._num_random:
            return {}
        by_objective = zip(study.directions, zip(*results, strict=True), strict=True)
        worst = [max(values) if way is StudyDirection.MINIMIZE else min(values) for way, values in by_objective]
        copy = create_study(directions=study.directions)
        copy.add_trials([_with_values(one, worst) for one in trials])
        return super().sample_relative(copy, trial, search_space)


def _with_values(trial: FrozenTrial, worst: Sequence[float]) -> FrozenTrial:
    """Without its attributes, which the model does not read and which would be copied."""
    is_running = trial.state is OptunaState.RUNNING
    values = None if is_running else trial.values if trial.state is OptunaState.COMPLETE else worst
    state = OptunaState.RUNNING if is_running else OptunaState.COMPLETE
    return create_trial(state=state, values=values, params=trial.params, distributions=trial.distributions)


class _Nsga2(NSGAIISampler):
    """NSGA-II with nothing kept beside the trials, and without points that have been tried."""

    def __init__(self, space: Space, *, seed: int, population_size: int) -> None:
        super().__init__(seed=seed, population_size=population_size, crossover=_CROSSOVER, mutation_prob=0.1)
        self._space = space

    def get_parent_population(self, study: Study, generation: int) -> list[FrozenTrial]:
        """The best of all generations before: what keeping the best of each and of its parents comes to. Optuna keeps
        the list as it was when the generation began; one of a rebuilt study knows the trials that ended since. What has
        been adopted was before the first generation.

        By several objectives the best are Optuna's: by ranks of domination, and of one rank those that stand apart.
        """
        trials = study.get_trials(deepcopy=False, states=[OptunaState.COMPLETE])
        key = self._get_generation_key()
        past = [t for t in trials if ADOPTED in t.system_attrs or t.system_attrs.get(key, generation) < generation]
        if len(study.directions) > 1:
            best = list(self._elite_population_selection_strategy(study, past))
            return best if len(best) > 1 else []  # of one alone nothing is bred
        sign = 1 if study.direction is StudyDirection.MINIMIZE else -1
        best = sorted(past, key=lambda trial: (sign * (trial.value or 0.0), trial.number))[: self.population_size]
        return best if len(best) > 1 else []  # of one alone nothing is bred

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A child that is its parent again would give its result again: one of its values is left to chance, a real
        number's where there is one.
        """
        child = super().sample_relative(study, trial, search_space)
        seen = self._seen(child)
        if seen and any(other.params.items() >= seen.items() for other in study.get_trials(deepcopy=False)):
            real = [name for name in seen if isinstance(d := search_space[name], FloatDistribution) and d.step is None]
            names = sorted(real or seen)
            child.pop(names[self._rng.rng.randint(len(names))], None)
        return child

    def _seen(self, child: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of it that a trial would have: what is not active makes no difference to its result."""
        unknown = [parent for dimension in self._space.values() for parent in dimension.when if parent not in child]
        return child if unknown else active_part(self._space, child)


class Fixed(BaseSampler):
    """Gives the values that it was made with, and what another sampler chooses for the rest."""

    def __init__(self, values: Mapping[str, Any], rest: BaseSampler) -> None:
        self._values = values
        self._rest = rest

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        space = self._rest.infer_relative_search_space(study, trial)
        return {name: distribution for name, distribution in space.items() if name not in self._values}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._rest.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if param_name in self._values:
            return self._values[param_name]
        return self._rest.sample_independent(study, trial, param_name, param_distribution)
