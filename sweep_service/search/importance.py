"""Which of the searched parameters the objective depends on, by Optuna."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from sweep_service.domain.spec import BALANCER
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Role, Sweep, Trial
from sweep_service.search.optuna_search import distribution

MIN_TRIALS = 10  # with eight, every sixth time the wrong one of two parameters came first (tried)
MAX_TRIALS = 200  # of 500 trials the forest takes 13 s (tried), of so many a good one
_NUM_TREES = 32
_SEED = 0


def parameter_importance(sweep: Sweep, trials: Sequence[Trial]) -> Mapping[str, float] | None:
    """The share of the objective's variance over the space that each searched parameter explains, by itself and
    together with others; the shares add up to 1, the largest is first. None: too few completed search trials, or
    results that are all the same. The same trials give the same shares.

    By fANOVA. PED-ANOVA, Optuna's default, needs no forest and is quicker, but it was wrong in four of six searches of
    16 random trials of which fANOVA was right in all (tried). It knows only parameters that all trials have.
    """
    optuna.logging.set_verbosity(logging.WARNING)
    known = [
        trial
        for trial in sorted(trials, key=lambda trial: trial.number)
        if trial.role is Role.SEARCH and trial.state is TrialState.COMPLETED and math.isfinite(trial.objective or 0.0)
    ]
    if len(known) < MIN_TRIALS or len({trial.objective for trial in known}) < 2:
        return None
    stride = -(-len(known) // MAX_TRIALS)
    distributions = {name: distribution(dimension) for name, dimension in sweep.spec.space.items()}
    study = optuna.create_study(direction=sweep.spec.objective.direction)
    for trial in known[::stride]:
        # Where each balancer has a search of its own none of them drew it; it makes a difference all the same.
        point = {**({BALANCER: trial.balancer} if BALANCER in distributions else {}), **trial.searched}
        own = {name: distributions[name] for name in point}
        study.add_trial(create_trial(value=trial.objective, params=point, distributions=own))
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(n_trees=_NUM_TREES, seed=_SEED))
    return {name: float(share) for name, share in shares.items()} or None
