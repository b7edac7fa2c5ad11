"""A conductor over a store in memory and packs that end as a test says: every way in which a sweep can end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conductor_fakes import CATALOG, RecordingTracker, ShakyStore, small_spec
from store_values import START, new_attempt, new_sweep, new_trial

from sweep_service.clock import SystemClock
from sweep_service.domain.errors import ClusterLostError, LeaseLostError, PackOverError, TrackingUnavailableError
from sweep_service.domain.events import EventKind
from sweep_service.domain.logs import LogLine, LogStream
from sweep_service.domain.resources import Resources
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState, Verb
from sweep_service.domain.trial import Cluster, Lease, NodeResources, Sweep, Trial
from sweep_service.execution.actor import open_optuna_search
from sweep_service.services.conductor import Conductor
from sweep_service.services.generation import Pause
from sweep_service.services.importance import WeighParameters
from sweep_service.services.packs import LaneLines, LaneMessage, PackOrder
from sweep_service.services.supply import PackSupply
from sweep_service.settings import Settings

PATIENCE_S = 10.0


class FakePacks:
    """Runs packs in the conductor's own thread. ``during`` is called once each has begun, and may raise."""

    def __init__(self) -> None:
        self.conductor: Conductor | None = None
        self.during: Callable[[str, PackOrder], None] = lambda key, order: None
        self.has_place = threading.Event()  # for packs to start in
        self.has_place.set()
        self.on_waiting: Callable[[], None] = lambda: None
        self.on_kill: Callable[[], None] = lambda: None
        self.killed: list[Any] = []
        self.nodes = (NodeResources(node="n", cpus=2, gpus=0),)
        self.num_looks = 0
        self.cluster_errors: list[Exception] = []
        self.ends_early = False
        self._num_packs = 0

    def run(self, supply: PackSupply, resources: Resources) -> None:
        while not supply.is_over:
            self._num_packs += 1
            key = f"pack-{self._num_packs}"
            pause = supply.next_pack(key)
            if pause is Pause.DONE:
                return
            if pause is Pause.WAIT:
                assert threading.Event().wait(0.01) is False
                continue
            if self.ends_early:
                return
            if not self.has_place.is_set():
                self.on_waiting()
            while not self.has_place.wait(0.01):
                if supply.is_over:
                    return
            self._run_pack(supply, key)

    def _run_pack(self, supply: PackSupply, key: str) -> None:
        conductor = self.conductor
        assert conductor is not None
        try:
            order = conductor.begin(key, "node", f"worker of {key}")
            self.during(key, order)
            messages = [last_message(lane.trial_id) for lane in order.lanes]
            if messages:
                conductor.report(key, messages)
        except WorkerDiedError:
            supply.pack_over(key, lost=True)
        except (LeaseLostError, PackOverError):
            supply.pack_over(key, lost=True)
        else:
            supply.pack_over(key, lost=False)

    def end(self, workers: Mapping[str, Any]) -> None:
        self.on_kill()
        self.killed += workers.values()

    def cluster(self) -> Cluster:
        self.num_looks += 1
        if self.cluster_errors:
            raise self.cluster_errors.pop()
        return Cluster(nodes=self.nodes, seen_at=START)


class WorkerDiedError(Exception):
    """What a test raises for the death of a pack's worker."""


def last_message(trial_id: str) -> LaneMessage:
    metrics = {"val/normalized_loss": 1.0, "test/normalized_loss": 1.0}
    return LaneMessage(trial_id=trial_id, step=20, metrics=metrics, ending=TrialEnding.COMPLETED)


def said(trial_id: str, first: int, *texts: str) -> LaneLines:
    lines = tuple(LogLine(at=START, stream=LogStream.STDOUT, text=text) for text in texts)
    return LaneLines(trial_id=trial_id, first=first, lines=lines)


class House:
    """A claimed sweep with all that its conductor needs."""

    def __init__(self, home: Path, spec: SweepSpec, **settings: Any) -> None:
        quick = {"lease_ttl": timedelta(seconds=30), "poll_interval": timedelta(milliseconds=5)}
        quick |= {"unschedulable_after": timedelta(0)}
        self.settings = Settings(home=home, **quick | settings)
        self.store = ShakyStore(SystemClock())
        self.store.publish_catalog(list(CATALOG.values()))
        self.store.add_sweep(new_sweep(spec=spec))
        self.tracker = RecordingTracker()
        self.packs = FakePacks()
        self.weigh: WeighParameters = lambda sweep, trials: None
        self.lease = self.claim()

    def claim(self) -> Lease:
        lease = self.store.claim_sweep(owner="test", ttl=timedelta(seconds=60))
        assert lease is not None
        return lease

    def conductor(self) -> Conductor:
        conductor = Conductor(
            name=f"conductor-{self.lease.generation}",
            lease=self.lease,
            settings=self.settings,
            store=self.store,
            tracker=self.tracker,
            open_search=open_optuna_search,
            weigh_parameters=self.weigh,
            runner=self.packs,
            clock=SystemClock(),
        )
        self.packs.conductor = conductor
        return conductor

    def run(self) -> Sweep:
        """The conductor's whole life; fails rather than wait for ever."""
        thread = threading.Thread(target=self.conductor().run, daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the conductor does not end"
        return self.sweep

    @property
    def sweep(self) -> Sweep:
        return self.store.get_sweep(self.lease.sweep_id)

    @property
    def trials(self) -> list[Trial]:
        return list(self.store.list_trials(self.lease.sweep_id))

    def ask(self, verb: Verb) -> None:
        self.store.control_sweep(self.lease.sweep_id, verb)

    def await_state(self, *states: TrialState) -> None:
        """Until every trial is in one of these."""
        for _ in range(500):
            if {trial.state for trial in self.trials} <= set(states):
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"not {states}: {[trial.state for trial in self.trials]}")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, small_spec(budget={"trials": 3}, resources={"parallel": 1}))


def test_a_sweep_is_run_to_its_end_and_let_go(house: House) -> None:
    sweep = house.run()
    assert (sweep.state, sweep.reason) == (SweepState.COMPLETED, SweepReason.BUDGET_TRIALS)
    assert [trial.state for trial in house.trials] == [TrialState.COMPLETED] * 3
    assert (sweep.results or {})["best"]["trial_id"] == sweep.best_trial_id
    assert house.tracker.closed[f"run of {sweep.id}"] == "completed"
    assert len(house.tracker.closed) == 4
    assert house.packs.killed == [], "a worker whose pack is over is none of the conductor's"
    with pytest.raises(LeaseLostError):
        house.store.renew_lease(house.lease, ttl=timedelta(seconds=1))


@pytest.mark.parametrize(
    ("verb", "state"), [(Verb.STOP, SweepState.STOPPED), (Verb.CANCEL, SweepState.CANCELLED)], ids=str
)
def test_a_verb_that_comes_while_the_end_is_delivered_is_obeyed(house: House, verb: Verb, state: SweepState) -> None:
    house.tracker.on_close_sweep = lambda: house.ask(verb)
    sweep = house.run()
    assert (sweep.state, sweep.reason) == (state, SweepReason.USER)
    assert {trial.state for trial in house.trials} == {TrialState.COMPLETED}
    assert sweep.results is not None


@pytest.mark.parametrize(
    ("verb", "state"), [(Verb.STOP, SweepState.STOPPED), (Verb.CANCEL, SweepState.CANCELLED)], ids=str
)
def test_a_verb_that_comes_before_the_start_is_obeyed(house: House, verb: Verb, state: SweepState) -> None:
    house.ask(verb)
    assert house.run().state is state
    assert house.trials == []


@pytest.mark.parametrize("fail", ["before", "after"])
def test_a_cancel_is_obeyed_although_the_store_fails_in_the_middle_of_it(house: House, fail: Any) -> None:
    def hang(key: str, order: PackOrder) -> None:
        house.store.fails.extend([None, fail])  # the first write is the asking
        house.ask(Verb.CANCEL)
        house.await_state(TrialState.CANCELLED)

    house.packs.during = hang
    assert house.run().state is SweepState.CANCELLED
    assert house.packs.killed[0] == "worker of pack-1"
    assert [trial.state for trial in house.trials] == [TrialState.CANCELLED]


@pytest.mark.parametrize("fails", [[], [None, "before"], [None, "after"]], ids=str)
def test_a_trial_that_is_cancelled_is_no_failure_however_slowly_its_worker_dies(tmp_path: Path, fails: Any) -> None:
    """Its worker is dead before the store knows of the cancel; nothing starts in between."""
    house = House(tmp_path, small_spec(retries=0, resources={"parallel": 1}))
    killed = threading.Event()

    def kill_slowly() -> None:
        killed.set()
        threading.Event().wait(0.3)

    house.packs.on_kill = kill_slowly

    def die_with_it(key: str, order: PackOrder) -> None:
        house.store.fails.extend(fails)
        house.ask(Verb.CANCEL)
        assert killed.wait(PATIENCE_S)
        raise WorkerDiedError

    house.packs.during = die_with_it
    assert house.run().state is SweepState.CANCELLED
    assert [(trial.state, trial.num_attempts) for trial in house.trials] == [(TrialState.CANCELLED, 1)]


@pytest.mark.parametrize(
    ("verb", "state"), [(Verb.STOP, SweepState.STOPPED), (Verb.CANCEL, SweepState.CANCELLED)], ids=str
)
def test_a_sweep_whose_packs_wait_for_a_place_can_be_ended(house: House, verb: Verb, state: SweepState) -> None:
    house.packs.has_place.clear()
    house.packs.on_waiting = lambda: house.ask(verb)
    assert house.run().state is state
    assert [trial.state for trial in house.trials] == [TrialState.CANCELLED]


def test_what_no_node_can_ever_hold_fails_with_what_was_asked_and_what_there_is(tmp_path: Path) -> None:
    house = House(tmp_path, small_spec(resources={"gpus": 4}), unschedulable_after=timedelta(milliseconds=50))
    sweep = house.run()
    assert (sweep.state, sweep.reason) == (SweepState.FAILED, SweepReason.UNSCHEDULABLE)
    assert "4 GPUs" in sweep.message
    assert house.packs.num_looks >= 2
    assert house.tracker.closed[f"run of {sweep.id}"] == "failed"


def test_a_node_that_joins_in_time_is_waited_for(tmp_path: Path) -> None:
    spec = small_spec(budget={"trials": 1}, resources={"gpus": 4})
    house = House(tmp_path, spec, unschedulable_after=timedelta(seconds=PATIENCE_S))
    timer = threading.Timer(0.2, setattr, [house.packs, "nodes", (NodeResources(node="g", cpus=2, gpus=4),)])
    timer.start()
    assert house.run().state is SweepState.COMPLETED
    timer.join()


def test_a_later_generation_too_fails_where_the_nodes_that_held_it_are_gone(house: House) -> None:
    house.store.move_sweep(house.lease, SweepState.RUNNING)
    searched = {"alpha": 1.0, "lr": 1e-3}
    house.store.add_trials(house.lease, [new_trial(house.lease.sweep_id, searched=searched)])
    house.packs.nodes = ()
    sweep = house.run()
    assert (sweep.state, sweep.reason) == (SweepState.FAILED, SweepReason.UNSCHEDULABLE)
    assert "no node at all" in sweep.message
    assert [trial.state for trial in house.trials] == [TrialState.CANCELLED]


def test_the_end_of_the_controller_costs_the_packs_that_ran_and_not_the_sweep(house: House) -> None:
    ends = iter([RuntimeError("a worker took too much memory")])

    def end_once(key: str, order: PackOrder) -> None:
        with suppress(StopIteration):
            raise next(ends)

    house.packs.during = end_once
    assert house.run().state is SweepState.COMPLETED
    assert [trial.num_attempts for trial in house.trials] == [2, 1, 1]
    first, _ = house.store.list_attempts(house.trials[0].id)
    assert (first.state, first.message) == (AttemptState.LOST, "Ray ended its pack: a worker took too much memory")
    assert house.packs.killed[0] == "worker of pack-1"


def test_a_worker_whose_pack_is_lost_is_ended_before_its_trial_goes_on_elsewhere(house: House) -> None:
    """What Ray Tune lost may be the pack's place alone, and not the process that trains it."""
    order_of_events: list[str] = []
    house.packs.on_kill = lambda: order_of_events.append(f"end, {house.trials[0].state}")

    def lose_once(key: str, order: PackOrder) -> None:
        order_of_events.append(key)
        if key == "pack-1":
            raise WorkerDiedError

    house.packs.during = lose_once
    assert house.run().state is SweepState.COMPLETED
    assert order_of_events[:3] == ["pack-1", "end, running", "pack-2"]
    assert house.packs.killed == ["worker of pack-1"], "nobody ends a worker whose pack is over"


def test_a_worker_that_could_not_be_told_what_to_train_is_let_go(house: House) -> None:
    refused: list[Exception] = []

    def begin_too_late(key: str, order: PackOrder) -> None:
        if not refused:
            assert house.packs.conductor is not None
            with pytest.raises(PackOverError) as caught:
                house.packs.conductor.begin("a pack that has been given up", "node", "worker of another sweep")
            refused.append(caught.value)

    house.packs.during = begin_too_late
    assert house.run().state is SweepState.COMPLETED
    assert refused
    assert house.packs.killed == []


def test_a_controller_that_ends_again_and_again_costs_its_trials_and_ends_the_sweep(house: House) -> None:
    def end(key: str, order: PackOrder) -> None:
        raise RuntimeError("too much memory")

    house.packs.during = end
    sweep = house.run()
    assert (sweep.state, sweep.reason) == (SweepState.FAILED, SweepReason.TOO_MANY_FAILURES)
    assert {trial.ending for trial in house.trials} == {TrialEnding.WORKER_LOST}
    assert "too much memory" in sweep.message


def test_what_a_worker_says_of_its_end_is_kept_with_the_attempt(house: House) -> None:
    ends = iter(["OSError: no space left on device"])

    def end_once(key: str, order: PackOrder) -> None:
        for text in ends:
            assert house.packs.conductor is not None
            house.packs.conductor.explain(key, text)
            raise WorkerDiedError

    house.packs.during = end_once
    assert house.run().state is SweepState.COMPLETED
    first, _ = house.store.list_attempts(house.trials[0].id)
    assert (first.state, first.message) == (AttemptState.LOST, "OSError: no space left on device")


def test_a_controller_that_ends_too_early_is_no_end_of_the_sweep(house: House) -> None:
    house.packs.ends_early = True
    sweep = house.run()
    assert (sweep.state, sweep.reason) == (SweepState.FAILED, SweepReason.ERROR)
    assert "before all trials" in sweep.message
    assert {trial.state for trial in house.trials} == {TrialState.CANCELLED}


def test_a_cluster_that_cannot_be_listed_for_a_moment_fails_nothing(tmp_path: Path) -> None:
    house = House(tmp_path, small_spec(budget={"trials": 1}), unschedulable_after=timedelta(seconds=PATIENCE_S))
    house.packs.cluster_errors = [ClusterLostError("a moment")]
    assert house.run().state is SweepState.COMPLETED


def test_a_workers_note_on_a_trial_is_an_event_of_the_sweep(house: House) -> None:
    def note(key: str, order: PackOrder) -> None:
        if key == "pack-1":
            assert house.packs.conductor is not None
            house.packs.conductor.note(order.lanes[0].trial_id, "its checkpoint cannot be read")

    house.packs.during = note
    house.run()
    told = [e for e in house.store.list_events(house.sweep.id, limit=500) if e.kind is EventKind.SWEEP_NOTICE]
    assert [(e.trial_id, e.message) for e in told] == [(house.trials[0].id, "its checkpoint cannot be read")]


def test_what_workers_warn_of_is_an_event_of_the_sweep_and_once(house: House) -> None:
    def warn(key: str, order: PackOrder) -> None:
        assert house.packs.conductor is not None
        house.packs.conductor.warn("no CUDA")

    house.packs.during = warn
    house.run()
    told = [e for e in house.store.list_events(house.sweep.id, limit=500) if e.kind is EventKind.SWEEP_NOTICE]
    assert [(e.trial_id, e.message) for e in told] == [(None, "no CUDA")]


def test_what_a_pack_says_is_kept_with_its_attempt_and_once(house: House) -> None:
    def talk(key: str, order: PackOrder) -> None:
        conductor = house.packs.conductor
        assert conductor is not None
        (lane,) = order.lanes
        assert conductor.log(key, [said(lane.trial_id, 0, "one", "two")])
        for fail, sent in (("before", ("two", "three")), ("after", ("two", "three")), (None, ("two", "three", "four"))):
            house.store.fails.append(fail)
            assert conductor.log(key, [said(lane.trial_id, 1, *sent)]) is (fail is None)
        conductor.log(key, [said("trl_of_another_pack", 0, "lost")])
        conductor.log("pack that was given up", [said(lane.trial_id, 9, "too late")])

    house.packs.during = talk
    assert house.run().state is SweepState.COMPLETED
    for trial in house.trials:
        kept = [(line.attempt, line.line.text) for line in house.store.list_trial_logs(trial.id)]
        assert kept == [(0, "one"), (0, "two"), (0, "three"), (0, "four")]
    assert len(house.store.list_sweep_logs(house.lease.sweep_id)) == 12


def test_lines_that_a_store_does_not_take_hold_up_nothing(house: House) -> None:
    def talk(key: str, order: PackOrder) -> None:
        house.store.fails.append("before")
        assert house.packs.conductor is not None
        assert house.packs.conductor.log(key, [said(order.lanes[0].trial_id, 0, "a word")]) is False

    house.packs.during = talk
    assert house.run().state is SweepState.COMPLETED
    assert house.store.list_sweep_logs(house.lease.sweep_id) == []


def test_a_report_waits_for_a_store_that_is_away(house: House) -> None:
    house.packs.during = lambda key, order: house.store.fails.extend(["before", "after"])
    assert house.run().state is SweepState.COMPLETED
    assert [(trial.state, trial.num_attempts) for trial in house.trials] == [(TrialState.COMPLETED, 1)] * 3


def test_a_fault_of_the_conductor_ends_the_sweep_and_all_that_is_open(house: House) -> None:
    house.store.move_sweep(house.lease, SweepState.RUNNING)
    left = new_trial(house.lease.sweep_id)
    house.store.add_trials(house.lease, [left])
    house.store.start_attempt(house.lease, new_attempt(left))
    house.store.publish_catalog([])
    sweep = house.run()
    assert (sweep.state, sweep.reason) == (SweepState.FAILED, SweepReason.ERROR)
    assert "'digits' is in the catalogue no more" in sweep.message
    assert [trial.state for trial in house.trials] == [TrialState.CANCELLED]
    assert house.tracker.closed == {f"run of {left.id}": "cancelled", f"run of {sweep.id}": "failed"}


def test_a_fault_while_a_sweep_is_being_cancelled_ends_it_cancelled(house: House) -> None:
    house.store.publish_catalog([])
    house.ask(Verb.CANCEL)
    assert house.run().state is SweepState.CANCELLED


def test_a_conductor_whose_lease_is_taken_kills_its_workers_and_writes_nothing_more(house: House) -> None:
    def taken(key: str, order: PackOrder) -> None:
        house.store.release_lease(house.lease)
        house.claim()
        for _ in range(500):
            if house.packs.killed:
                return
            threading.Event().wait(0.01)

    house.packs.during = taken
    house.settings = house.settings.model_copy(update={"lease_ttl": timedelta(seconds=2)})
    sweep = house.run()
    assert (sweep.state, sweep.generation) == (SweepState.RUNNING, 2)
    assert house.packs.killed == ["worker of pack-1"]
    assert [trial.state for trial in house.trials] == [TrialState.RUNNING]


def test_a_store_that_hangs_does_not_keep_the_workers_beyond_the_lease(house: House) -> None:
    """Renewing may block for longer than the lease lasts; somebody else then runs the sweep."""
    released = threading.Event()

    def hang(key: str, order: PackOrder) -> None:
        house.store.hangs_until = released
        for _ in range(500):
            if house.packs.killed:
                break
            threading.Event().wait(0.01)
        released.set()

    house.packs.during = hang
    house.settings = house.settings.model_copy(update={"lease_ttl": timedelta(seconds=2)})
    house.run()
    assert house.packs.killed == ["worker of pack-1"]
    assert [trial.state for trial in house.trials] == [TrialState.RUNNING]


def test_a_lease_is_kept_while_what_a_user_asks_waits_for_its_turn(house: House) -> None:
    """The search may take many seconds to come up with its next parameters, and lets nobody else at the plan."""

    def hold_up(key: str, order: PackOrder) -> None:
        assert house.packs.conductor is not None
        generation = house.packs.conductor._generation
        assert generation is not None
        with generation._lock:
            house.ask(Verb.STOP)
            threading.Event().wait(2.5)

    house.packs.during = hold_up
    house.settings = house.settings.model_copy(update={"lease_ttl": timedelta(seconds=2)})
    assert house.run().state is SweepState.STOPPED


def test_the_importance_of_the_parameters_is_among_the_results(house: House) -> None:
    asked: list[tuple[SweepState, int]] = []

    def weigh(sweep: Sweep, trials: Sequence[Trial]) -> dict[str, float]:
        asked.append((sweep.state, len(trials)))
        return {"lr": 0.75, "alpha": 0.25}

    house.weigh = weigh
    assert (house.run().results or {})["importance"] == {"lr": 0.75, "alpha": 0.25}
    assert asked == [(SweepState.COMPLETED, 3)]


def test_the_parameters_are_weighed_once_while_the_end_waits_for_the_tracking_server(house: House) -> None:
    asked: list[Sweep] = []
    house.weigh = lambda sweep, trials: asked.append(sweep)
    faults = [TrackingUnavailableError("away"), TrackingUnavailableError("away")]

    def answer() -> None:
        if faults:
            raise faults.pop()

    house.tracker.on_close_sweep = answer
    assert house.run().state is SweepState.COMPLETED
    assert faults == []
    assert len(asked) == 1


def test_a_fault_in_weighing_the_parameters_fails_no_sweep(house: House) -> None:
    def weigh(sweep: Sweep, trials: Sequence[Trial]) -> None:
        raise ZeroDivisionError

    house.weigh = weigh
    sweep = house.run()
    assert sweep.state is SweepState.COMPLETED
    assert (sweep.results or {})["importance"] is None
    assert (sweep.results or {})["best"] is not None


def test_a_cancelled_sweep_does_not_wait_for_its_parameters_to_be_weighed(house: House) -> None:
    asked: list[Sweep] = []
    house.weigh = lambda sweep, trials: asked.append(sweep)
    house.ask(Verb.CANCEL)
    assert house.run().state is SweepState.CANCELLED
    assert asked == []


def test_the_run_is_closed_with_the_curves_of_the_best_trial_and_of_each_baselines_best(tmp_path: Path) -> None:
    house = House(tmp_path, small_spec(budget={"trials": 2}, baselines=["equal"], resources={"parallel": 1}))
    results = house.run().results or {}
    wanted = {results["best"]["trial_id"], results["baselines"][0]["trial_id"]}
    assert set(house.tracker.curves) == wanted
    assert {report.trial_id for reports in house.tracker.curves.values() for report in reports} == wanted
