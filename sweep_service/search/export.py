"""A sweep's trials as Optuna's studies, in a file that Optuna's own tools open."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from sweep_service.domain.spec import Objective, SweepSpec
from sweep_service.domain.states import TrialState
from sweep_service.domain.trial import Role
from sweep_service.search.optuna_search import OPTUNA_STATES, distribution


def write_studies(
    path: Path,
    *,
    sweep: Mapping[str, Any],
    trials: Sequence[Mapping[str, Any]],
    curves: Mapping[str, Mapping[int, float | None]],
) -> Sequence[str]:
    """Write an SQLite file with a study for the search, or for each balancer that has a search of its own, and one for
    each baseline; their names.

    ``sweep`` and ``trials`` are as the API gives them. ``curves`` has the objective by step of each trial that has
    trained, None where it was no finite number. Trials that the comparison of seeds has made are no part of a study:
    nothing chose them.

    Raises:
        OSError: the file cannot be written.
    """
    spec = SweepSpec.trusted(sweep["spec"])
    objectives = spec.objectives or (spec.objective,)
    of_study: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for trial in sorted(trials, key=lambda trial: trial["role"] != Role.SEARCH):  # the search's study comes first
        if trial["role"] != Role.CONFIRM:
            of_study[_study_name(sweep, spec, trial)].append(trial)
    path.touch(exist_ok=False)
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        for name, members in of_study.items():
            study = optuna.create_study(
                storage=storage, study_name=name, directions=[objective.direction for objective in objectives]
            )
            study.set_user_attr("sweep_id", sweep["id"])
            study.set_user_attr("trainable", spec.trainable)
            study.set_user_attr("objectives", [objective.metric for objective in objectives])
            study.add_trials([_frozen(trial, spec, objectives, curves.get(trial["id"], {})) for trial in members])
        storage.remove_session()
        storage.engine.dispose()
    finally:
        optuna.logging.set_verbosity(level)
    return list(of_study)


def _study_name(sweep: Mapping[str, Any], spec: SweepSpec, trial: Mapping[str, Any]) -> str:
    of_search = f", {trial['balancer']}" if spec.methods else ""
    line = of_search if trial["role"] == Role.SEARCH else f", baseline {trial['balancer']}"
    return f"{sweep['name']} ({sweep['id']}{line})"


def _frozen(
    trial: Mapping[str, Any], spec: SweepSpec, objectives: Sequence[Objective], curve: Mapping[int, float | None]
) -> FrozenTrial:
    state = OPTUNA_STATES[TrialState(trial["state"])]
    values = _values(trial, spec, objectives) if state is OptunaState.COMPLETE else None
    if state is OptunaState.COMPLETE and values is None:
        state = OptunaState.FAIL
    if len(objectives) > 1:
        curve = {}  # Optuna keeps such values of a single objective alone
    seen = {step: value for step, value in curve.items() if value is not None}
    if state is OptunaState.PRUNED and seen:  # as Optuna does where it prunes: its plots leave such trials out else
        values = [seen[max(seen)]]
    searched = trial["searched"]
    return FrozenTrial(
        number=-1,  # given by the storage
        trial_id=-1,
        state=state,
        value=None,
        values=values,
        datetime_start=_time(trial["started_at"] or trial["created_at"]),
        datetime_complete=_time(trial["ended_at"]) if state.is_finished() else None,
        params=dict(searched),
        distributions={name: distribution(spec.space[name]) for name in searched},
        user_attrs={name: trial[name] for name in ("id", "number", "role", "balancer", "seed", "message", "metrics")},
        system_attrs={},
        intermediate_values=seen,
    )


def _values(trial: Mapping[str, Any], spec: SweepSpec, objectives: Sequence[Objective]) -> list[float] | None:
    if not spec.objectives:
        return None if trial["objective"] is None else [trial["objective"]]
    found = [trial["metrics"].get(objective.metric) for objective in objectives]
    return None if None in found else found


def _time(text: str | None) -> datetime | None:
    """Optuna's times are those of the machine, without a zone."""
    return None if text is None else datetime.fromisoformat(text).astimezone().replace(tzinfo=None)
