"""Random lives of a sweep: conductors that come, die and are overtaken, workers that are lost, users who pause, extend
and retry; over every store. Whatever happens, no trial is lost or done twice, and in the end all of the budget is used.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from postgres_server import new_database
from sqlalchemy import text
from sqlalchemy.engine import URL
from store_values import FakeClock, new_sweep

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.domain.amendment import amended_spec
from sweep_service.domain.errors import IllegalMoveError, LeaseLostError, SpecChangedError
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import AttemptState, SweepState, TrialEnding, TrialState, Verb
from sweep_service.domain.trial import Lease, Role, Sweep, Trial
from sweep_service.execution.actor import open_optuna_search
from sweep_service.ports import SweepStore
from sweep_service.services.checkpoints import CheckpointFolders, Removals
from sweep_service.services.generation import Generation, Pause
from sweep_service.services.losses import Loss
from sweep_service.services.packs import Departure, LaneMessage
from sweep_service.services.plan import Plan
from sweep_service.storage.database import open_engine
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import SqlSweepStore
from sweep_service.storage.tables import metadata
from trainables.catalog import load_catalog

CATALOG = load_catalog()
LONG = timedelta(hours=1)
STEPS, EVERY = 20, 10
SPEC = SweepSpec.model_validate(
    {
        "name": "lives",
        "trainable": "digits",
        "params": {"steps": STEPS},
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
        "search": {"sampler": "tpe", "seed": 3},
        "budget": {"trials": 2},
        "resources": {"parallel": 2},
        "retries": 1,
    }
)

VERBS = [Verb.PAUSE, Verb.RESUME, Verb.RESUME, Verb.RETRY]
EXTENSIONS = [(1, 1), (2, 3), (3, 1), (4, 2), (6, 3)]  # trials, packs

World = tuple[SweepStore, Callable[[], None]]
"""An empty store, and what has every lease in it run out."""


@dataclass(frozen=True, kw_only=True)
class _Opens:
    open: Callable[[], World]


class LivesOfSweeps(RuleBasedStateMachine):
    """A user, a dispatcher, and conductors with their packs, each a rule of which the next is drawn."""

    world: ClassVar[_Opens]

    @initialize()
    def submit(self) -> None:
        self.store, self.expire_leases = self.world.open()
        self.id = self.store.add_sweep(new_sweep(spec=SPEC)).id
        self.most_trials = SPEC.budget.trials
        self.lease: Lease | None = None
        self.generation: Generation | None = None
        self.newest = ""  # token of the last lease that was given
        self.overtaken: list[tuple[Lease, Generation]] = []
        self.packs: dict[str, dict[str, int]] = {}  # steps by trial
        self.num_packs = 0
        self.is_done = False  # the generation has no pack to start any more
        self.final: dict[str, Trial] = {}

    @property
    def sweep(self) -> Sweep:
        return self.store.get_sweep(self.id)

    # --- the dispatcher and the death of conductors -------------------------------------------------------------------

    @rule()
    def claim(self) -> None:
        lease = self.store.claim_sweep(owner=f"conductor {len(self.overtaken)}", ttl=LONG)
        if lease is None:
            return
        self._forget()
        self.newest = lease.token
        sweep = self.sweep
        if sweep.state is SweepState.STARTING:
            sweep = self.store.move_sweep(lease, SweepState.RUNNING)
        self.lease = lease
        self.generation = Generation(
            store=self.store,
            lease=lease,
            sweep=sweep,
            trials=self.store.list_trials(self.id),
            open_plan=_open_plan,
            clock=FakeClock(),
            checkpoints=CheckpointFolders(FolderFiles(), "/nonexistent", self.id, Removals()),
        )
        self.generation.take_up()
        self.watch()

    @precondition(lambda self: self.generation is not None)
    @rule(kind=st.sampled_from(["heartbeat", "heartbeat", "expire", "crash"]))
    def let_time_pass(self, kind: str) -> None:
        """Who crashes leaves a lease that lives; whose lease has run out may go on for a while, and must not write."""
        if kind == "crash":
            self._forget()
        elif kind == "expire":
            self.expire_leases()
        else:
            with self._conducting():
                assert self.lease is not None
                self.lease = self.store.renew_lease(self.lease, ttl=LONG)

    @rule()
    def expire(self) -> None:
        """Of a conductor that has crashed, in the end."""
        if self.generation is None:
            self.expire_leases()

    @precondition(lambda self: self.overtaken)
    @rule(data=st.data())
    def an_overtaken_conductor_writes(self, data: st.DataObject) -> None:
        lease, generation = data.draw(st.sampled_from(self.overtaken))
        if lease.token == self.newest:
            return  # it has crashed, and its lease may live
        with pytest.raises(LeaseLostError):
            self.store.renew_lease(lease, ttl=LONG)
        with pytest.raises(LeaseLostError):
            self.store.add_notice(lease, "I am still here")
        with suppress(LeaseLostError):
            generation.next_pack("late")

    # --- packs --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.generation is not None)
    @rule()
    def start_pack(self) -> None:
        with self._conducting() as generation:
            self.num_packs += 1
            key = f"pack-{self.num_packs}"
            pause = generation.next_pack(key)
            if pause is None:
                order = generation.begin(key, node="n")
                self.packs[key] = {lane.trial_id: self._step(lane.trial_id) for lane in order.lanes}
            self.is_done = pause is Pause.DONE

    @precondition(lambda self: self.generation is not None)
    @rule()
    def train_on(self) -> None:
        """What goes well most of the time."""
        self.start_pack()
        for key in sorted(self.packs):
            if key in self.packs:  # its conductor may have lost the lease meanwhile
                self._report(key, checkpoint=True)

    @precondition(lambda self: self.is_done)
    @rule(wish=st.sampled_from([None, Verb.RETRY, *EXTENSIONS]))
    def end(self, wish: Verb | tuple[int, int] | None) -> None:
        """All is done, and a user may ask for more at the last moment."""
        if wish is not None:
            self.ask(wish=wish, sees_it=True)
        with self._conducting() as generation:
            assert self.lease is not None
            outcome = generation.outcome()
            revision = None if outcome.state is SweepState.PAUSED else generation.revision
            with suppress(SpecChangedError, IllegalMoveError):  # the next one goes on
                self.store.move_sweep(self.lease, outcome.state, reason=outcome.reason, revision=revision)
            self.store.release_lease(self.lease)
            self._forget()

    @precondition(lambda self: self.packs)
    @rule(data=st.data(), checkpoint=st.booleans())
    def report(self, data: st.DataObject, checkpoint: bool) -> None:
        self._report(data.draw(st.sampled_from(sorted(self.packs))), checkpoint=checkpoint)

    @precondition(lambda self: self.packs)
    @rule(data=st.data(), ending=st.sampled_from([TrialEnding.ERROR, TrialEnding.NON_FINITE]))
    def fail(self, data: st.DataObject, ending: TrialEnding) -> None:
        lanes = [(key, trial_id) for key, steps in sorted(self.packs.items()) for trial_id in steps]
        if lanes:
            key, trial_id = data.draw(st.sampled_from(lanes))
            step = self.packs[key].pop(trial_id)
            with self._conducting() as generation:
                message = LaneMessage(trial_id=trial_id, step=step, metrics={}, ending=ending, message="it failed")
                generation.report(key, [message])

    @precondition(lambda self: self.packs)
    @rule(data=st.data(), loss=st.sampled_from([None, Loss.WORKER, Loss.NODE]))
    def end_pack(self, data: st.DataObject, loss: Loss | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.packs)))
        del self.packs[key]
        with self._conducting() as generation:
            generation.pack_over(key, loss=loss, message="gone")

    # --- users --------------------------------------------------------------------------------------------------------

    @rule(wish=st.sampled_from([*VERBS, *EXTENSIONS]), sees_it=st.booleans())
    def ask(self, wish: Verb | tuple[int, int], sees_it: bool) -> None:
        if isinstance(wish, Verb):
            with suppress(IllegalMoveError):
                self.store.control_sweep(self.id, wish)
                if wish is Verb.RETRY:
                    self.final = {k: t for k, t in self.final.items() if t.state is not TrialState.FAILED}
        else:
            sweep, (trials, parallel) = self.sweep, wish
            patch = {"budget": {"trials": trials}, "resources": {"parallel": parallel}}
            self.store.amend_sweep(self.id, amended_spec(sweep.spec, patch, CATALOG), revision=sweep.revision)
            self.most_trials = max(self.most_trials, trials)
        if sees_it and self.generation is not None:
            self.watch()

    @precondition(lambda self: self.generation is not None)
    @rule()
    def watch(self) -> None:
        """The conductor looks for what users have asked for."""
        standing = self.store.get_standing(self.id)
        with self._conducting() as generation:
            if generation.revision != standing.revision:
                generation.amend(self.sweep)
            if standing.state is SweepState.PAUSING:
                generation.pause()

    # --- laws ---------------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_or_done_twice(self) -> None:
        trials = self.store.list_trials(self.id)
        assert [trial.number for trial in trials] == list(range(len(trials)))
        points = [tuple(sorted(trial.searched.items())) for trial in trials]
        assert len(set(points)) == len(points), "none is drawn twice"
        used = [t for t in trials if t.role is Role.SEARCH and (not t.state.is_ended or t.state.counts_in_budget)]
        assert len(used) <= self.most_trials
        sweep = self.sweep
        if sweep.state is SweepState.COMPLETED:
            assert len(used) >= sweep.spec.budget.trials
        for trial in trials:
            before = self.final.get(trial.id, trial)
            assert trial == before, "what has ended stays so"
            if trial.state.is_ended:
                self.final[trial.id] = trial
            attempts = self.store.list_attempts(trial.id)
            running = [attempt for attempt in attempts if attempt.state is AttemptState.RUNNING]
            assert len(running) <= (trial.state is TrialState.RUNNING)
            steps = [report.step for report in self.store.list_reports(trial.id)]
            assert len(set(steps)) == len(steps)

    @invariant()
    def all_is_told(self) -> None:
        told = self.store.list_events(self.id, limit=10_000)
        assert [event.seq for event in told] == list(range(1, len(told) + 1))
        ends = [e.trial_id for e in told if e.kind == "trial.moved" and e.data["to"] in ("completed", "infeasible")]
        assert len(set(ends)) == len(ends), "a result is told once"

    def teardown(self) -> None:
        """Nobody interferes any more: the sweep comes to its end, with as many trials as it was to have."""
        if not hasattr(self, "id"):
            return
        self._forget()
        self.expire_leases()
        for _ in range(3):  # it may be pausing first
            with suppress(IllegalMoveError):
                self.store.control_sweep(self.id, Verb.RESUME)
            self.claim()
            for _ in range(200):
                if self.generation is None:
                    break
                self.train_on()
                if self.is_done:
                    self.end(wish=None)
        sweep = self.sweep
        assert sweep.state.is_ended, sweep.state
        self.nothing_is_lost_or_done_twice()
        assert all(trial.state.is_ended for trial in self.store.list_trials(self.id))
        if isinstance(self.store, SqlSweepStore):
            self.store.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    @contextmanager
    def _conducting(self) -> Iterator[Generation]:
        """What a conductor does as long as it may: one that has lost its lease ends."""
        assert self.generation is not None
        try:
            yield self.generation
        except LeaseLostError:
            self._forget()

    def _forget(self) -> None:
        if self.lease is not None and self.generation is not None:
            self.overtaken.append((self.lease, self.generation))
        self.lease = self.generation = None
        self.packs = {}
        self.is_done = False

    def _report(self, key: str, *, checkpoint: bool) -> None:
        steps = self.packs[key]
        for trial_id in steps:
            steps[trial_id] += EVERY
        messages = [_message(key, trial_id, step, checkpoint=checkpoint) for trial_id, step in steps.items()]
        with self._conducting() as generation:
            departures = generation.report(key, messages) if messages else {}
            resting = [trial_id for trial_id, departure in departures.items() if departure is Departure.RESTS]
            if resting:
                last = [
                    LaneMessage(trial_id=t, step=steps[t], metrics={}, checkpoint=f"/{key}/{t}/{steps[t]}", rests=True)
                    for t in resting
                ]
                generation.report(key, last)
            ended = {message.trial_id for message in messages if message.ending is not None}
            self.packs[key] = {t: step for t, step in steps.items() if t not in ended | departures.keys()}
            if not self.packs[key]:
                del self.packs[key]
                generation.pack_over(key, loss=None)

    def _step(self, trial_id: str) -> int:
        return self.store.get_trial(trial_id).last_step


def _message(key: str, trial_id: str, step: int, *, checkpoint: bool) -> LaneMessage:
    ending = TrialEnding.COMPLETED if step >= STEPS else None
    path = f"/{key}/{trial_id}/{step}" if checkpoint else None
    return LaneMessage(
        trial_id=trial_id, step=step, metrics={"val/normalized_loss": 1 / step}, checkpoint=path, ending=ending
    )


def _open_plan(sweep: Sweep, trials: Any) -> Plan:
    trainable = CATALOG[sweep.spec.trainable]
    return Plan(sweep=sweep, trainable=trainable, trials=trials, open_search=open_optuna_search(sweep))


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def open_world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], World]]:
    if request.param == "postgresql":
        server: URL = request.getfixturevalue("postgres_server")
        with new_database(server) as url:
            migrate(url)
            engine = open_engine(url)
            yield lambda: _postgres_world(engine)
            engine.dispose()
    elif request.param == "sqlite":
        migrate(f"sqlite:///{tmp_path / 'template.db'}")
        yield lambda: _sqlite_world(tmp_path)
    else:
        yield _memory_world


def _memory_world() -> World:
    clock = FakeClock()
    return MemorySweepStore(clock), lambda: clock.advance(2 * LONG)


def _sqlite_world(folder: Path) -> World:
    clock = FakeClock()
    file = Path(tempfile.mkdtemp(dir=folder)) / "store.db"
    shutil.copy(folder / "template.db", file)
    return SqlSweepStore(open_engine(f"sqlite:///{file}"), clock), lambda: clock.advance(2 * LONG)


def _postgres_world(engine: Any) -> World:
    """Its clock is the server's own: leases are made to have run out instead."""
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)}"))

    def expire() -> None:
        with engine.begin() as connection:
            past = "now() - interval '1 second'"
            connection.execute(text(f"UPDATE sweeps SET lease_expires_at = {past} WHERE lease_expires_at IS NOT NULL"))

    return SqlSweepStore(engine), expire


def test_whatever_happens_in_the_life_of_a_sweep_nothing_is_lost_or_done_twice(
    open_world: Callable[[], World], request: pytest.FixtureRequest
) -> None:
    class Machine(LivesOfSweeps):
        world = _Opens(open=open_world)

    num_lives = {"memory": 150, "sqlite": 15, "postgresql": 10}[request.node.callspec.params["open_world"]]
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=num_lives,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
