"""How a sweep ends, and what its end does to its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sweep_service.domain.branches import grid_size
from sweep_service.domain.spec import Resources, SweepSpec
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Cluster, Lease, Role, Trial
from sweep_service.ports import SweepStore, TrialEnd
from sweep_service.services.budget import search_end, used_gpu_hours

_QUOTED = 500  # characters of a trial's message in the sweep's


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The state that a sweep ends in, and why."""

    state: SweepState
    reason: SweepReason
    message: str = ""


CANCELLED = Outcome(state=SweepState.CANCELLED, reason=SweepReason.USER)
STOPPED = Outcome(state=SweepState.STOPPED, reason=SweepReason.USER)


def outcome_of(
    spec: SweepSpec, trials: Sequence[Trial], winding_up: SweepState, busy: timedelta = timedelta(0)
) -> Outcome:
    """What came out of the trials, all of which have ended.

    Args:
        spec: of the sweep.
        trials: all of the sweep's.
        winding_up: what a user has asked for.
        busy: how long their attempts have taken; looked at where there is a budget of GPU-hours.
    """
    if winding_up is SweepState.CANCELLING:
        return CANCELLED
    if winding_up is SweepState.STOPPING:
        return STOPPED
    search = [trial for trial in trials if trial.role is Role.SEARCH]
    if any(trial.state is TrialState.COMPLETED for trial in search):
        return _completed(spec, trials, busy)
    if not search and spec.budget.is_timed:
        reason, message = _spent(spec, busy)
        message += " No search trial had started before."
        return Outcome(state=SweepState.FAILED, reason=reason, message=message)
    wrong = [trial for trial in search if trial.state is not TrialState.EARLY_STOPPED]
    first = next((trial.message for trial in wrong if trial.message), "")
    quoted = first if len(first) <= _QUOTED else first[:_QUOTED] + " …"
    message = f"None of {len(search)} search trials completed." + (f" The first: {quoted}" if quoted else "")
    return Outcome(state=SweepState.FAILED, reason=SweepReason.TOO_MANY_FAILURES, message=message)


def _completed(spec: SweepSpec, trials: Sequence[Trial], busy: timedelta) -> Outcome:
    """Why the search was over. Where no other bound explains it, time has been the bound."""
    reason, message = search_end(spec, trials), ""
    used = sum(trial.role is Role.SEARCH and trial.state.counts_in_budget for trial in trials)
    points = grid_size(spec.space) if spec.search.sampler == "grid" else None
    if reason is SweepReason.TARGET_REACHED:
        message = f"A trial has reached the target of {spec.budget.target:g}."
    elif reason is SweepReason.NO_IMPROVEMENT:
        message = _no_improvement(spec)
    elif spec.budget.is_timed and spec.confirm and all(trial.role is not Role.CONFIRM for trial in trials):
        reason, message = _spent(spec, busy)
    elif used >= spec.budget.trials:
        reason = SweepReason.BUDGET_TRIALS
    elif points is not None and used >= points:
        reason, message = SweepReason.BUDGET_TRIALS, "Every point of the grid has been tried."
    else:
        reason, message = _spent(spec, busy)
    return Outcome(state=SweepState.COMPLETED, reason=reason, message=message)


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
