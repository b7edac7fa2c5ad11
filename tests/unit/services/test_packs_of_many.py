"""Packs of many trials: who is trained with whom, how many at once, and what becomes of them when it goes wrong."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from conductor_fakes import Rig, small_spec
from conductor_house import said

from sweep_service.domain.errors import PackOverError, StoreUnavailableError
from sweep_service.domain.packing import num_startup
from sweep_service.domain.states import AttemptState, TrialState
from sweep_service.domain.trial import Role, Trial
from sweep_service.services.generation import Pause
from sweep_service.services.losses import Loss
from sweep_service.services.packs import LaneMessage, LaneOrder, PackOrder


def spec_of(trials: int = 16, sampler: str = "random", **changes: Any) -> Any:
    resources = {"parallel": 2, "lanes": "auto", **changes.pop("resources", {})}
    search = {"sampler": sampler, "seed": 5}
    return small_spec(budget={"trials": trials}, search=search, resources=resources, **changes)


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def settled(rig: Rig, places: int) -> None:
    """Train one trial, which finds out that a pack takes so many."""
    key, order = started(rig)
    rig.generation.settle(key, places)
    rig.train(key, order)


def ids(order: PackOrder | tuple[LaneOrder, ...] | list[LaneOrder]) -> list[str]:
    return [lane.trial_id for lane in (order.lanes if isinstance(order, PackOrder) else order)]


def notices(rig: Rig) -> list[str]:
    events = rig.store.list_events(rig.sweep.id, limit=500)
    return [event.message for event in events if event.kind == "sweep.notice"]


def running(rig: Rig) -> list[Trial]:
    return [trial for trial in rig.trials if trial.state is TrialState.RUNNING]


def test_the_first_pack_of_a_structure_begins_with_one_trial_and_is_to_find_out() -> None:
    rig = Rig(spec_of(16))
    _, order = started(rig)
    assert len(order.lanes) == 1
    assert (order.places, order.is_settled, order.is_measured) == (8, False, True), "16 trials over two packs"


def test_once_it_is_known_packs_are_filled_at_once_and_it_is_told_once() -> None:
    rig = Rig(spec_of(33))
    settled(rig, 12)
    for _ in range(2):
        _, order = started(rig)
        assert (len(order.lanes), order.places, order.is_settled) == (12, 12, True)
    assert isinstance(rig.start_pack(), Pause)
    assert notices(rig) == ["Up to 12 trials are trained together in a pack."]


def test_packs_that_could_run_besides_get_their_share() -> None:
    rig = Rig(spec_of(17))
    settled(rig, 16)
    assert [len(started(rig)[1].lanes) for _ in range(2)] == [8, 8]


def test_a_number_is_kept_to_whatever_others_get() -> None:
    rig = Rig(spec_of(17, resources={"lanes": 12}))
    key, order = started(rig)
    assert (order.places, order.is_settled, order.is_measured) == (12, False, False)
    rig.generation.settle(key, 12)
    rig.train(key, order)
    assert [len(started(rig)[1].lanes) for _ in range(2)] == [12, 4]


@pytest.mark.parametrize("resources", [{"lanes": 1}, {}], ids=["lanes 1", "found to be worth nothing"])
def test_trials_that_are_trained_one_by_one_are_packs_of_one(resources: dict[str, Any]) -> None:
    rig = Rig(spec_of(4, resources=resources))
    key, order = started(rig)
    if resources:
        assert (order.places, order.is_settled) == (1, False)
    else:
        rig.generation.settle(key, 1, "a step changes running_mean")
        assert notices(rig) == ["Trials are trained one by one, because a step changes running_mean."]
    rig.train(key, order)
    for _ in range(3):
        key, order = started(rig)
        assert (len(order.lanes), order.places) == (1, 1)
        rig.train(key, order)
    assert rig.start_pack() is Pause.DONE


@pytest.mark.parametrize("params", [{"micro_batches": 2}, {"autocast": "bfloat16"}], ids=str)
def test_what_is_never_fused_is_not_even_tried(params: dict[str, Any]) -> None:
    rig = Rig(spec_of(8, params={"steps": 20, **params}))
    _, order = started(rig)
    assert order.places == 1


def test_a_sampler_that_learns_is_asked_for_a_quarter_at_a_time() -> None:
    rig = Rig(spec_of(32, "tpe"))
    settled(rig, 16)
    at_random = num_startup(32)
    most = 0
    for _ in range(40):
        packs = [pack for _ in range(2) if not isinstance(pack := rig.start_pack(), Pause)]
        if not packs:
            break
        most = max(most, len(running(rig)))
        for key, order in packs:
            rig.train(key, order)
    assert len(rig.trials) == 32
    assert most == at_random == 8
    # Of a small one, as many as may run at once; and no pack is bounded where a number of lanes is asked for.
    assert [len(started(rig)[1].lanes) for rig in [Rig(spec_of(8, "tpe"))] for _ in range(2)] == [1, 1]
    forced = Rig(spec_of(32, "tpe", resources={"lanes": 30}))
    settled(forced, 30)
    assert len(started(forced)[1].lanes) == 30


def test_the_comparison_of_seeds_runs_at_once_and_single_tasks_by_themselves() -> None:
    rig = Rig(spec_of(2, baselines=["equal", "single_task"], confirm={"seeds": 6}, space={"lr": SPACE_LR}))
    structures: Counter[tuple[str, ...]] = Counter()
    for _ in range(100):
        result = rig.start_pack()
        if isinstance(result, Pause):
            break
        key, order = result
        if not order.is_settled:
            rig.generation.settle(key, 18)
        structures[tuple(sorted({lane.balancer == "single_task" for lane in order.lanes}))] += 1
        rig.train(key, order)
    assert len([trial for trial in rig.trials if trial.role is Role.CONFIRM]) == 18
    assert set(structures) == {(False,), (True,)}, "no pack has both kinds of networks"


SPACE_LR = {"type": "float", "low": 1e-4, "high": 1e-2}


def test_trials_of_another_structure_go_into_other_packs_and_none_is_lost() -> None:
    space = {"lr": SPACE_LR, "batch_size": {"type": "categorical", "choices": [16, 32]}}
    rig = Rig(spec_of(24, space=space))
    sizes = []
    for _ in range(100):
        result = rig.start_pack()
        if isinstance(result, Pause):
            break
        key, order = result
        assert len({lane.params["batch_size"] for lane in order.lanes}) == 1
        if not order.is_settled:
            rig.generation.settle(key, 6)
        sizes.append(len(order.lanes))
        rig.train(key, order)
    assert len(rig.trials) == sum(sizes) == 24
    assert {trial.state for trial in rig.trials} == {TrialState.COMPLETED}
    assert max(sizes) > 2


def test_a_share_of_dropout_may_differ_but_not_whether_there_is_any() -> None:
    space = {"dropout": {"type": "float", "low": 0.0, "high": 0.5}}
    rig = Rig(spec_of(4, space=space, initial=[{"dropout": 0.0}, {"dropout": 0.2}, {"dropout": 0.4}]))
    first = started(rig)
    rig.generation.settle(first[0], 4)
    second = started(rig)
    assert [lane.params["dropout"] for lane in first[1].lanes] == [0.0]
    rig.generation.settle(second[0], 4)
    more = rig.generation.refill(second[0], 3)
    assert 0.0 not in {lane.params["dropout"] for lane in more}
    assert len(more) == 2


def test_free_places_are_filled_with_trials_that_begin_there_and_then() -> None:
    rig = Rig(spec_of(8, resources={"parallel": 1}))
    key, order = started(rig)
    rig.generation.settle(key, 4)
    more = rig.generation.refill(key, 3)
    assert len(more) == 3
    assert len(running(rig)) == 4
    assert {rig.store.list_attempts(trial_id)[0].pack for trial_id in [*ids(order), *ids(list(more))]} == {key}
    assert rig.generation.refill(key, 0) == ()
    rig.generation.report(key, [rig.last_message(order.lanes[0].trial_id)])
    (fourth,) = rig.generation.refill(key, 1)
    assert rig.store.get_trial(fourth.trial_id).number == 4


def test_a_pack_is_not_refilled_while_others_wait_for_its_place() -> None:
    space = {"lr": SPACE_LR, "batch_size": {"type": "categorical", "choices": [16, 32]}}
    initial = [{"batch_size": 16}, {"batch_size": 32}, {"batch_size": 16}]
    rig = Rig(spec_of(8, space=space, initial=initial, resources={"parallel": 1}))
    key, order = started(rig)
    rig.generation.settle(key, 8)
    assert ids(list(rig.generation.refill(key, 7))), "one of them is of the other structure, and waits"
    rig.generation.report(key, [rig.last_message(order.lanes[0].trial_id)])
    assert rig.generation.refill(key, 1) == ()
    with pytest.raises(PackOverError):
        rig.generation.refill("pack-of-nobody", 1)


def test_who_stops_or_cancels_gets_no_new_trials_for_free_places() -> None:
    rig = Rig(spec_of(8, resources={"parallel": 1}))
    key, _ = started(rig)
    rig.generation.settle(key, 4)
    rig.generation.stop()
    assert rig.generation.refill(key, 3) == ()
    rig.generation.cancel()
    assert rig.generation.refill(key, 3) == ()


def test_a_pack_that_is_split_up_loses_no_trial_and_counts_against_none() -> None:
    rig = Rig(spec_of(9, retries=0))
    settled(rig, 8)
    key, order = started(rig)
    told = LaneMessage(trial_id=ids(order)[0], step=10, metrics={"val/normalized_loss": 1.0}, checkpoint="/c/10.pt")
    rig.generation.report(key, [told])
    rig.generation.split(key, len(order.lanes) // 2, "4 lanes do not fit into the memory.")
    rig.generation.pack_over(key, loss=None)
    attempts = [rig.store.list_attempts(trial_id)[0].state for trial_id in ids(order)]
    assert set(attempts) == {AttemptState.PREEMPTED}
    assert "A pack is split up: 4 lanes do not fit into the memory." in notices(rig)
    halves = [started(rig) for _ in range(2)]
    assert [ids(half[1]) for half in halves] == [ids(order)[:2], ids(order)[2:]]
    for half in halves:
        rig.train(*half)
    rig.run_to_end()
    assert {trial.state for trial in rig.trials} == {TrialState.COMPLETED}


def test_a_worker_that_dies_in_company_is_nobodys_fault_and_the_guilty_one_is_alone_in_the_end() -> None:
    rig = Rig(spec_of(9, retries=1, resources={"parallel": 1}))
    settled(rig, 8)
    guilty = None
    companies = []
    for _ in range(100):
        result = rig.start_pack()
        if isinstance(result, Pause):
            break
        key, order = result
        guilty = guilty or ids(order)[3]
        if guilty in ids(order):
            companies.append(len(order.lanes))
            rig.generation.pack_over(key, loss=Loss.WORKER, message="Its worker process died.")
        else:
            rig.train(key, order)
    assert companies == [8, 4, 2, 1, 1], "half the company each time, then two workers of its own"
    states = {trial.id: trial.state for trial in rig.trials}
    assert states.pop(guilty or "") is TrialState.FAILED
    assert set(states.values()) == {TrialState.COMPLETED}


def test_a_failed_step_halves_the_company_of_who_was_there_and_of_nobody_else() -> None:
    rig = Rig(spec_of(17, resources={"parallel": 1}))
    settled(rig, 8)
    key, order = started(rig)
    rig.generation.split(key, 4, "they cannot go on together, because a step failed.", is_of_all=False)
    rig.generation.pack_over(key, loss=None)
    sizes = []
    while not isinstance(result := rig.start_pack(), Pause):
        sizes.append(len(result[1].lanes))
        rig.train(*result)
    assert sizes == [4, 4, 8]
    assert {attempt.state for attempt in rig.store.list_attempts(ids(order)[0])} == {
        AttemptState.PREEMPTED,
        AttemptState.FINISHED,
    }


def test_a_worker_that_dies_while_it_tries_several_counts_against_nobody_and_nobody_tries_again() -> None:
    rig = Rig(spec_of(8, retries=0, resources={"parallel": 1}))
    key, _ = started(rig)
    rig.generation.pack_over(key, loss=Loss.WORKER, message="Out of memory.")
    assert notices(rig) == ["Trials are trained one by one, because a worker died while it tried to train several."]
    key, order = started(rig)
    assert (len(order.lanes), order.places, order.is_settled) == (1, 1, True)
    rig.train(key, order)
    rig.run_to_end()
    assert {trial.state for trial in rig.trials} == {TrialState.COMPLETED}


def test_a_pack_that_was_set_aside_before_it_was_known_that_fewer_fit_begins_with_fewer() -> None:
    rig = Rig(spec_of(17))
    settled(rig, 8)
    assert rig.generation.next_pack("waits") is None
    key, order = started(rig)
    assert len(order.lanes) == 8
    rig.generation.split(key, 2, "8 lanes do not fit into the memory.")
    rig.generation.pack_over(key, loss=None)
    order = rig.generation.begin("waits", node="here")
    assert (len(order.lanes), order.places) == (2, 2)
    rig.train("waits", order)
    rig.run_to_end()
    assert {trial.state for trial in rig.trials} == {TrialState.COMPLETED}
    assert len(rig.trials) == 17


@pytest.mark.parametrize("fails", ["before", "after"])
@pytest.mark.parametrize("at", range(6))
def test_a_store_that_goes_away_while_places_are_filled_again_loses_no_trial(fails: Any, at: int) -> None:
    rig = Rig(spec_of(8, retries=0, resources={"parallel": 1}))
    key, order = started(rig)
    rig.generation.settle(key, 4)
    rig.store.fails.extend([None] * at)
    rig.store.fails.append(fails)
    for _ in range(3):
        try:
            more = rig.generation.refill(key, 3)
            break
        except StoreUnavailableError:
            continue
    else:
        raise AssertionError("it fails again and again")
    rig.store.fails.clear()
    assert len(more) == 3
    assert set(ids(list(more))) | set(ids(order)) == {trial.id for trial in running(rig)}
    assert {trial.num_attempts for trial in running(rig)} <= {1, 2}
    for lane in more:
        (attempt,) = [a for a in rig.store.list_attempts(lane.trial_id) if a.state is AttemptState.RUNNING]
        assert attempt.id in lane.checkpoint_dir, "the one that the worker writes for"


@pytest.mark.parametrize("fails", ["before", "after"])
@pytest.mark.parametrize("at", range(4))
def test_a_store_that_goes_away_while_a_pack_is_filled_loses_no_trial(fails: Any, at: int) -> None:
    rig = Rig(spec_of(9))
    settled(rig, 4)
    rig.store.fails.extend([None] * at)
    rig.store.fails.append(fails)
    keys = iter(range(100, 200))
    for _ in range(100):
        key = f"pack-{next(keys)}"
        try:
            pause = rig.generation.next_pack(key)
            while pause is None:
                try:
                    order = rig.generation.begin(key, node="here")
                    rig.train(key, order)
                except StoreUnavailableError:
                    continue
                break
        except StoreUnavailableError:
            continue
        if pause is Pause.DONE:
            break
    assert len(rig.trials) == 9
    assert {trial.state for trial in rig.trials} == {TrialState.COMPLETED}
    assert {trial.num_attempts for trial in rig.trials} <= {1, 2}


def test_what_lanes_have_said_before_their_pack_is_split_up_is_stored_although_it_comes_late() -> None:
    rig = Rig(spec_of(4))
    key, order = started(rig)
    (trial_id,) = ids(order)
    rig.generation.split(key, 1, "too many")
    rig.generation.log(key, [said(trial_id, 0, "the last line")])
    assert [kept.line.text for kept in rig.store.list_trial_logs(trial_id)] == ["the last line"]
