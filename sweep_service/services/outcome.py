"""How a sweep ends, and what its end does to its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sweep_service.domain.resources import Resources
from sweep_service.domain.shares import search_quotas
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Cluster, Lease, Role, Trial
from sweep_service.ports import SweepStore, TrialEnd
from sweep_service.services.budget import is_hopeless, search_end, used_gpu_hours

_QUOTED = 500  # characters of a trial's message in the sweep's


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The state that a sweep ends in, or rests, and why."""

    state: SweepState
    reason: SweepReason
    message: str = ""


CANCELLED = Outcome(state=SweepState.CANCELLED, reason=SweepReason.USER)
PAUSED = Outcome(state=SweepState.PAUSED, reason=SweepReason.USER)
STOPPED = Outcome(state=SweepState.STOPPED, reason=SweepReason.USER)


def outcome_of(
    spec: SweepSpec, trials: Sequence[Trial], winding_up: SweepState, busy: timedelta = timedelta(0)
) -> Outcome:
    """What came out of the trials, all of which have ended, unless the sweep is paused.

    Args:
        spec: of the sweep.
        trials: all of the sweep's.
        winding_up: what a user has asked for.
        busy: how long their packs have taken; looked at where there is a budget of GPU-hours.
    """
    if winding_up is SweepState.CANCELLING:
        return CANCELLED
    if winding_up is SweepState.STOPPING:
        return STOPPED
    if winding_up is SweepState.PAUSING:
        return PAUSED
    search = [trial for trial in trials if trial.role is Role.SEARCH]
    if any(trial.state is TrialState.COMPLETED for trial in search):
        return _completed(spec, trials, busy)
    if not search and spec.budget.is_timed:
        reason, message = _spent(spec, busy)
        message += " No search trial had started before."
        return Outcome(state=SweepState.FAILED, reason=reason, message=message)
    wrong = [trial for trial in search if trial.state is not TrialState.EARLY_STOPPED]
    first = next((trial.message for trial in wrong if trial.message), "")
    message = f"None of {len(search)} search trials completed." + (f" The first: {_quoted(first)}" if first else "")
    return Outcome(state=SweepState.FAILED, reason=SweepReason.TOO_MANY_FAILURES, message=message)


_BOUNDS: Mapping[SweepReason, str] = {
    SweepReason.BUDGET_TRIALS: "trials",
    SweepReason.BUDGET_TIME: "wall_time",
    SweepReason.BUDGET_GPU_HOURS: "gpu_hours",
    SweepReason.TARGET_REACHED: "target",
    SweepReason.NO_IMPROVEMENT: "no_improvement",
}


def nothing_left(spec: SweepSpec, trials: Sequence[Trial], busy: timedelta) -> tuple[str, str]:
    """Why a sweep that has ended would end again at once under that spec: a JSON pointer to the bound, and what could
    be done.
    """
    outcome = outcome_of(spec, trials, SweepState.RUNNING, busy)
    bound = _BOUNDS.get(outcome.reason)
    if outcome.state is SweepState.FAILED or bound is None:
        return "/budget", f"It would end again at once. {outcome.message} Have the failed ones tried again: retry."
    why = outcome.message or f"Its {spec.budget.trials} trials are used."
    return f"/budget/{bound}", f"It would end again at once. {why} Widen budget.{bound}."


def _completed(spec: SweepSpec, trials: Sequence[Trial], busy: timedelta) -> Outcome:
    """Why the search was over. Where no other bound explains it, time has been the bound."""
    reason, message = search_end(spec, trials), ""
    quotas = search_quotas(spec)
    of_line = {name: _of_line(name, trials) for name in quotas}
    given_up = [name for name in quotas if name is not None and is_hopeless(of_line[name], quotas[name])]
    used = sum(len(of_line[name]) if name not in given_up else quotas[name] for name in quotas)
    if reason is SweepReason.TARGET_REACHED:
        message = f"A trial has reached the target of {spec.budget.target:g}."
    elif reason is SweepReason.NO_IMPROVEMENT:
        message = _no_improvement(spec)
    elif spec.budget.is_timed and spec.confirm and all(trial.role is not Role.CONFIRM for trial in trials):
        reason, message = _spent(spec, busy)
    elif used >= min(sum(quotas.values()), spec.budget.trials):
        is_less = sum(quotas.values()) < spec.budget.trials
        reason, message = SweepReason.BUDGET_TRIALS, _exhausted(spec) if is_less else ""
    else:
        reason, message = _spent(spec, busy)
    message = " ".join(part for part in (message, *(_given_up(name, of_line[name]) for name in given_up)) if part)
    return Outcome(state=SweepState.COMPLETED, reason=reason, message=message)


def _of_line(balancer: str | None, trials: Sequence[Trial]) -> Sequence[Trial]:
    """The trials of a line of the search that count. None: the search is one line."""
    return [
        trial
        for trial in trials
        if trial.role is Role.SEARCH and trial.state.counts_in_budget and balancer in (None, trial.balancer)
    ]


def _exhausted(spec: SweepSpec) -> str:
    """Why there was less to try than the budget allows."""
    if spec.search.sampler == "grid":
        return "Every point of the grid has been tried."
    return "A balancer without parameters to search runs once, and there was no other."


def _given_up(balancer: str, trials: Sequence[Trial]) -> str:
    first = next((trial.message for trial in trials if trial.message), "")
    told = f"{balancer} was given up: none of its {len(trials)} trials completed."
    return told + (f" The first: {_quoted(first)}" if first else "")


def _quoted(message: str) -> str:
    return message if len(message) <= _QUOTED else message[:_QUOTED] + " …"


def _no_improvement(spec: SweepSpec) -> str:
    number = spec.budget.no_improvement
    if spec.objectives:
        return f"None of the last {number} trials was on the Pareto front of those before it."
    return f"None of the last {number} trials was better than the best before them."


def _spent(spec: SweepSpec, busy: timedelta) -> tuple[SweepReason, str]:
    """Which of the bounds on all that a sweep does was reached, where one was."""
    hours, used = spec.budget.gpu_hours, used_gpu_hours(spec, busy)
    if hours is not None and (spec.budget.time is None or used >= hours):
        return SweepReason.BUDGET_GPU_HOURS, f"{used:.4g} GPU-hours are used, of {hours:g}."
    return SweepReason.BUDGET_TIME, f"The wall time of {spec.budget.wall_time} is over."


def unschedulable(wanted: Resources, cluster: Cluster) -> Outcome:
    """No node of the cluster could ever hold a trial that wants so much."""
    nodes = ", ".join(f"{node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in cluster.nodes) or "no node at all"
    message = (
        f"A trial asks for {wanted.cpus:g} CPUs and {wanted.gpus:g} GPUs on one node; the cluster has: {nodes}. "
        "Ask for less in resources, or add a node."
    )
    return Outcome(state=SweepState.FAILED, reason=SweepReason.UNSCHEDULABLE, message=message)


def cancel_unfinished(store: SweepStore, lease: Lease, *, message: str) -> None:
    """End every trial of the sweep that has not ended. Raises LeaseLostError."""
    trials = [trial for trial in store.list_trials(lease.sweep_id) if not trial.state.is_ended]
    if trials:
        ends = [TrialEnd(trial_id=t.id, ending=TrialEnding.CANCELLED, message=message) for t in trials]
        store.record(lease, ends=ends)
