"""The doors between the service and the outside: what each must do, and what it raises.

Implementations live in ``storage`` and ``search``; the fakes of the tests are implementations too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from sweep_service.domain.events import Event
from sweep_service.domain.keys import ANONYMOUS, Actor
from sweep_service.domain.limits import Demand
from sweep_service.domain.spec import Objective, SweepSpec
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState, Verb
from sweep_service.domain.trial import Attempt, BusyTime, Cluster, Lease, Report, Role, Standing, Sweep, Trial
from sweep_service.key_port import KeyStore
from sweep_service.log_port import LogStore
from sweep_service.stock_port import StockStore
from trainables.catalog import Trainable


class Clock(Protocol):
    """The time of this process. Leases are judged by the store's own clock instead."""

    def now(self) -> datetime:
        """Aware, in UTC."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrialEnd:
    """The end of a trial, with its last attempt's where one is running."""

    trial_id: str
    ending: TrialEnding
    objective: float | None = None  # set exactly when the ending is COMPLETED
    message: str = ""
    traceback: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)  # empty: leave what is there


@dataclass(frozen=True, kw_only=True)
class SubmissionKey:
    """What somebody calls one submission, to be able to send it again without making another sweep. The same word of
    another project or creator is another key. It is remembered for as long as its sweep is.
    """

    key: str
    digest: str  # of what is submitted: tells a repetition from another submission


@dataclass(frozen=True, kw_only=True)
class SweepFilter:
    """Which sweeps are asked for: those to which all of it applies. One with nothing in it asks for all of them."""

    states: frozenset[SweepState] = frozenset()  # one of these; empty: any
    labels: frozenset[tuple[str, str]] = frozenset()  # all of these, each a key and its value
    project: str | None = None
    created_after: datetime | None = None

    def takes(self, sweep: Sweep) -> bool:
        """Whether it asks for that sweep."""
        return (
            (not self.states or sweep.state in self.states)
            and self.labels <= set(sweep.spec.labels.items())
            and (self.project is None or sweep.project == self.project)
            and (self.created_after is None or sweep.created_at > self.created_after)
        )


ALL_SWEEPS = SweepFilter()


class SweepStore(LogStore, KeyStore, StockStore, Protocol):
    """The only truth: sweeps, trials, attempts, reports, events, lines, leases, keys.

    Laws, for every implementation:

    - each method is one transaction: all of it happens or nothing does;
    - every move of a state obeys the tables of ``domain.states`` and writes one event in the same transaction;
    - methods that take a lease change nothing and raise LeaseLostError unless that lease's token is the sweep's
      current one and has not expired by the store's clock;
    - what a user asks for is signed: its audit record, and the events of the sweep's submission, moves and amendments
      (``by`` in their data, unless it is ANONYMOUS), name who asked;
    - a sweep that is listed, or returned by what changes it, comes without its results and what it has adopted, which
      may be large: get_sweep has them;
    - events of a sweep have seq 1, 2, 3, … without gaps; reports have a seq that rises in the order of their recording;
    - any method may raise StoreUnavailableError; of one that writes, nobody knows then whether all of it has happened
      or nothing: the connection may have died during the commit.
    """

    # --- anybody ------------------------------------------------------------------------------------------------------

    def check_ready(self) -> None:
        """Raise StoreUnavailableError or SchemaOutdatedError unless the store can serve."""
        ...

    def add_sweep(
        self, sweep: Sweep, *, key: SubmissionKey | None = None, notice: str = "", by: Actor = ANONYMOUS
    ) -> Sweep:
        """Store a new sweep, in state QUEUED (events: SWEEP_SUBMITTED, and SWEEP_NOTICE if there is a notice), and
        return it. Where its project and creator have used that key before, nothing is stored, and the sweep of that
        time is returned. Of several callers with one key, one stores its sweep and all get that one.

        Raises:
            KeyReusedError: something with another digest was stored under that key.
        """
        ...

    def find_submitted(self, *, project: str, created_by: str, key: SubmissionKey) -> Sweep | None:
        """The sweep that they submitted under that key; None: there is none. Raises KeyReusedError."""
        ...

    def get_sweep(self, sweep_id: str) -> Sweep:
        """Raises SweepNotFoundError."""
        ...

    def get_standing(self, sweep_id: str) -> Standing:
        """The sweep's state and revision alone, for whoever asks again and again. Raises SweepNotFoundError."""
        ...

    def list_sweeps(
        self,
        *,
        before: str | None = None,
        after: str | None = None,
        only: SweepFilter = ALL_SWEEPS,
        oldest_first: bool = False,
        limit: int = 50,
    ) -> Sequence[Sweep]:
        """By id, which is by the time of their making, to the millisecond; newest first unless asked otherwise. Only
        those with an id below ``before`` and above ``after``.
        """
        ...

    def queue_places(self, sweep_ids: Collection[str]) -> Mapping[str, int]:
        """The places in the queue of those of these sweeps that are in it; 1: the next one to be claimed. In it are the
        sweeps that are QUEUED and wait their turn: one whose reason says that it is passed over is not.
        """
        ...

    def control_sweep(self, sweep_id: str, verb: Verb, *, message: str = "", by: Actor = ANONYMOUS) -> Sweep:
        """Move the sweep where the verb takes it, reason USER; unchanged (no event) where the verb is in effect
        already. One that no conductor has had ends at once, any other is for a conductor to end.

        RETRY makes every FAILED trial PENDING, with its last checkpoint, without its end and its tracking run, and is a
        new revision (events: TRIAL_MOVED, SWEEP_AMENDED). It changes nothing where none has FAILED, unless the sweep
        itself has.

        Raises:
            SweepNotFoundError, IllegalMoveError.
        """
        ...

    def amend_sweep(self, sweep_id: str, spec: SweepSpec, *, revision: int, by: Actor = ANONYMOUS) -> Sweep:
        """Give the sweep, of that revision, another spec, and the next revision (event: SWEEP_AMENDED). One that has
        ended is re-opened: QUEUED, without results (the event of its verdict stays). The spec that it has already
        changes nothing, unless it has ended.

        Raises:
            SweepNotFoundError; SpecChangedError: it is of another revision; IllegalMoveError.
        """
        ...

    def delete_sweep(self, sweep_id: str, *, by: Actor = ANONYMOUS) -> None:
        """Forget an ended sweep, with its trials, attempts, reports, lines, events and submission key.

        Raises:
            SweepNotFoundError; IllegalMoveError: it has not ended; lists the verbs that end it.
        """
        ...

    def get_trial(self, trial_id: str) -> Trial:
        """Raises TrialNotFoundError."""
        ...

    def list_trials(self, sweep_id: str, *, after: int = -1, limit: int | None = None) -> Sequence[Trial]:
        """By number, only those above ``after``. Raises SweepNotFoundError."""
        ...

    def count_trials(self, sweep_id: str) -> Mapping[tuple[Role, TrialState], int]:
        """How many trials are in each state; only pairs that some trial has. Raises SweepNotFoundError."""
        ...

    def busy_time(self, sweep_id: str) -> BusyTime:
        """How long the sweep's packs have taken: the attempts of one generation that name the same pack count as one,
        from their first start to their last end, or as running since their first start while any of them runs. An
        attempt that names none counts by itself. Raises SweepNotFoundError.
        """
        ...

    def find_leader(
        self, sweep_id: str, role: Role, *, objective: Objective, balancer: str | None = None
    ) -> Trial | None:
        """The completed trial of that role, and of that balancer if one is given, with the best objective; of equal
        ones the first made. None: there is none. Raises SweepNotFoundError.
        """
        ...

    def list_attempts(self, trial_id: str) -> Sequence[Attempt]:
        """By number. Raises TrialNotFoundError."""
        ...

    def list_reports(self, trial_id: str) -> Sequence[Report]:
        """By step. Raises TrialNotFoundError."""
        ...

    def list_reports_after(self, trial_id: str, *, after: int = 0, limit: int = 50) -> Sequence[Report]:
        """In the order of their recording (by seq), only those with a seq above ``after``. Who goes on after the last
        one that it got misses none and gets none twice, however many come meanwhile. Raises TrialNotFoundError.
        """
        ...

    def list_events(self, sweep_id: str, *, after: int = 0, limit: int = 50) -> Sequence[Event]:
        """By seq, only those above ``after``. Raises SweepNotFoundError."""
        ...

    def publish_catalog(self, trainables: Sequence[Trainable]) -> None:
        """Replace the catalogue."""
        ...

    def read_catalog(self) -> Mapping[str, Trainable]:
        """By name. Raises CatalogMissingError if none was ever published."""
        ...

    def publish_cluster(self, cluster: Cluster) -> None:
        """Replace what is known of the cluster."""
        ...

    def read_cluster(self) -> Cluster | None:
        """None: no dispatcher has looked yet."""
        ...

    # --- the dispatcher -----------------------------------------------------------------------------------------------

    def list_demands(self, states: Collection[SweepState]) -> Sequence[Demand]:
        """What the sweeps in these states ask of the cluster, in the order in which they would be claimed. Those that
        have ended ask for nothing.
        """
        ...

    def explain_wait(self, sweep_id: str, reason: SweepReason | None, message: str = "") -> None:
        """Say why a sweep that is QUEUED is passed over (event: SWEEP_NOTICE, if it was not for that reason before);
        None: it is not any more (event: SWEEP_NOTICE, if it was). Changes nothing once it is not QUEUED. Raises
        SweepNotFoundError.
        """
        ...

    def claim_sweep(
        self, *, owner: str, ttl: timedelta, winding_up_only: bool = False, queued: Collection[str] | None = None
    ) -> Lease | None:
        """Take the sweep whose turn it is: one with work left and no live lease (its conductor died), else the first of
        those that are QUEUED: by priority, then by how long it has waited, then by id. With ``winding_up_only`` none
        that would start new trials: PAUSING, STOPPING or CANCELLING. Of the queued ones only those that ``queued``
        names; None: any.

        A queued one moves to STARTING, the others keep their state; the generation goes up by one (event:
        SWEEP_CLAIMED).
        Two callers never get the same sweep. None: nothing waits.
        """
        ...

    def claim_late(self, *, owner: str, ttl: timedelta) -> Lease | None:
        """Take a sweep that has ended, of which the tracking server has yet to take something, if the time to try that
        again has come and nobody has a lease on it; the one that is due for longest. It keeps its state; the generation
        goes up by one (event: SWEEP_CLAIMED). None: there is none.
        """
        ...

    def renew_lease(self, lease: Lease, *, ttl: timedelta) -> Lease:
        """The same lease, valid for another ``ttl`` from now. Raises LeaseLostError."""
        ...

    def release_lease(self, lease: Lease) -> None:
        """Give it up; nothing if it is lost already."""
        ...

    # --- the conductor ------------------------------------------------------------------------------------------------

    def move_sweep(
        self,
        lease: Lease,
        target: SweepState,
        *,
        reason: SweepReason | None = None,
        message: str = "",
        revision: int | None = None,
    ) -> Sweep:
        """Moving to the state that it is in changes nothing.

        Raises:
            LeaseLostError; SpecChangedError: a revision is given, and is not the sweep's; IllegalMoveError.
        """
        ...

    def add_notice(self, lease: Lease, message: str, *, trial_id: str | None = None) -> None:
        """An event SWEEP_NOTICE. Raises LeaseLostError."""
        ...

    def set_results(self, lease: Lease, results: Mapping[str, Any]) -> None:
        """Record leaderboard and verdict (event: SWEEP_VERDICT, whose data is results["verdict"]). Raises
        LeaseLostError.
        """
        ...

    def set_tracking_due(self, lease: Lease, wait: timedelta | None) -> None:
        """The tracking server has not taken everything of a sweep that has ended, or is about to, and is to be tried
        again after that time; None: it has. Matters only while the sweep has ended. Raises LeaseLostError.
        """
        ...

    def set_tracking_ref(self, lease: Lease, ref: str, *, trial_id: str | None = None) -> None:
        """Record the tracking run of the trial, or of the sweep if no trial is given. Raises LeaseLostError."""
        ...

    def add_trials(self, lease: Lease, new_trials: Sequence[Trial]) -> None:
        """Store new trials, all PENDING (an event TRIAL_CREATED each). Raises LeaseLostError."""
        ...

    def start_attempt(self, lease: Lease, attempt: Attempt) -> Trial:
        """Store a RUNNING attempt and move its trial to RUNNING, if it is not there yet (event: ATTEMPT_STARTED,
        TRIAL_MOVED).

        Raises:
            LeaseLostError; IllegalMoveError: the trial has ended, or another attempt of it is running.
        """
        ...

    def end_attempt(self, lease: Lease, attempt_id: str, state: AttemptState, *, message: str = "") -> None:
        """End an attempt and leave its trial RUNNING, for the next one (event: ATTEMPT_ENDED).

        Raises:
            LeaseLostError; IllegalMoveError: the attempt has ended.
        """
        ...

    def record(
        self,
        lease: Lease,
        *,
        reports: Sequence[Report] = (),
        ends: Sequence[TrialEnd] = (),
        rests: Collection[str] = (),
        best: str | None = None,
    ) -> None:
        """Record reports, then ends of trials, then which of them rest from now on, then which trial is the best one
        now, in one transaction.

        A report updates its trial's metrics, last_step and, if it has one, checkpoint. A step that the trial has
        reported before (an attempt that resumed behind it) is not recorded again; its checkpoint still is. An end moves
        the trial and its running attempt, if any (events: ATTEMPT_ENDED, TRIAL_MOVED). A trial that rests is RESTING,
        its running attempt, if any, PREEMPTED (the same events). ``best`` is a completed trial (event: TRIAL_BEST,
        unless it was the best already); None leaves the best one what it was.

        Raises:
            LeaseLostError.
            IllegalMoveError: a trial or the report's attempt has ended already.
            ValueError: ``best`` has no objective.
        """
        ...

    def undelivered(self, sweep_id: str, *, limit: int) -> Sequence[Report]:
        """The outbox: reports not delivered to the tracking server yet, by seq."""
        ...

    def mark_delivered(self, lease: Lease, *, up_to: int) -> None:
        """Every report of the lease's sweep with seq ≤ ``up_to`` has been delivered. Raises LeaseLostError."""
        ...


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What a sampler chose for a trial."""

    params: Mapping[str, Any]  # one value for each name of the space
    state: Mapping[str, Any] = field(
        default_factory=dict
    )  # JSON; goes to Trial.search_state and comes back when rebuilt


class Search(Protocol):
    """A sampler with what it knows. Built from the stored trials, so that it can be rebuilt at any time.

    Law: built from the same trials and asked for the same number, it draws the same point; for another number, another
    stream of random numbers.
    """

    def ask(self, number: int, given: Mapping[str, Any] | None = None) -> Draw:
        """Choose the parameters of the search trial of that number, which is then pending; those that are given have
        the given values.
        """
        ...

    def tell(self, trial: Trial) -> None:
        """Take note of how a trial ended. Telling the same trial twice changes nothing."""
        ...
