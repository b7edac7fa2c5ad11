"""What trains on a node that leaves the cluster goes on elsewhere, from a checkpoint and without a retry spent."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conductor_fakes import Rig, small_spec
from conductor_house import House
from lane_words import at_work

from sweep_service.domain.states import AttemptState, SweepState, TrialState
from sweep_service.services import conductor as conductor_module
from sweep_service.services.generation import Pause
from sweep_service.services.packs import Departure, LaneMessage, PackOrder


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def test_the_trials_of_such_a_pack_rest_at_their_next_report_and_no_others_do() -> None:
    rig = Rig(small_spec(budget={"trials": 2}, resources={"parallel": 2}, retries=0))
    (leaving, order), (staying, other) = started(rig), started(rig)
    rig.generation.move_away([leaving, "a pack that is over"])
    trial_id = order.lanes[0].trial_id
    assert rig.generation.report(leaving, [at_work(trial_id, 5)]) == {trial_id: Departure.RESTS}
    assert rig.generation.report(staying, [at_work(other.lanes[0].trial_id, 5)]) == {}
    assert rig.generation.refill(leaving, 1) == ()
    rig.generation.report(leaving, [LaneMessage(trial_id=trial_id, step=5, metrics={}, rests=True)])
    rig.generation.pack_over(leaving, loss=None)
    (attempt,) = rig.store.list_attempts(trial_id)
    assert attempt.state is AttemptState.PREEMPTED
    rig.train(staying, other)
    rig.run_to_end()
    assert {trial.state for trial in rig.trials if trial.id == trial_id} == {TrialState.COMPLETED}
    assert len(rig.store.list_attempts(trial_id)) == 2


def test_a_change_of_how_many_may_run_does_not_keep_it_there() -> None:
    rig = Rig(small_spec(budget={"trials": 2}, resources={"parallel": 2}))
    key, order = started(rig)
    rig.generation.move_away([key])
    rig.amend(resources={"parallel": 3})
    assert list(rig.generation.report(key, [at_work(order.lanes[0].trial_id, 5)]).values()) == [Departure.RESTS]


def test_the_conductor_looks_at_the_nodes_of_its_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor_module, "NODES_INTERVAL_S", 0.01)
    house = House(tmp_path, small_spec(budget={"trials": 2}, baselines=[], confirm=None))
    told: list[Departure] = []

    def during(key: str, order: PackOrder) -> None:
        if key != "pack-1":
            return
        house.packs.leaving_workers.add("worker of pack-1")
        lane = order.lanes[0]
        conductor = house.packs.conductor
        assert conductor is not None
        for step in range(1, 6000):
            told.extend(conductor.packs.report(key, [at_work(lane.trial_id, step)]).values())
            if told:
                break
            time.sleep(0.01)  # five hundred reports without a rest were over before anybody had looked at the nodes
        conductor.packs.report(key, [LaneMessage(trial_id=lane.trial_id, step=step, metrics={}, rests=True)])

    house.packs.during = during
    house.run()
    assert told == [Departure.RESTS]
    assert house.sweep.state is SweepState.COMPLETED


def test_a_place_on_such_a_node_is_given_up_before_anything_begins_there(tmp_path: Path) -> None:
    house = House(tmp_path, small_spec(budget={"trials": 2}, baselines=[], confirm=None, retries=0))
    house.packs.leaving_workers = {"worker of pack-1", "worker of pack-2"}
    begun: list[str] = []
    house.packs.during = lambda key, order: begun.append(key)
    house.run()
    assert house.sweep.state is SweepState.COMPLETED
    assert [(trial.state, trial.num_attempts) for trial in house.trials] == [(TrialState.COMPLETED, 1)] * 2
    assert not {"pack-1", "pack-2"} & set(begun)


def test_such_a_pack_gets_no_more_trials() -> None:
    refilled = {}
    for is_leaving in (False, True):
        rig = Rig(small_spec(budget={"trials": 3}, baselines=[], resources={"parallel": 1, "lanes": 2}))
        key, _ = started(rig)
        rig.generation.settle(key, 2, "")
        rig.generation.move_away([key] if is_leaving else [])
        refilled[is_leaving] = len(rig.generation.refill(key, 1))
    assert refilled == {False: 1, True: 0}
