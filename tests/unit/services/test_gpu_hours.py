"""A budget of GPU-hours: the time of all packs, times the GPUs of one."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from conductor_fakes import TTL, Rig, small_spec
from store_values import new_attempt, new_end, new_trial

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Role
from sweep_service.services.generation import Pause
from sweep_service.services.losses import Loss

MINUTE = timedelta(minutes=1)
GAP = TTL + timedelta(seconds=1)  # what a new generation waits for


def spec_with(hours: float, *, gpus: float = 1, **changes: Any) -> SweepSpec:
    budget = {"trials": 50, "gpu_hours": hours, **changes.pop("budget", {})}
    return small_spec(budget=budget, resources={"parallel": 2, "gpus": gpus}, **changes)


def start(rig: Rig) -> Any:
    pack = rig.start_pack()
    assert not isinstance(pack, Pause)
    return pack


def let_pass(rig: Rig, time: timedelta) -> None:
    """With a lease that is kept alive."""
    rig.store.renew_lease(rig.lease, ttl=time + TTL)
    rig.clock.advance(time)


def train_for(rig: Rig, minutes: float) -> None:
    """One trial of that length, and nothing beside it."""
    pack = start(rig)
    let_pass(rig, minutes * MINUTE)
    rig.train(*pack)


@pytest.mark.parametrize(("gpus", "num"), [(1, 6), (0.5, 12), (2, 3)])
def test_trials_start_until_the_hours_are_used(gpus: float, num: int) -> None:
    rig = Rig(spec_with(1.0, gpus=gpus))
    for _ in range(num):
        train_for(rig, 10)
    assert rig.start_pack() is Pause.DONE
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.COMPLETED, SweepReason.BUDGET_GPU_HOURS)
    assert outcome.message == "1 GPU-hours are used, of 1."


def test_trials_that_run_at_once_use_the_hours_together_and_finish() -> None:
    rig = Rig(spec_with(1.0))
    both = start(rig), start(rig)
    let_pass(rig, 29 * MINUTE)
    rig.train(*both[0])
    third = start(rig)
    let_pass(rig, MINUTE)
    assert rig.start_pack() is Pause.WAIT
    rig.train(*third)
    assert rig.start_pack() is Pause.WAIT, "29 + 30 + 1 minutes are an hour, and one still runs"
    let_pass(rig, 30 * MINUTE)
    rig.train(*both[1])
    assert rig.start_pack() is Pause.DONE
    assert [trial.state for trial in rig.trials] == [TrialState.COMPLETED] * 3
    assert rig.generation.outcome().message == "1.5 GPU-hours are used, of 1."


def test_time_in_which_nothing_runs_is_not_used_and_lost_attempts_are() -> None:
    rig = Rig(spec_with(1.0))
    train_for(rig, 20)
    let_pass(rig, timedelta(days=1))
    key, _ = start(rig)
    let_pass(rig, 20 * MINUTE)
    rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    train_for(rig, 20)
    assert rig.start_pack() is Pause.DONE
    assert [trial.num_attempts for trial in rig.trials] == [1, 2]


def test_the_lanes_of_a_pack_use_its_hours_together() -> None:
    rig = Rig(spec_with(1.0, gpus=0.5))
    sweep_id = rig.sweep.id
    search = {"lr": 1e-3, "alpha": 1.0}

    def lane(number: int, pack: str) -> str:
        trial = new_trial(sweep_id, number, params=search, searched=search, created_at=rig.clock.now(), search_state={})
        rig.store.add_trials(rig.lease, [trial])
        rig.store.start_attempt(rig.lease, new_attempt(trial, pack=pack, started_at=rig.clock.now()))
        return trial.id

    def end(*trial_ids: str) -> None:
        ends = [new_end(trial_id, TrialEnding.COMPLETED, objective=0.5) for trial_id in trial_ids]
        rig.store.record(rig.lease, ends=ends)

    first = [lane(number, "first") for number in range(4)]
    second = [lane(number, "second") for number in range(4, 8)]
    let_pass(rig, 20 * MINUTE)
    end(*first[:3])
    first += [lane(8, "first")]  # in the place of one that has ended
    let_pass(rig, 10 * MINUTE)
    end(*first[3:], *second)
    rig.next_generation()  # two packs of half an hour, with half a GPU each
    train_for(rig, 30)
    train_for(rig, 30)
    assert rig.start_pack() is Pause.DONE
    assert rig.generation.outcome().message == "1 GPU-hours are used, of 1."


def test_an_attempt_says_in_which_pack_it_was_made() -> None:
    rig = Rig(spec_with(1.0))
    keys = []
    for _ in range(2):
        key, order = start(rig)
        keys.append(key)
        rig.generation.pack_over(key, loss=Loss.WORKER, message="died")
    (lane,) = order.lanes
    assert [attempt.pack for attempt in rig.store.list_attempts(lane.trial_id)] == keys == ["pack-1", "pack-2"]


def test_a_new_generation_knows_what_was_used_before_it() -> None:
    rig = Rig(spec_with(1.0))
    train_for(rig, 30)
    start(rig)
    rig.next_generation()  # the attempt ends with the discovery that its conductor is gone
    train_for(rig, (30 * MINUTE - GAP) / MINUTE)
    assert [trial.num_attempts for trial in rig.trials] == [1, 2]
    assert rig.start_pack() is Pause.DONE
    assert rig.generation.outcome().reason is SweepReason.BUDGET_GPU_HOURS


def test_search_and_baselines_take_turns_and_no_comparison_is_begun() -> None:
    rig = Rig(spec_with(1.0, baselines=["equal"], confirm={"seeds": 2}))
    for _ in range(6):
        train_for(rig, 10)
    assert rig.start_pack() is Pause.DONE
    assert Counter(trial.role for trial in rig.trials) == {Role.BASELINE: 3, Role.SEARCH: 3}
    assert rig.generation.outcome().reason is SweepReason.BUDGET_GPU_HOURS


def test_hours_that_are_used_before_a_search_trial_starts_are_why_the_sweep_failed() -> None:
    rig = Rig(spec_with(1.0, baselines=["equal"]))
    train_for(rig, 60)
    assert rig.start_pack() is Pause.DONE
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.FAILED, SweepReason.BUDGET_GPU_HOURS)
    assert outcome.message == "1 GPU-hours are used, of 1. No search trial had started before."


def test_a_sweep_that_is_through_within_its_hours_says_nothing_of_them() -> None:
    rig = Rig(spec_with(1.0, budget={"trials": 2}, baselines=["equal"], confirm={"seeds": 2}))
    rig.run_to_end()
    assert Counter(trial.role for trial in rig.trials)[Role.CONFIRM] == 4
    assert rig.generation.outcome().reason is SweepReason.BUDGET_TRIALS


@pytest.mark.parametrize(("minutes", "reason"), [(60, SweepReason.BUDGET_GPU_HOURS), (45, SweepReason.BUDGET_TIME)])
def test_of_two_bounds_on_everything_the_one_that_was_reached_is_told(minutes: int, reason: SweepReason) -> None:
    rig = Rig(spec_with(1.0, budget={"wall_time": "50m" if minutes == 45 else "2h"}))
    train_for(rig, minutes)
    let_pass(rig, 5 * MINUTE)
    assert rig.start_pack() is Pause.DONE
    assert rig.generation.outcome().reason is reason
