"""A sweep that limits leave fewer packs than it wants: which of them give way, and that it waits and does not end."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest
from conductor_fakes import Rig, small_spec
from conductor_house import PATIENCE_S, House
from lane_words import at_work
from store_values import TTL, new_attempt, new_sweep, new_trial

from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.events import EventKind
from sweep_service.domain.limits import PackLimit
from sweep_service.domain.states import AttemptState, SweepState, TrialState
from sweep_service.domain.trial import Lease
from sweep_service.services.generation import Pause
from sweep_service.services.limits import UNLIMITED, Allowance
from sweep_service.services.packs import Departure, LaneMessage, PackOrder

NONE = Allowance(most=0, startable=0, told="Held back.")


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def leave(rig: Rig, key: str, order: PackOrder) -> None:
    """The pack's only lane rests, as it was told, and its worker ends."""
    told = rig.generation.report(key, [at_work(order.lanes[0].trial_id, 5)])
    assert set(told.values()) == {Departure.RESTS}
    left = LaneMessage(trial_id=order.lanes[0].trial_id, step=5, metrics={}, rests=True)
    rig.generation.report(key, [left])
    rig.generation.pack_over(key, loss=None)


def notices(rig: Rig) -> list[str]:
    events = rig.store.list_events(rig.sweep.id, limit=1000)
    return [event.message for event in events if event.kind is EventKind.SWEEP_NOTICE]


def test_no_more_packs_start_than_are_allowed() -> None:
    rig = Rig(small_spec(resources={"parallel": 3}))
    rig.generation.allow(Allowance(most=2, startable=1))
    started(rig)
    assert rig.start_pack() is Pause.WAIT
    rig.generation.allow(Allowance(most=2, startable=2))
    started(rig)
    assert rig.start_pack() is Pause.WAIT
    rig.generation.allow(UNLIMITED)
    started(rig)
    assert rig.start_pack() is Pause.WAIT, "as many as the spec wants"


def test_of_packs_too_many_the_newest_give_way_and_none_is_sent_away_for_what_others_have_yet_to_give_back() -> None:
    rig = Rig(small_spec(budget={"trials": 3}, resources={"parallel": 3}))
    packs = [started(rig) for _ in range(3)]
    rig.generation.allow(Allowance(most=2, startable=0))
    departures = [rig.generation.report(key, [at_work(order.lanes[0].trial_id, 5)]) for key, order in packs]
    assert [list(told.values()) for told in departures] == [[], [], [Departure.RESTS]]


def test_a_sweep_that_may_have_no_pack_waits_and_goes_on_without_a_retry_spent() -> None:
    rig = Rig(small_spec(budget={"trials": 2}, resources={"parallel": 2}, retries=0))
    packs = [started(rig) for _ in range(2)]
    rig.generation.allow(NONE)
    for key, order in packs:
        leave(rig, key, order)
    for _ in range(3):
        assert rig.start_pack() is Pause.WAIT
    assert not rig.generation.is_over
    assert {trial.state for trial in rig.trials} == {TrialState.RUNNING}
    assert {rig.store.list_attempts(trial.id)[0].state for trial in rig.trials} == {AttemptState.PREEMPTED}
    rig.generation.allow(UNLIMITED)
    rig.run_to_end()
    assert [(trial.state, trial.num_attempts) for trial in rig.trials] == [(TrialState.COMPLETED, 2)] * 2


def test_one_that_has_nothing_left_to_do_ends_although_it_may_have_no_pack() -> None:
    rig = Rig(small_spec(budget={"trials": 1}))
    rig.train(*started(rig))
    rig.generation.allow(NONE)
    assert rig.start_pack() is Pause.DONE


@pytest.mark.parametrize(("verb", "pause"), [("stop", Pause.DONE), ("cancel", Pause.DONE), ("pause", Pause.DONE)])
def test_one_that_waits_for_its_first_pack_can_be_ended_and_paused(verb: str, pause: Pause) -> None:
    rig = Rig(small_spec(budget={"trials": 2}))
    rig.generation.allow(NONE)
    assert rig.start_pack() is Pause.WAIT
    getattr(rig.generation, verb)()
    assert rig.start_pack() is pause


def test_what_a_stop_lets_finish_waits_for_its_pack() -> None:
    rig = Rig(small_spec(budget={"trials": 4}))
    pack = started(rig)
    rig.generation.allow(NONE)
    leave(rig, *pack)
    rig.generation.stop()
    assert rig.start_pack() is Pause.WAIT
    rig.generation.allow(Allowance(most=1, startable=1))
    rig.run_to_end()
    assert rig.trials[0].state is TrialState.COMPLETED


def test_a_pack_that_has_not_begun_gives_way_before_one_that_has() -> None:
    rig = Rig(small_spec(budget={"trials": 2}))
    assert rig.generation.next_pack("waits") is None
    key, order = started(rig)
    rig.generation.allow(Allowance(most=1, startable=1))
    assert rig.generation.begin("waits", node="here").lanes == ()
    assert rig.generation.report(key, [at_work(order.lanes[0].trial_id, 5)]) == {}


def test_a_pack_does_not_begin_where_another_sweep_has_been_faster() -> None:
    rig = Rig(small_spec(budget={"trials": 2}))
    assert rig.generation.next_pack("waits") is None
    rig.generation.allow(Allowance(most=1, startable=0))
    assert rig.generation.begin("waits", node="here").lanes == ()
    rig.generation.pack_over("waits", loss=None)
    assert rig.start_pack() is Pause.WAIT
    rig.generation.allow(Allowance(most=1, startable=1))
    rig.run_to_end()
    assert [trial.num_attempts for trial in rig.trials] == [1, 1]


def test_what_holds_a_sweep_back_is_told_once() -> None:
    rig = Rig(small_spec())
    rig.store.fails.append("before")
    with pytest.raises(StoreUnavailableError):
        rig.generation.allow(NONE)
    for _ in range(3):
        rig.generation.allow(NONE)
    rig.generation.allow(UNLIMITED)
    rig.generation.allow(NONE)
    assert notices(rig) == ["Held back."]


def test_a_larger_parallel_does_not_lift_the_limit() -> None:
    rig = Rig(small_spec(resources={"parallel": 2}))
    rig.generation.allow(Allowance(most=1, startable=1))
    started(rig)
    rig.amend(resources={"parallel": 3})
    assert rig.start_pack() is Pause.WAIT


# --- the conductor ----------------------------------------------------------------------------------------------------


def limited_house(tmp_path: Path) -> House:
    """A sweep under a limit of one pack."""
    return House(tmp_path, small_spec(budget={"trials": 2}), limits=(PackLimit(project="default", packs=1),))


def urgent_sweep(house: House, *, packs: int) -> Lease:
    """Another sweep, of a higher priority, that runs so many packs."""
    sweep = house.store.add_sweep(new_sweep(1, spec=small_spec(priority=1)))
    lease = house.store.claim_sweep(owner="another", ttl=TTL)
    assert lease is not None
    house.store.move_sweep(lease, SweepState.RUNNING)
    for number in range(packs):
        trial = new_trial(sweep.id, number)
        house.store.add_trials(lease, [trial])
        house.store.start_attempt(lease, new_attempt(trial))
    return lease


def test_a_conductor_starts_nothing_until_a_more_urgent_sweep_is_done(tmp_path: Path) -> None:
    house = limited_house(tmp_path)
    other = urgent_sweep(house, packs=1)
    begun: list[str] = []
    house.packs.during = lambda key, order: begun.extend(lane.trial_id for lane in order.lanes)
    thread = threading.Thread(target=house.conductor().run, daemon=True)
    thread.start()
    house.await_notice("Held back by the limit of 1 pack at once for the project default.")
    thread.join(0.2)
    assert (begun, house.sweep.state) == ([], SweepState.RUNNING)
    house.store.move_sweep(other, SweepState.FAILED)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert (len(begun), house.sweep.state) == (2, SweepState.COMPLETED)


def test_a_pack_that_comes_up_after_another_sweep_has_taken_its_place_does_not_begin(tmp_path: Path) -> None:
    house = limited_house(tmp_path)
    house.settings = house.settings.model_copy(update={"poll_interval": timedelta(seconds=1)})  # the watch is late
    house.packs.has_place.clear()
    others: list[Lease] = []

    def take_its_place() -> None:
        others.append(urgent_sweep(house, packs=1))
        house.packs.has_place.set()

    lanes: list[int] = []

    def end_the_other(key: str, order: PackOrder) -> None:
        lanes.append(len(order.lanes))
        if others:
            house.store.move_sweep(others.pop(), SweepState.FAILED)

    house.packs.on_waiting = take_its_place
    house.packs.during = end_the_other
    assert house.run().state is SweepState.COMPLETED
    assert lanes == [0, 1, 1]


def test_a_sweep_under_no_limit_asks_nothing_of_the_others(tmp_path: Path) -> None:
    house = House(tmp_path, small_spec(budget={"trials": 1}), limits=(PackLimit(label="team:ads", packs=1),))
    urgent_sweep(house, packs=3)
    assert house.run().state is SweepState.COMPLETED
