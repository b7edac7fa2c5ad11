"""A conductor whose process is to end: it lets go of its sweep, and the next one goes on where it has left off."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from conductor_fakes import Rig, small_spec
from conductor_house import PATIENCE_S, House, await_that
from lane_words import at_work

from sweep_service.domain.states import AttemptState, SweepState, TrialState, Verb
from sweep_service.services.generation import Pause
from sweep_service.services.losses import Loss
from sweep_service.services.packs import Departure, LaneMessage, PackOrder

LONG = timedelta(seconds=PATIENCE_S)  # time that a process which is to end leaves its trials, more than they need


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def rested(trial_id: str, checkpoint: Path) -> LaneMessage:
    checkpoint.write_bytes(b"weights")
    return LaneMessage(trial_id=trial_id, step=5, metrics={}, checkpoint=str(checkpoint), rests=True)


@pytest.mark.parametrize("is_stopping", [False, True])
def test_what_runs_leaves_a_checkpoint_and_goes_on_in_the_next_generation(tmp_path: Path, *, is_stopping: bool) -> None:
    rig = Rig(small_spec(budget={"trials": 2}, retries=0), checkpoint_root=tmp_path)
    key, order = started(rig)
    trial_id = order.lanes[0].trial_id
    if is_stopping:
        rig.store.control_sweep(rig.sweep.id, Verb.STOP)
        rig.generation.stop()
    rig.generation.leave()
    assert not rig.generation.is_over
    assert rig.start_pack() is Pause.WAIT
    assert rig.generation.refill(key, 1) == ()
    assert rig.generation.report(key, [at_work(trial_id, 5)]) == {trial_id: Departure.RESTS}
    rig.generation.report(key, [rested(trial_id, tmp_path / "5.pt")])
    assert rig.generation.is_over
    rig.generation.pack_over(key, loss=None)
    assert rig.start_pack() is Pause.DONE
    (attempt,) = rig.store.list_attempts(trial_id)
    assert (attempt.state, attempt.message) == (AttemptState.PREEMPTED, "The service is shutting down.")
    assert rig.sweep.state is (SweepState.STOPPING if is_stopping else SweepState.RUNNING)
    assert [trial.state for trial in rig.trials] == [TrialState.RUNNING], "it does not rest, it goes on"
    rig.next_generation()
    if is_stopping:
        rig.generation.stop()
    key, order = started(rig)
    assert [lane.resume_from for lane in order.lanes] == [str(tmp_path / "5.pt")]
    rig.train(key, order)
    rig.run_to_end()
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * (1 if is_stopping else 2)


def test_what_waits_for_a_place_does_not_start_and_a_worker_that_dies_now_costs_no_retry() -> None:
    rig = Rig(small_spec(budget={"trials": 2}, resources={"parallel": 2, "lanes": 1}, retries=0))
    key, order = started(rig)
    assert rig.generation.next_pack("waits") is None
    rig.generation.leave()
    assert rig.generation.begin("waits", node="here").lanes == ()
    rig.generation.pack_over("waits", loss=None)
    rig.generation.pack_over(key, loss=Loss.WORKER, message="killed")
    assert rig.store.get_trial(order.lanes[0].trial_id).state is TrialState.RUNNING
    assert rig.start_pack() is Pause.DONE


def test_a_cancel_comes_before_it() -> None:
    rig = Rig(small_spec())
    key, order = started(rig)
    rig.generation.leave()
    rig.store.control_sweep(rig.sweep.id, Verb.CANCEL)
    rig.generation.cancel()
    assert rig.generation.report(key, [at_work(order.lanes[0].trial_id, 5)]) == {
        order.lanes[0].trial_id: Departure.ENDED
    }
    assert rig.generation.is_over
    assert rig.generation.outcome().state is SweepState.CANCELLED


def test_a_conductor_lets_go_of_its_sweep_and_of_its_lease(house: House) -> None:
    orders: list[PackOrder] = []

    def train(key: str, order: PackOrder) -> None:
        conductor = house.packs.conductor
        assert conductor is not None
        orders.append(order)
        if len(orders) > 1:
            return
        conductor.leave(LONG)
        trial_id = order.lanes[0].trial_id
        for step in range(1, 6000):
            if conductor.packs.report(key, [at_work(trial_id, step)]):
                conductor.packs.report(
                    key, [LaneMessage(trial_id=trial_id, step=step, metrics={}, checkpoint="/c/1", rests=True)]
                )
                return
            threading.Event().wait(0.01)

    house.packs.during = train
    sweep = house.run()
    assert (sweep.state, sweep.ended_at, len(orders)) == (SweepState.RUNNING, None, 1)
    assert house.tracker.closed == {}
    following = house.store.claim_sweep(owner="next", ttl=timedelta(seconds=60))
    assert following is not None, "nobody has to wait for the lease to run out"
    house.lease = following
    assert house.run().state is SweepState.COMPLETED
    assert [trial.state for trial in house.trials] == [TrialState.COMPLETED] * 3
    assert house.trials[0].num_attempts == 2


def test_trials_that_come_to_no_report_in_time_are_ended_and_the_lease_is_released(house: House) -> None:
    def hang(key: str, order: PackOrder) -> None:
        conductor = house.packs.conductor
        assert conductor is not None
        conductor.leave(timedelta(seconds=0.3))
        await_that(lambda: house.packs.killed, what="the end of its worker")
        raise ConnectionError("its worker was ended")

    house.packs.during = hang
    assert house.run().state is SweepState.RUNNING
    assert house.packs.killed == ["worker of pack-1"]
    following = house.store.claim_sweep(owner="next", ttl=timedelta(seconds=60))
    assert following is not None
    house.lease = following
    house.packs.during = lambda key, order: None
    assert house.run().state is SweepState.COMPLETED
    assert [trial.state for trial in house.trials] == [TrialState.COMPLETED] * 3


def test_a_sweep_that_waits_for_the_tracking_server_to_end_is_let_go_at_once(house: House) -> None:
    house.tracker.is_away = True

    def leave_later(key: str, order: PackOrder) -> None:
        conductor = house.packs.conductor
        assert conductor is not None
        if len(house.trials) == 3:
            threading.Timer(0.3, conductor.leave, [LONG]).start()

    house.packs.during = leave_later
    assert house.run().state is SweepState.RUNNING
    assert [trial.state for trial in house.trials] == [TrialState.COMPLETED] * 3
    house.tracker.is_away = False
    house.packs.during = lambda key, order: None
    house.lease = house.claim()
    assert house.run().state is SweepState.COMPLETED


@pytest.mark.parametrize(("verb", "state"), [(Verb.PAUSE, SweepState.PAUSED), (Verb.CANCEL, SweepState.CANCELLED)])
def test_what_a_user_asks_for_at_the_same_time_is_done(house: House, verb: Verb, state: SweepState) -> None:
    def ask(key: str, order: PackOrder) -> None:
        conductor = house.packs.conductor
        assert conductor is not None
        house.ask(verb)
        conductor.leave(LONG)
        trial_id = order.lanes[0].trial_id
        for step in range(1, 6000):
            departures = conductor.packs.report(key, [at_work(trial_id, step)])
            if departures.get(trial_id) is Departure.RESTS:
                conductor.packs.report(
                    key, [LaneMessage(trial_id=trial_id, step=step, metrics={}, checkpoint="/c/1", rests=True)]
                )
            if departures or house.packs.killed:
                return
            threading.Event().wait(0.01)

    house.packs.during = ask
    sweep = house.run()
    if sweep.state is not state:  # it had let go before it looked
        following = house.store.claim_sweep(owner="next", ttl=timedelta(seconds=60))
        assert following is not None
        house.lease = following
        sweep = house.run()
    assert sweep.state is state
