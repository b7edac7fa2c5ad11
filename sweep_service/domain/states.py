"""The states of a sweep, a trial and an attempt, why they end, and which moves are allowed.

The reason is what is recorded; states follow from it (``TrialEnding.OUT_OF_MEMORY.state``). ``SWEEP_MOVES``,
``TRIAL_MOVES`` and ``ATTEMPT_MOVES`` are the only tables of moves and :func:`check_move` the only judge of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from sweep_service.domain.errors import IllegalMoveError


class SweepState(StrEnum):
    QUEUED = "queued"  # waits for a dispatcher
    STARTING = "starting"  # claimed; its conductor is coming up
    RUNNING = "running"
    PAUSING = "pausing"  # no new trials; running ones checkpoint and rest
    PAUSED = "paused"
    STOPPING = "stopping"  # no new trials; running ones finish
    CANCELLING = "cancelling"  # running trials are being killed
    COMPLETED = "completed"  # did what its budget said
    STOPPED = "stopped"  # a user ended it early; its results stand
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_ended(self) -> bool:
        """Nothing runs and nothing will, unless somebody re-opens it."""
        return self in _ENDED_SWEEPS


CONDUCTED = frozenset(
    {SweepState.STARTING, SweepState.RUNNING, SweepState.PAUSING, SweepState.STOPPING, SweepState.CANCELLING}
)
"""States in which a conductor has work to do: without a live lease, somebody must take over."""

_ENDED_SWEEPS = frozenset({SweepState.COMPLETED, SweepState.STOPPED, SweepState.CANCELLED, SweepState.FAILED})


class SweepReason(StrEnum):
    """Why a sweep is where it is. None in a row means: nothing to explain."""

    BUDGET_TRIALS = "budget_trials"
    BUDGET_TIME = "budget_time"
    BUDGET_GPU_HOURS = "budget_gpu_hours"
    TARGET_REACHED = "target_reached"
    NO_IMPROVEMENT = "no_improvement"
    TOO_MANY_FAILURES = "too_many_failures"
    UNSCHEDULABLE = "unschedulable"  # no node of the cluster can ever hold one of its trials
    LIMITED = "limited"  # as many packs run already as a limit of the service allows
    USER = "user"
    ERROR = "error"


PASSED_OVER = frozenset({SweepReason.UNSCHEDULABLE, SweepReason.LIMITED})
"""Why a queued sweep does not wait its turn: others behind it are started, until that has changed."""


class TrialState(StrEnum):
    PENDING = "pending"  # asked for, not started
    RUNNING = "running"
    RESTING = "resting"  # checkpointed by a pause
    COMPLETED = "completed"  # trained to its last step
    EARLY_STOPPED = "early_stopped"  # the pruner ended it
    FAILED = "failed"  # the user's code raised, or its worker died too often
    INFEASIBLE = "infeasible"  # NaN, or out of memory
    CANCELLED = "cancelled"

    @property
    def is_ended(self) -> bool:
        return self in _ENDED_TRIALS

    @property
    def counts_in_budget(self) -> bool:
        """Whether a search trial that ended so has used up one of ``budget.trials``."""
        return self in _ENDED_TRIALS and self is not TrialState.CANCELLED


_ENDED_TRIALS = frozenset(
    {
        TrialState.COMPLETED,
        TrialState.EARLY_STOPPED,
        TrialState.FAILED,
        TrialState.INFEASIBLE,
        TrialState.CANCELLED,
    }
)


class AttemptState(StrEnum):
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    INFEASIBLE = "infeasible"
    LOST = "lost"  # its worker died
    PREEMPTED = "preempted"

    @property
    def is_ended(self) -> bool:
        return self is not AttemptState.RUNNING


class TrialEnding(StrEnum):
    """Why a trial ended; its state and its last attempt's state are derived."""

    COMPLETED = "completed"
    PRUNED = "pruned"
    NON_FINITE = "non_finite"
    OUT_OF_MEMORY = "out_of_memory"
    ERROR = "error"
    WORKER_LOST = "worker_lost"  # its workers died more often than it had retries, or far too many nodes under it
    CANCELLED = "cancelled"

    @property
    def state(self) -> TrialState:
        return _ENDING_STATES[self][0]

    @property
    def attempt_state(self) -> AttemptState:
        return _ENDING_STATES[self][1]


_ENDING_STATES: Mapping[TrialEnding, tuple[TrialState, AttemptState]] = {
    TrialEnding.COMPLETED: (TrialState.COMPLETED, AttemptState.FINISHED),
    TrialEnding.PRUNED: (TrialState.EARLY_STOPPED, AttemptState.FINISHED),
    TrialEnding.NON_FINITE: (TrialState.INFEASIBLE, AttemptState.INFEASIBLE),
    TrialEnding.OUT_OF_MEMORY: (TrialState.INFEASIBLE, AttemptState.INFEASIBLE),
    TrialEnding.ERROR: (TrialState.FAILED, AttemptState.FAILED),
    TrialEnding.WORKER_LOST: (TrialState.FAILED, AttemptState.LOST),
    TrialEnding.CANCELLED: (TrialState.CANCELLED, AttemptState.PREEMPTED),
}

_S, _T, _A = SweepState, TrialState, AttemptState

SWEEP_MOVES: Mapping[SweepState, frozenset[SweepState]] = {
    _S.QUEUED: frozenset({_S.STARTING, _S.PAUSED, _S.STOPPING, _S.STOPPED, _S.CANCELLING, _S.CANCELLED, _S.FAILED}),
    _S.STARTING: frozenset({_S.RUNNING, _S.PAUSING, _S.STOPPING, _S.CANCELLING, _S.FAILED}),
    _S.RUNNING: frozenset({_S.PAUSING, _S.STOPPING, _S.CANCELLING, _S.COMPLETED, _S.FAILED}),
    _S.PAUSING: frozenset({_S.PAUSED, _S.STOPPING, _S.CANCELLING, _S.COMPLETED, _S.FAILED}),
    _S.PAUSED: frozenset({_S.QUEUED, _S.STOPPING, _S.STOPPED, _S.CANCELLING, _S.CANCELLED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.CANCELLING, _S.FAILED}),
    _S.CANCELLING: frozenset({_S.CANCELLED}),
    # Ended sweeps move only when somebody re-opens them (a larger budget, a retry).
    _S.COMPLETED: frozenset({_S.QUEUED}),
    _S.STOPPED: frozenset({_S.QUEUED}),
    _S.FAILED: frozenset({_S.QUEUED}),
    _S.CANCELLED: frozenset(),
}

_TRIAL_ENDS = frozenset({_T.COMPLETED, _T.EARLY_STOPPED, _T.FAILED, _T.INFEASIBLE, _T.CANCELLED})

TRIAL_MOVES: Mapping[TrialState, frozenset[TrialState]] = {
    _T.PENDING: frozenset({_T.RUNNING, _T.FAILED, _T.CANCELLED}),
    _T.RUNNING: _TRIAL_ENDS | {_T.RESTING},
    _T.RESTING: frozenset({_T.RUNNING, _T.FAILED, _T.CANCELLED}),
    _T.COMPLETED: frozenset(),
    _T.EARLY_STOPPED: frozenset(),
    _T.FAILED: frozenset({_T.PENDING}),  # only where a user has it tried again
    _T.INFEASIBLE: frozenset(),
    _T.CANCELLED: frozenset(),
}

ATTEMPT_MOVES: Mapping[AttemptState, frozenset[AttemptState]] = {
    _A.RUNNING: frozenset({_A.FINISHED, _A.FAILED, _A.INFEASIBLE, _A.LOST, _A.PREEMPTED}),
    _A.FINISHED: frozenset(),
    _A.FAILED: frozenset(),
    _A.INFEASIBLE: frozenset(),
    _A.LOST: frozenset(),
    _A.PREEMPTED: frozenset(),
}

_StateT = TypeVar("_StateT", bound=StrEnum)


def check_move(moves: Mapping[_StateT, frozenset[_StateT]], current: _StateT, target: _StateT) -> None:
    """Raise IllegalMoveError, which lists the allowed targets, unless the table lets ``current`` become ``target``."""
    allowed = moves[current]
    if target not in allowed:
        raise IllegalMoveError(current=current, target=target, allowed=sorted(allowed))


class Verb(StrEnum):
    """What a user may ask of a sweep."""

    PAUSE = "pause"  # no new trials start, running ones checkpoint at their next report and rest
    RESUME = "resume"  # go on where a pause has left off
    RETRY = "retry"  # try the trials again that have failed; a sweep that has ended goes on for it
    STOP = "stop"  # running trials finish, no new ones start
    CANCEL = "cancel"  # kill now


_VERB_TARGETS: Mapping[Verb, Mapping[SweepState, SweepState]] = {
    Verb.PAUSE: {
        _S.QUEUED: _S.PAUSED,
        _S.STARTING: _S.PAUSING,
        _S.RUNNING: _S.PAUSING,
        _S.PAUSING: _S.PAUSING,
        _S.PAUSED: _S.PAUSED,
    },
    Verb.RESUME: {
        _S.PAUSED: _S.QUEUED,
        _S.QUEUED: _S.QUEUED,
        _S.STARTING: _S.STARTING,
        _S.RUNNING: _S.RUNNING,
    },
    Verb.RETRY: {
        _S.QUEUED: _S.QUEUED,
        _S.STARTING: _S.STARTING,
        _S.RUNNING: _S.RUNNING,
        _S.PAUSING: _S.PAUSING,
        _S.PAUSED: _S.PAUSED,
        _S.COMPLETED: _S.QUEUED,
        _S.STOPPED: _S.QUEUED,
        _S.FAILED: _S.QUEUED,
    },
    Verb.STOP: {
        _S.QUEUED: _S.STOPPING,
        _S.PAUSED: _S.STOPPING,
        _S.STARTING: _S.STOPPING,
        _S.RUNNING: _S.STOPPING,
        _S.PAUSING: _S.STOPPING,
        _S.STOPPING: _S.STOPPING,
        _S.STOPPED: _S.STOPPED,
    },
    Verb.CANCEL: {
        _S.QUEUED: _S.CANCELLING,
        _S.PAUSED: _S.CANCELLING,
        _S.STARTING: _S.CANCELLING,
        _S.RUNNING: _S.CANCELLING,
        _S.PAUSING: _S.CANCELLING,
        _S.STOPPING: _S.CANCELLING,
        _S.CANCELLING: _S.CANCELLING,
        _S.CANCELLED: _S.CANCELLED,
    },
}


_ENDS_OF_WHAT_NEVER_RAN = {_S.STOPPING: _S.STOPPED, _S.CANCELLING: _S.CANCELLED}


def verb_target(current: SweepState, verb: Verb, *, has_run: bool) -> SweepState:
    """Where the verb takes a sweep; ``current`` itself if the verb is already in effect. One that ``has_run`` and does
    not now is ended by a conductor all the same: it has results to sum up and runs to close.

    Raises:
        IllegalMoveError: the verb makes no sense there; lists the verbs that do.
    """
    target = _VERB_TARGETS[verb].get(current)
    if target is None:
        raise IllegalMoveError(current=current, target=verb, allowed=_allowed_verbs(current))
    if current in (SweepState.QUEUED, SweepState.PAUSED) and not has_run:
        return _ENDS_OF_WHAT_NEVER_RAN.get(target, target)
    return target


def amended_state(current: SweepState) -> SweepState:
    """Where a change of what it is to do takes a sweep: one that has ended is re-opened.

    Raises:
        IllegalMoveError: nothing new starts in it any more; lists the verbs that make sense.
    """
    target = _VERB_TARGETS[Verb.RETRY].get(current)  # a retry is such a change
    if target is None:
        raise IllegalMoveError(current=current, target="amend", allowed=_allowed_verbs(current))
    return target


def check_deletable(current: SweepState) -> None:
    """Raise IllegalMoveError, which lists the verbs that lead there, unless a sweep in that state may be deleted."""
    if not current.is_ended:
        ending = [verb for verb in _allowed_verbs(current) if verb in (Verb.STOP, Verb.CANCEL)]
        raise IllegalMoveError(current=current, target="delete", allowed=ending)


def _allowed_verbs(current: SweepState) -> list[Verb]:
    return sorted(verb for verb in Verb if current in _VERB_TARGETS[verb])
