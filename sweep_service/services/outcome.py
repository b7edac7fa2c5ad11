"""How a sweep ends, and what its end does to its trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sweep_service.domain.branches import grid_size
from sweep_service.domain.spec import Resources, SweepSpec
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Cluster, Lease, Role, Trial
from sweep_service.ports import SweepStore, TrialEnd
from sweep_service.services.budget import search_end

_QUOTED = 500  # characters of a trial's message in the sweep's


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The state that a sweep ends in, and why."""

    state: SweepState
    reason: SweepReason
    message: str = ""


CANCELLED = Outcome(state=SweepState.CANCELLED, reason=SweepReason.USER)
STOPPED = Outcome(state=SweepState.STOPPED, reason=SweepReason.USER)


def outcome_of(spec: SweepSpec, trials: Sequence[Trial], winding_up: SweepState) -> Outcome:
    """What came out of the trials, all of which have ended; ``winding_up`` is what a user has asked for."""
    if winding_up is SweepState.CANCELLING:
        return CANCELLED
    if winding_up is SweepState.STOPPING:
        return STOPPED
    search = [trial for trial in trials if trial.role is Role.SEARCH]
    if any(trial.state is TrialState.COMPLETED for trial in search):
        return _completed(spec, trials)
    if not search and spec.budget.time:
        message = f"The wall time of {spec.budget.wall_time} was over before a search trial had started."
        return Outcome(state=SweepState.FAILED, reason=SweepReason.BUDGET_TIME, message=message)
    wrong = [trial for trial in search if trial.state is not TrialState.EARLY_STOPPED]
    first = next((trial.message for trial in wrong if trial.message), "")
    quoted = first if len(first) <= _QUOTED else first[:_QUOTED] + " …"
    message = f"None of {len(search)} search trials completed." + (f" The first: {quoted}" if quoted else "")
    return Outcome(state=SweepState.FAILED, reason=SweepReason.TOO_MANY_FAILURES, message=message)


def _completed(spec: SweepSpec, trials: Sequence[Trial]) -> Outcome:
    """Why the search was over. Where no other bound explains it, time has been the bound."""
    reason, message = search_end(spec, trials), ""
    used = sum(trial.role is Role.SEARCH and trial.state.counts_in_budget for trial in trials)
    points = grid_size(spec.space) if spec.search.sampler == "grid" else None
    if reason is SweepReason.TARGET_REACHED:
        message = f"A trial has reached the target of {spec.budget.target:g}."
    elif reason is SweepReason.NO_IMPROVEMENT:
        message = f"None of the last {spec.budget.no_improvement} trials was better than the best before them."
    elif spec.budget.time and spec.confirm and all(trial.role is not Role.CONFIRM for trial in trials):
        reason, message = SweepReason.BUDGET_TIME, f"The wall time of {spec.budget.wall_time} is over."
    elif used >= spec.budget.trials:
        reason = SweepReason.BUDGET_TRIALS
    elif points is not None and used >= points:
        reason, message = SweepReason.BUDGET_TRIALS, "Every point of the grid has been tried."
    else:
        reason, message = SweepReason.BUDGET_TIME, f"The wall time of {spec.budget.wall_time} is over."
    return Outcome(state=SweepState.COMPLETED, reason=reason, message=message)


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
