"""Random sequences of calls: the SQL store says and does what the store in memory does."""

from __future__ import annotations

import atexit
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from store_values import SPEC, START, FakeClock, new_attempt, new_end, new_report, new_sweep, new_trial, said

from sweep_service.domain.errors import SweepServiceError
from sweep_service.domain.keys import ANONYMOUS, Actor, ApiKey, KeyRole
from sweep_service.domain.states import (
    PASSED_OVER,
    AttemptState,
    SweepReason,
    SweepState,
    TrialEnding,
    TrialState,
    Verb,
)
from sweep_service.domain.trial import Cluster, Lease, NodeResources, Report, Sweep, Trial
from sweep_service.ports import SubmissionKey, SweepFilter, SweepStore, TrialEnd
from sweep_service.storage.database import open_engine
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import SqlSweepStore

SWEEP_IDS = [new_sweep(index).id for index in range(3)]
NUMBERS = range(4)
ANN = Actor(name="ann", key_id=f"key_{'0' * 25}7")
LONG = timedelta(minutes=10)

# Most draws are of what can succeed: nearly all sequences would be nothing but refusals otherwise.
sweep_ids = st.sampled_from([*[SWEEP_IDS[0]] * 5, *SWEEP_IDS[1:]])
numbers = st.sampled_from(NUMBERS)
rarely = st.sampled_from([0] * 7 + [1])
ttls = st.sampled_from([LONG] * 6 + [timedelta(seconds=30), timedelta(0)])
messages = st.text(max_size=5)
priorities = st.sampled_from([0, 0, 0, 1, -1])
packs = st.tuples(st.sampled_from([1, 1, 1, 2]), st.sampled_from(["a", "a", "b", "", "\x00"]))  # generation, name
metric_values = st.floats(allow_subnormal=False)
documents = st.dictionaries(
    st.sampled_from(["verdict", "leaderboard"]),
    st.recursive(st.none() | st.floats() | st.text(max_size=3), lambda x: st.lists(x, max_size=2), max_leaves=3)
    | st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    max_size=2,
)


@cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="sweep-store-machine-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    migrate(f"sqlite:///{folder / 'template.db'}")
    return folder / "template.db"


def _key_id(index: int) -> str:
    return f"key_{index:026d}"


class SameStores(RuleBasedStateMachine):
    """Each rule does the same to both stores and compares what comes of it."""

    @initialize()
    def open_stores(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sweep-store-machine-"))
        shutil.copy(_template(), self.folder / "store.db")
        self.clock = FakeClock()
        self.memory = MemorySweepStore(self.clock)
        self.sql = SqlSweepStore(open_engine(f"sqlite:///{self.folder / 'store.db'}"), self.clock)
        # Tokens are random, so each store has its own lease. Of a sweep, every lease so far; the last is the current.
        self.leases: dict[str, list[tuple[Lease, Lease]]] = {sweep_id: [] for sweep_id in SWEEP_IDS}
        for index in range(2):
            self.add_sweep(index, "")
        for sweep_id in SWEEP_IDS[:2]:
            self.claim_sweep(LONG, winding_up_only=False)
            self.add_trials(sweep_id, 0, [0, 1, 2])
            self.move_sweep(sweep_id, 0, SweepState.RUNNING, None, "")
            for number in (0, 1):
                self.start_attempt(sweep_id, number, 0, 0, (1, "a"))

    def teardown(self) -> None:
        if not hasattr(self, "sql"):
            return
        self.both(lambda store, _: list(store.list_audit(limit=1000)))
        for sweep_id in SWEEP_IDS:
            self.both(lambda store, _, i=sweep_id: store.undelivered(i, limit=1000))
            self.both(lambda store, _, i=sweep_id: store.busy_time(i))
            for number in NUMBERS:
                trial_id = new_trial(sweep_id, number).id
                self.both(lambda store, _, i=trial_id: store.list_attempts(i))
                self.both(lambda store, _, i=trial_id: store.list_reports(i))
                self.both(lambda store, _, i=trial_id: store.list_trial_logs(i, limit=1000))
        self.sql.close()
        shutil.rmtree(self.folder)

    def both(self, call: Callable[[SweepStore, Lease], Any], leases: tuple[Lease, Lease] | None = None) -> Any:
        """Do it to both and compare what it returns, or the kind of error that it raises."""
        mine, theirs = leases or (_NO_LEASE, _NO_LEASE)
        expected, actual = _outcome(call, self.memory, mine), _outcome(call, self.sql, theirs)
        assert repr(_without_tokens(actual)) == repr(_without_tokens(expected)), f"{actual}\nbut in memory: {expected}"
        return expected, actual

    def fenced(self, call: Callable[[SweepStore, Lease], Any], sweep_id: str, age: int) -> None:
        """With the current lease of the sweep, or an older one; then look at the sweep."""
        held = self.leases[sweep_id]
        self.both(call, held[-1 - age] if age < len(held) else None)
        self.both(lambda store, _: store.get_sweep(sweep_id))
        self.both(lambda store, _: store.list_trials(sweep_id))
        self.both(lambda store, _: store.list_events(sweep_id, limit=1000))

    # --- anybody ------------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 1, 1, 20, 40, 700]))
    def let_time_pass(self, seconds: int) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    @rule(index=st.integers(0, 2), message=messages, priority=priorities)
    def add_sweep(self, index: int, message: str, priority: int = 0) -> None:
        sweep = new_sweep(
            index, message=message, spec=SPEC.model_copy(update={"priority": priority}), queued_at=self.clock.now()
        )
        self.both(lambda store, _: store.add_sweep(sweep))

    @rule(index=st.integers(0, 2), word=st.sampled_from("ab"), digest=st.sampled_from("xy"))
    def add_sweep_under_a_key(self, index: int, word: str, digest: str) -> None:
        key = SubmissionKey(key=word, digest=digest)
        self.both(lambda store, _: store.add_sweep(new_sweep(index), key=key))
        self.both(lambda store, _: store.find_submitted(project="default", created_by="somebody", key=key))

    @rule(bound=st.none() | sweep_ids, limit=st.integers(1, 3), states=st.frozensets(st.sampled_from(SweepState)))
    def list_sweeps(self, bound: str | None, limit: int, states: frozenset[SweepState]) -> None:
        self.both(lambda store, _: store.list_sweeps(before=bound, limit=limit))
        only = SweepFilter(states=states, project="default", labels=frozenset(SPEC.labels.items()))
        self.both(lambda store, _: store.list_sweeps(after=bound, only=only, oldest_first=True, limit=limit))

    @rule(index=st.integers(0, 3), name=st.sampled_from("ab"), role=st.sampled_from(KeyRole))
    def add_key(self, index: int, name: str, role: KeyRole) -> None:
        now = self.clock.now()
        key = ApiKey(id=_key_id(index), name=name, role=role, created_at=now, created_by="somebody")
        self.both(lambda store, _: store.add_key(key, digest="d" * 64, by=ANN))
        self.both(lambda store, _: store.list_keys())

    @rule(index=st.integers(0, 3), ago=st.sampled_from([0, 30, 90]))
    def revoke_or_use_key(self, index: int, ago: int) -> None:
        used_at = self.clock.now() - timedelta(seconds=ago)
        if ago:
            self.both(lambda store, _: store.note_use(_key_id(index), used_at))
        else:
            self.both(lambda store, _: store.revoke_key(_key_id(index), by=ANN))
        self.both(lambda store, _: store.find_key(_key_id(index)))
        self.both(lambda store, _: store.list_keys())

    @rule(sweep_id=sweep_ids, verb=st.sampled_from(Verb), message=messages, by=st.sampled_from([ANN, ANONYMOUS]))
    def control_sweep(self, sweep_id: str, verb: Verb, message: str, by: Actor) -> None:
        self.both(lambda store, _: store.control_sweep(sweep_id, verb, message=message, by=by))
        self.both(lambda store, _: store.list_trials(sweep_id))
        self.both(lambda store, _: store.list_events(sweep_id, limit=1000))

    @rule(
        sweep_id=sweep_ids,
        trials=st.sampled_from([3, 4, 4, 5]),
        priority=priorities,
        revision=st.sampled_from([0, 0, 1, 2]),
    )
    def amend_sweep(self, sweep_id: str, trials: int, priority: int, revision: int) -> None:
        budget = SPEC.budget.model_copy(update={"trials": trials})
        spec = SPEC.model_copy(update={"budget": budget, "priority": priority})
        self.both(lambda store, _: store.amend_sweep(sweep_id, spec, revision=revision))
        self.both(lambda store, _: store.get_standing(sweep_id))
        self.both(lambda store, _: store.get_sweep(sweep_id))
        self.both(lambda store, _: store.list_events(sweep_id, limit=1000))

    @rule(sweep_id=sweep_ids, is_meant=rarely)
    def delete_sweep(self, sweep_id: str, is_meant: int) -> None:
        if is_meant:
            self.both(lambda store, _: store.delete_sweep(sweep_id))
            self.take_stock()  # forget it: only here may another one get its id
            self.both(lambda store, _: store.list_sweeps())
            self.both(lambda store, _: store.undelivered(sweep_id, limit=3))

    @rule(sweep_id=sweep_ids, number=numbers, after=st.integers(-1, 20), limit=st.integers(1, 5))
    def read_pages(self, sweep_id: str, number: int, after: int, limit: int) -> None:
        self.both(lambda store, _: store.get_trial(new_trial(sweep_id, number).id))
        self.both(lambda store, _: store.list_trials(sweep_id, after=after, limit=limit))
        self.both(lambda store, _: store.list_events(sweep_id, after=after, limit=limit))
        self.both(lambda store, _: store.undelivered(sweep_id, limit=limit))
        self.both(lambda store, _: store.list_reports_after(new_trial(sweep_id, number).id, after=after, limit=limit))

    @rule()
    def take_stock(self) -> None:
        """Equal but for the milliseconds to which SQLite knows the time."""
        expected, actual = self.memory.take_stock(), self.sql.take_stock()
        is_near = abs(actual.work.trial_times.total - expected.work.trial_times.total) < timedelta(milliseconds=100)
        assert is_near, f"{actual}\nbut in memory: {expected}"
        told = [
            replace(stock, work=replace(stock.work, trial_times=stock.work.trial_times.counts))
            for stock in (expected, actual)
        ]
        assert told[1] == told[0], f"{actual}\nbut in memory: {expected}"

    @rule(num_nodes=st.integers(0, 2))
    def publish(self, num_nodes: int) -> None:
        nodes = tuple(NodeResources(node=f"n{index}", cpus=2.0, gpus=0.5) for index in range(num_nodes))
        self.both(lambda store, _: store.publish_cluster(Cluster(nodes=nodes, seen_at=self.clock.now())))
        self.both(lambda store, _: store.read_cluster())
        self.both(lambda store, _: store.read_catalog())

    # --- the dispatcher -----------------------------------------------------------------------------------------------

    @rule(ttl=ttls, winding_up_only=rarely.map(bool), queued=st.none() | st.lists(sweep_ids, max_size=2))
    def claim_sweep(self, ttl: timedelta, winding_up_only: bool, queued: list[str] | None = None) -> None:
        self.both(lambda store, _: store.queue_places(SWEEP_IDS))
        options: dict[str, Any] = {"ttl": ttl, "winding_up_only": winding_up_only, "queued": queued}
        mine, theirs = self.both(lambda store, _: store.claim_sweep(owner="dispatcher", **options))
        if mine is not None:
            self.leases[mine.sweep_id].append((mine, theirs))

    @rule(ttl=ttls)
    def claim_late(self, ttl: timedelta) -> None:
        mine, theirs = self.both(lambda store, _: store.claim_late(owner="late", ttl=ttl))
        if mine is not None:
            self.leases[mine.sweep_id].append((mine, theirs))

    @rule(sweep_id=sweep_ids, age=rarely, wait=st.sampled_from([timedelta(0), timedelta(seconds=30), None]))
    def set_tracking_due(self, sweep_id: str, age: int, wait: timedelta | None) -> None:
        self.fenced(lambda store, lease: store.set_tracking_due(lease, wait), sweep_id, age)

    @rule(sweep_id=sweep_ids, reason=st.none() | st.sampled_from(sorted(PASSED_OVER)), message=messages)
    def explain_wait(self, sweep_id: str, reason: SweepReason | None, message: str) -> None:
        self.both(lambda store, _: store.explain_wait(sweep_id, reason, message))
        self.both(lambda store, _: store.list_events(sweep_id, limit=1000))
        self.both(lambda store, _: store.list_demands(SweepState))
        self.both(lambda store, _: store.queue_places(SWEEP_IDS))

    @rule(sweep_id=sweep_ids, age=rarely, ttl=ttls)
    def renew_lease(self, sweep_id: str, age: int, ttl: timedelta) -> None:
        self.fenced(lambda store, lease: store.renew_lease(lease, ttl=ttl), sweep_id, age)

    @rule(sweep_id=sweep_ids, age=rarely)
    def release_lease(self, sweep_id: str, age: int) -> None:
        self.fenced(lambda store, lease: store.release_lease(lease), sweep_id, age)

    # --- the conductor ------------------------------------------------------------------------------------------------

    @rule(
        sweep_id=sweep_ids,
        age=rarely,
        state=st.sampled_from([SweepState.RUNNING] * 3 + list(SweepState)),
        reason=st.none() | st.sampled_from(SweepReason),
        message=messages,
    )
    def move_sweep(self, sweep_id: str, age: int, state: SweepState, reason: SweepReason | None, message: str) -> None:
        self.fenced(lambda store, lease: store.move_sweep(lease, state, reason=reason, message=message), sweep_id, age)

    @rule(sweep_id=sweep_ids, number=st.none() | numbers, message=messages)
    def add_notice(self, sweep_id: str, number: int | None, message: str) -> None:
        trial_id = None if number is None else new_trial(sweep_id, number).id
        self.fenced(lambda store, lease: store.add_notice(lease, message, trial_id=trial_id), sweep_id, 0)

    @rule(sweep_id=sweep_ids, results=documents)
    def set_results(self, sweep_id: str, results: dict[str, Any]) -> None:
        self.fenced(lambda store, lease: store.set_results(lease, results), sweep_id, 0)

    @rule(sweep_id=sweep_ids, number=st.none() | numbers)
    def set_tracking_ref(self, sweep_id: str, number: int | None) -> None:
        trial_id = None if number is None else new_trial(sweep_id, number).id
        self.fenced(lambda store, lease: store.set_tracking_ref(lease, "run", trial_id=trial_id), sweep_id, 0)

    @rule(sweep_id=sweep_ids, age=rarely, chosen=st.lists(numbers, max_size=3))
    def add_trials(self, sweep_id: str, age: int, chosen: list[int]) -> None:
        trials = [new_trial(sweep_id, number, created_at=self.clock.now()) for number in chosen]
        self.fenced(lambda store, lease: store.add_trials(lease, trials), sweep_id, age)

    @rule(sweep_id=sweep_ids, number=numbers, age=rarely, ahead=rarely, pack=packs)
    def start_attempt(self, sweep_id: str, number: int, age: int, ahead: int, pack: tuple[int, str]) -> None:
        attempt = new_attempt(
            new_trial(sweep_id, number),
            self._num_attempts(sweep_id, number) + ahead,
            generation=pack[0],
            pack=pack[1],
            started_at=self.clock.now(),
        )
        self.fenced(lambda store, lease: store.start_attempt(lease, attempt), sweep_id, age)
        self.both(lambda store, _: store.busy_time(sweep_id))

    @rule(sweep_id=sweep_ids, number=numbers, back=rarely, state=st.sampled_from([AttemptState.LOST, *AttemptState]))
    def end_attempt(self, sweep_id: str, number: int, back: int, state: AttemptState) -> None:
        attempt_id = new_attempt(new_trial(sweep_id, number), self._num_attempts(sweep_id, number) - 1 - back).id
        self.fenced(lambda store, lease: store.end_attempt(lease, attempt_id, state, message="m"), sweep_id, 0)
        self.both(lambda store, _: store.busy_time(sweep_id))

    @rule(sweep_id=sweep_ids, number=numbers, back=rarely, age=rarely, first=st.integers(0, 12), size=st.integers(0, 6))
    def append_logs(self, sweep_id: str, number: int, back: int, age: int, first: int, size: int) -> None:
        attempt = new_attempt(new_trial(sweep_id, number), self._num_attempts(sweep_id, number) - 1 - back)
        # Some are long: a few calls are then more than is kept.
        lines = [f"{index}" * (40_000 if index % 3 else 1) for index in range(first, first + size)]
        self.fenced(lambda store, lease: store.append_logs(lease, [said(attempt, first, lines)]), sweep_id, age)
        self.both(lambda store, _: store.list_sweep_logs(sweep_id, after=first, limit=5))

    @rule(data=st.data(), sweep_id=sweep_ids, age=rarely)
    def record(self, data: st.DataObject, sweep_id: str, age: int) -> None:
        running = [trial.number for trial in self._trials(sweep_id) if trial.state is TrialState.RUNNING]
        likely = st.sampled_from([*running * 5, *NUMBERS])
        reports = data.draw(st.lists(likely.flatmap(lambda number: self._reports(sweep_id, number)), max_size=4))
        ends = data.draw(st.lists(likely.flatmap(lambda number: _ends(sweep_id, number)), max_size=1))
        rests = data.draw(st.lists(likely, max_size=1))
        resting = [new_trial(sweep_id, number).id for number in rests]
        self.fenced(lambda store, lease: store.record(lease, reports=reports, ends=ends, rests=resting), sweep_id, age)

    @rule(sweep_id=sweep_ids, checkpoint=st.none() | st.just("/c/3"))
    def report_of_all(self, sweep_id: str, checkpoint: str | None) -> None:
        """What goes well most of the time: every running trial reports its next step."""
        reports = [
            new_report(
                new_attempt(trial, trial.num_attempts - 1), trial.last_step + 10, objective=0.5, checkpoint=checkpoint
            )
            for trial in self._trials(sweep_id)
            if trial.state is TrialState.RUNNING
        ]
        self.fenced(lambda store, lease: store.record(lease, reports=reports), sweep_id, 0)

    @rule(sweep_id=sweep_ids, number=numbers, ending=st.sampled_from([TrialEnding.COMPLETED, *TrialEnding]))
    def end_trial(self, sweep_id: str, number: int, ending: TrialEnding) -> None:
        objective = 0.5 / (1 + number) if ending is TrialEnding.COMPLETED else None
        end = new_end(new_trial(sweep_id, number).id, ending, objective=objective, provenance={"code": "1"})
        self.fenced(lambda store, lease: store.record(lease, ends=[end]), sweep_id, 0)

    @rule(sweep_id=sweep_ids, number=numbers, becomes_best=st.none() | numbers)
    def complete_trial(self, sweep_id: str, number: int, becomes_best: int | None) -> None:
        """The named best is mostly the trial that ends, but may be any: one that runs, or that does not exist."""
        end = new_end(new_trial(sweep_id, number).id, TrialEnding.COMPLETED, objective=0.5 / (1 + number))
        best = new_trial(sweep_id, number if becomes_best is None else becomes_best).id
        self.fenced(lambda store, lease: store.record(lease, ends=[end], best=best), sweep_id, 0)
        self.fenced(lambda store, lease: store.record(lease, best=best), sweep_id, 0)

    @rule(sweep_id=sweep_ids, up_to=st.integers(-1, 12))
    def mark_delivered(self, sweep_id: str, up_to: int) -> None:
        self.fenced(lambda store, lease: store.mark_delivered(lease, up_to=up_to), sweep_id, 0)
        self.both(lambda store, _: store.undelivered(sweep_id, limit=3))

    def _trials(self, sweep_id: str) -> Sequence[Trial]:
        is_there = any(sweep.id == sweep_id for sweep in self.memory.list_sweeps())
        return self.memory.list_trials(sweep_id) if is_there else ()

    def _num_attempts(self, sweep_id: str, number: int) -> int:
        return next((trial.num_attempts for trial in self._trials(sweep_id) if trial.number == number), 0)

    def _reports(self, sweep_id: str, number: int) -> st.SearchStrategy[Report]:
        last = max(self._num_attempts(sweep_id, number) - 1, 0)
        return st.builds(
            lambda back, step, value, checkpoint: new_report(
                new_attempt(new_trial(sweep_id, number), max(last - back, 0)),
                step,
                metrics={"val/loss": value},
                objective=value,
                checkpoint=checkpoint,
            ),
            rarely,
            st.sampled_from([10, 20, 30, 40]),
            metric_values,
            st.none() | st.sampled_from(["/c/1", "/c/2"]),
        )


def _ends(sweep_id: str, number: int) -> st.SearchStrategy[TrialEnd]:
    return st.builds(
        lambda ending, objective, message: new_end(
            new_trial(sweep_id, number).id,
            ending,
            objective=objective if ending is TrialEnding.COMPLETED else None,
            message=message,
        ),
        st.sampled_from(TrialEnding),
        st.sampled_from([0.5, 0.25, 0.125, math.nan]),
        messages,
    )


_NO_LEASE = Lease(sweep_id=SWEEP_IDS[0], token="0" * 32, owner="nobody", generation=0, expires_at=START)


def _outcome(call: Callable[[SweepStore, Lease], Any], store: SweepStore, lease: Lease) -> Any:
    try:
        return call(store, lease)
    except (SweepServiceError, ValueError) as error:
        return type(error).__name__


def _without_tokens(value: Any) -> Any:
    """What both stores must agree on, in a form whose repr tells values apart, NaN included."""
    if isinstance(value, Lease):
        return replace(value, token="")
    if isinstance(value, Sweep):
        return replace(value, results=_sorted(value.results))
    if isinstance(value, list | tuple):
        return [_without_tokens(item) for item in value]
    return value


def _sorted(document: Any) -> Any:
    return dict(sorted(document.items())) if isinstance(document, dict) else document


TestSameStores = SameStores.TestCase
TestSameStores.settings = settings(
    max_examples=60, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
