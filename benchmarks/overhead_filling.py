"""A store that has been in use for a while: sweeps in every state, each with the rows that its conductors would have
written. Put in past the service, which would take an hour; what is read of it is what the service would have stored.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Table, func, insert, select, text

from sweep_service.demo import demo_spec
from sweep_service.domain.events import Event, EventKind
from sweep_service.domain.ids import IdPrefix, new_id
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Attempt, Report, Role, Sweep, Trial
from sweep_service.services.ranking import best_trial
from sweep_service.services.results import summarise
from sweep_service.storage import rows
from sweep_service.storage.database import open_engine, writing
from sweep_service.storage.tables import attempts, events, reports, sweeps, trials
from trainables.catalog import Trainable

TABLES = {"sweeps": sweeps, "trials": trials, "attempts": attempts, "reports": reports, "events": events}  # in order
SWEEPS_A_TRANSACTION = 20
STEPS = 800
_TRIAL_TAKES = timedelta(seconds=10)
_UNFINISHED = (SweepState.RUNNING, SweepState.PAUSED, SweepState.QUEUED)  # a queued one has been resumed
_UNFINISHED_SHARE = 0.06  # of all sweeps: the newest
_LIVE_LANES = 4  # of an unfinished sweep: trials that run, or rest
_ENDINGS = (TrialEnding.PRUNED, TrialEnding.PRUNED, TrialEnding.ERROR, TrialEnding.NON_FINITE)  # the others completed
_TRACEBACK = 'Traceback (most recent call last):\n  File "somewhere.py", line 1, in train\n' * 12


@dataclass(frozen=True, kw_only=True)
class Filling:
    """How much a store holds."""

    num_sweeps: int
    trials_a_sweep: int
    reports_a_trial: int


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What has been put in."""

    sweep_ids: Sequence[str]  # oldest first
    trial_ids: Sequence[str]  # one of each sweep, with reports
    num_rows: Mapping[str, int]  # by table


def document(num_trials: int) -> dict[str, Any]:
    """What is submitted: the demo's spec, with trials for all three roles."""
    spec = dict(demo_spec())
    spec["budget"] = {"trials": num_trials}
    spec["baselines"], spec["confirm"] = ["equal"], {"seeds": max(2, num_trials // 20)}
    spec["labels"] = {"team": "ads", "stage": "trial"}
    return spec


def fill(url: str, filling: Filling, catalog: Mapping[str, Trainable]) -> Filled:
    """Fill a store that is migrated and empty."""
    spec = check_spec(document(filling.trials_a_sweep), catalog)
    defaults = catalog[spec.trainable].defaults() | dict(spec.params)
    metrics = _metric_keys(catalog[spec.trainable])
    engine = open_engine(url)
    try:
        sweep_ids: list[str] = []
        trial_ids: list[str] = []
        for first in range(0, filling.num_sweeps, SWEEPS_A_TRANSACTION):
            indices = range(first, min(first + SWEEPS_A_TRANSACTION, filling.num_sweeps))
            several = [_stored_sweep(index, filling, spec, defaults, metrics) for index in indices]
            with writing(engine) as connection:
                for name, table in TABLES.items():
                    connection.execute(insert(table), [row for one in several for row in one[name]])
            sweep_ids += [one["sweeps"][0]["id"] for one in several]
            trial_ids += [one["trials"][0]["id"] for one in several]
        _settle(engine)
        return Filled(sweep_ids=sweep_ids, trial_ids=trial_ids, num_rows=_num_rows(engine))
    finally:
        engine.dispose()


def _settle(engine: Engine) -> None:
    """What PostgreSQL's autovacuum would have done by then. SQLite does nothing by itself, nor does the service."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _num_rows(engine: Engine) -> dict[str, int]:
    def num(table: Table) -> int:
        with engine.connect() as connection:
            return connection.execute(select(func.count()).select_from(table)).scalar_one()

    return {name: num(table) for name, table in TABLES.items()}


def _metric_keys(trainable: Trainable) -> Sequence[str]:
    of_tasks = ("train/loss", "weight", "grad_norm", "relative_rate", "val/normalized_loss")
    return [*trainable.metrics, *(f"{key}/{task.name}" for key in of_tasks for task in trainable.tasks)]


def _stored_sweep(
    index: int, filling: Filling, spec: SweepSpec, defaults: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """The rows of one sweep, by table."""
    rng = random.Random(index)
    age = timedelta(hours=2 * (filling.num_sweeps - index))
    made_at = datetime.now(UTC) - age
    state = _state_of(index, filling.num_sweeps)
    sweep = Sweep(
        id=new_id(IdPrefix.SWEEP, now=made_at),
        project="default",
        created_by="anonymous",
        spec=spec.model_copy(update={"name": f"census-{index}"}),
        state=state,
        reason=SweepReason.BUDGET_TRIALS if state is SweepState.COMPLETED else None,
        generation=1,
        tracking_ref=f"{rng.getrandbits(128):032x}",
        created_at=made_at,
        updated_at=made_at,
        started_at=made_at,
        ended_at=made_at + timedelta(hours=1) if state.is_ended else None,
        active_since=made_at if state is SweepState.RUNNING else None,
    )
    own = list(_trials(sweep, filling, defaults, keys, rng))
    started = [trial for trial in own if trial.state is not TrialState.PENDING]
    best = best_trial(spec, own)
    sweep = replace(sweep, best_trial_id=best.id if best else None)
    if state.is_ended:
        sweep = replace(sweep, results=json.loads(json.dumps(summarise(sweep, own))))
    tried = [attempt for trial in started for attempt in _attempts(trial)]
    last = {attempt.trial_id: attempt for attempt in tried}
    said = [report for trial in started for report in _reports(trial, last[trial.id], filling.reports_a_trial, rng)]
    told = list(_events(sweep, own, tried))
    has_lease = state is SweepState.RUNNING
    columns = {
        "lease_token": f"{rng.getrandbits(128):032x}" if has_lease else None,
        "lease_owner": "somebody" if has_lease else None,
        "lease_expires_at": datetime.now(UTC) + timedelta(days=1) if has_lease else None,
        "num_events": len(told),
        "num_reports": len(said),
        "num_delivered": len(said),
    }
    return {
        "sweeps": [rows.sweep_row(sweep) | columns],
        "trials": [rows.trial_row(trial) for trial in own],
        "attempts": [rows.attempt_row(attempt) for attempt in tried],
        "reports": [rows.report_row(replace(report, seq=seq)) for seq, report in enumerate(said, start=1)],
        "events": [rows.event_row(replace(event, seq=seq)) for seq, event in enumerate(told, start=1)],
    }


def _state_of(index: int, num_sweeps: int) -> SweepState:
    if index >= num_sweeps * (1 - _UNFINISHED_SHARE):
        return _UNFINISHED[index % len(_UNFINISHED)]
    odd = {3: SweepState.FAILED, 4: SweepState.CANCELLED, 5: SweepState.STOPPED, 6: SweepState.STOPPED}
    return odd.get(index % 50, SweepState.COMPLETED)


def _trials(
    sweep: Sweep, filling: Filling, defaults: Mapping[str, Any], keys: Sequence[str], rng: random.Random
) -> Iterator[Trial]:
    """A tenth of them baselines; at the end the repeats of the best of both, where the sweep came so far."""
    num, seeds = filling.trials_a_sweep, sweep.spec.confirm.seeds if sweep.spec.confirm else 0
    num_first = num - 2 * seeds
    made: list[Trial] = []
    for number in range(num):
        at = sweep.created_at + number * timedelta(seconds=1)
        searched = {"alpha": rng.uniform(0, 3), "weight_lr": rng.uniform(0.01, 0.5)}
        role = Role.BASELINE if number % 10 == 9 else Role.SEARCH
        repeated = None
        if number >= num_first:
            role, balancer = Role.CONFIRM, "gradnorm" if (number - num_first) < seeds else "equal"
            of_kind = [t for t in made if t.balancer == balancer and t.objective is not None]
            repeated = min(of_kind, key=lambda t: t.objective or 0.0) if of_kind else None
        balancer = repeated.balancer if repeated else ("equal" if role is Role.BASELINE else "gradnorm")
        searched = {} if balancer == "equal" else searched
        trial = Trial(
            id=new_id(IdPrefix.TRIAL, now=at),
            sweep_id=sweep.id,
            number=number,
            role=role,
            balancer=balancer,
            params=defaults | searched | {"balancer": balancer},
            searched=searched,
            seed=number if role is not Role.CONFIRM else 1000 + (number - num_first) % max(1, seeds),
            confirms=repeated.id if repeated else None,
            state=TrialState.PENDING,
            created_at=at,
        )
        made.append(_lived(trial, sweep, num, keys, rng))
        yield made[-1]


def _lived(trial: Trial, sweep: Sweep, num: int, keys: Sequence[str], rng: random.Random) -> Trial:
    """The trial as far as it came in a sweep of that state."""
    if not sweep.state.is_ended and trial.number >= num // 2:
        is_live = trial.number < num // 2 + _LIVE_LANES
        if not is_live:
            return trial
        state = TrialState.RUNNING if sweep.state is SweepState.RUNNING else TrialState.RESTING
    else:
        state = None
    place = trial.number % 50
    ending = _ENDINGS[place - 10] if 10 <= place < 14 and trial.role is not Role.CONFIRM else TrialEnding.COMPLETED
    metrics = {key: rng.uniform(0.2, 1.0) for key in keys}
    if trial.role is Role.CONFIRM:
        metrics |= {key.replace("val/", "test/", 1): value for key, value in metrics.items() if key.startswith("val/")}
    started = replace(
        trial,
        state=state or ending.state,
        metrics=metrics,
        last_step=STEPS if ending is TrialEnding.COMPLETED else STEPS // 2,
        checkpoint=f"/shared/checkpoints/{trial.sweep_id}/{trial.id}/last/step-{STEPS:08d}.pt",
        tracking_ref=f"{rng.getrandbits(128):032x}",
        provenance={"data_hash": f"{rng.getrandbits(256):064x}", "python": "3.11", "torch": "2.13.0", "ray": "2.60.0"},
        num_attempts=2 if trial.number % 33 == 20 else 1,
        started_at=trial.created_at,
    )
    if state is not None:
        return started
    is_fault = ending is TrialEnding.ERROR
    return replace(
        started,
        ending=ending,
        objective=metrics[sweep.spec.objective.metric] if ending is TrialEnding.COMPLETED else None,
        message="RuntimeError: its code raised" if is_fault else "",
        traceback=_TRACEBACK if is_fault else "",
        ended_at=trial.created_at + _TRIAL_TAKES,
    )


def _attempts(trial: Trial) -> Iterator[Attempt]:
    """All but the last one have lost their worker."""
    for number in range(trial.num_attempts):
        is_last = number == trial.num_attempts - 1
        runs = is_last and trial.state is TrialState.RUNNING
        state = AttemptState.RUNNING if runs else _attempt_state(trial) if is_last else AttemptState.LOST
        yield Attempt(
            id=new_id(IdPrefix.ATTEMPT, now=trial.created_at),
            trial_id=trial.id,
            sweep_id=trial.sweep_id,
            number=number,
            state=state,
            generation=1,
            pack=f"pack-{trial.number // _LIVE_LANES}-{number}",
            node="node-1",
            started_at=trial.created_at,
            ended_at=None if runs else trial.created_at + _TRIAL_TAKES,
        )


def _attempt_state(trial: Trial) -> AttemptState:
    return trial.ending.attempt_state if trial.ending is not None else AttemptState.PREEMPTED


def _reports(trial: Trial, attempt: Attempt, num: int, rng: random.Random) -> Iterator[Report]:
    keys = list(trial.metrics)
    for number in range(1, num + 1):
        metrics = trial.metrics if number == num else {key: rng.uniform(0.2, 1.0) for key in keys}
        yield Report(
            sweep_id=trial.sweep_id,
            trial_id=trial.id,
            attempt_id=attempt.id,
            step=max(1, trial.last_step * number // num),
            metrics=metrics,
            objective=trial.objective,
            checkpoint=trial.checkpoint if number == num else None,
            reported_at=trial.created_at + number * _TRIAL_TAKES / num,
        )


def _events(sweep: Sweep, own: Sequence[Trial], tried: Sequence[Attempt]) -> Iterator[Event]:
    def event(kind: EventKind, trial_id: str | None = None, **data: Any) -> Event:
        return Event(sweep_id=sweep.id, trial_id=trial_id, kind=kind, data=data, at=sweep.created_at)

    yield event(EventKind.SWEEP_SUBMITTED)
    yield event(EventKind.SWEEP_CLAIMED, owner="somebody", generation=1)
    for target in ("starting", "running"):
        yield event(EventKind.SWEEP_MOVED, **{"from": "queued", "to": target, "reason": None})
    for trial in own:
        yield event(EventKind.TRIAL_CREATED, trial.id, number=trial.number, role=str(trial.role))
        if trial.started_at is not None:
            yield event(EventKind.TRIAL_MOVED, trial.id, **{"from": "pending", "to": "running", "ending": None})
        if trial.ending is not None:
            moved = {"from": "running", "to": str(trial.state), "ending": str(trial.ending)}
            yield event(EventKind.TRIAL_MOVED, trial.id, **moved)
    for attempt in tried:
        began = {"attempt_id": attempt.id, "number": attempt.number, "node": attempt.node}
        yield event(EventKind.ATTEMPT_STARTED, attempt.trial_id, **began)
        if attempt.ended_at is not None:
            yield event(EventKind.ATTEMPT_ENDED, attempt.trial_id, attempt_id=attempt.id, state=str(attempt.state))
    if sweep.results is not None:
        yield event(EventKind.SWEEP_VERDICT, **(sweep.results.get("verdict") or {}))
        yield event(EventKind.SWEEP_MOVED, **{"from": "running", "to": str(sweep.state), "reason": None})
