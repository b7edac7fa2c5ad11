"""A conductor over a store in memory: every way in which a sweep can end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conductor_fakes import small_spec
from conductor_house import PATIENCE_S, House, WorkerDiedError, await_that
from store_values import new_attempt, new_trial

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.domain.errors import LeaseLostError, TrackingUnavailableError
from sweep_service.domain.states import SweepReason, SweepState, TrialState, Verb
from sweep_service.domain.trial import Lease, NodeResources, Sweep, Trial
from sweep_service.services import conductor
from sweep_service.services.packs import PackOrder

SHORT_TTL = timedelta(seconds=4)
"""Of a lease that is seen to be renewed, or to be lost. It is renewed after a third and given up after four fifths: a
process that gets no processor for the time between has lost it, and is right."""


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


class SilentFiles(FolderFiles):
    """A store of objects that takes what it is asked and never answers."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def folders(self, name: str) -> Sequence[str]:
        self.asked.set()
        threading.Event().wait(PATIENCE_S)
        return []

    def remove_folder(self, name: str) -> None:
        self.folders(name)


def test_a_sweep_ends_although_the_store_of_its_checkpoints_does_not_answer(house: House, monkeypatch: Any) -> None:
    monkeypatch.setattr(conductor, "REMOVALS_WITHIN_S", 0.2)
    house.files = files = SilentFiles()
    assert house.run().state is SweepState.COMPLETED
    assert files.asked.is_set()


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
        await_that(lambda: house.packs.killed, what="the end of its worker")

    house.packs.during = taken
    house.settings = house.settings.model_copy(update={"lease_ttl": SHORT_TTL})
    sweep = house.run()
    assert (sweep.state, sweep.generation) == (SweepState.RUNNING, 2)
    assert house.packs.killed == ["worker of pack-1"]
    assert [trial.state for trial in house.trials] == [TrialState.RUNNING]


def test_a_store_that_hangs_does_not_keep_the_workers_beyond_the_lease(house: House) -> None:
    """Renewing may block for longer than the lease lasts; somebody else then runs the sweep."""
    released = threading.Event()

    def hang(key: str, order: PackOrder) -> None:
        house.store.hangs_until = released
        try:
            await_that(lambda: house.packs.killed, what="the end of its worker")
        finally:
            released.set()

    house.packs.during = hang
    house.settings = house.settings.model_copy(update={"lease_ttl": SHORT_TTL})
    house.run()
    assert house.packs.killed == ["worker of pack-1"]
    assert [trial.state for trial in house.trials] == [TrialState.RUNNING]


def test_a_lease_is_kept_while_what_a_user_asks_waits_for_its_turn(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search may take many seconds to come up with its next parameters, and lets nobody else at the plan."""
    renewed: list[Lease] = []
    renew = house.store.renew_lease

    def count(lease: Lease, *, ttl: timedelta) -> Lease:
        renewed.append(lease)
        return renew(lease, ttl=ttl)

    def hold_up(key: str, order: PackOrder) -> None:
        assert house.packs.conductor is not None
        generation = house.packs.conductor._generation
        assert generation is not None
        with generation._lock:
            house.ask(Verb.STOP)
            num_before = len(renewed)
            await_that(lambda: len(renewed) >= num_before + 2, what="that it is renewed, and again")

    monkeypatch.setattr(house.store, "renew_lease", count)
    house.packs.during = hold_up
    house.settings = house.settings.model_copy(update={"lease_ttl": SHORT_TTL})
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
