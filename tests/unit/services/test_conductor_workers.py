"""What a conductor does with its workers: what they say, how they end, and what is left when they do."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
from conductor_fakes import small_spec
from conductor_house import PATIENCE_S, House, WorkerDiedError, said

from sweep_service.domain.errors import ClusterLostError, PackOverError
from sweep_service.domain.events import EventKind
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.services.packs import PackOrder


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
                house.packs.conductor.packs.begin("a pack that has been given up", "node", "worker of another sweep")
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
            house.packs.conductor.packs.explain(key, text)
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
            house.packs.conductor.packs.note(order.lanes[0].trial_id, "its checkpoint cannot be read")

    house.packs.during = note
    house.run()
    told = [e for e in house.store.list_events(house.sweep.id, limit=500) if e.kind is EventKind.SWEEP_NOTICE]
    assert [(e.trial_id, e.message) for e in told] == [(house.trials[0].id, "its checkpoint cannot be read")]


def test_what_workers_warn_of_is_an_event_of_the_sweep_and_once(house: House) -> None:
    def warn(key: str, order: PackOrder) -> None:
        assert house.packs.conductor is not None
        house.packs.conductor.packs.warn("no CUDA")

    house.packs.during = warn
    house.run()
    told = [e for e in house.store.list_events(house.sweep.id, limit=500) if e.kind is EventKind.SWEEP_NOTICE]
    assert [(e.trial_id, e.message) for e in told] == [(None, "no CUDA")]


def test_what_a_pack_says_is_kept_with_its_attempt_and_once(house: House) -> None:
    def talk(key: str, order: PackOrder) -> None:
        conductor = house.packs.conductor
        assert conductor is not None
        (lane,) = order.lanes
        assert conductor.packs.log(key, [said(lane.trial_id, 0, "one", "two")])
        for fail, sent in (("before", ("two", "three")), ("after", ("two", "three")), (None, ("two", "three", "four"))):
            house.store.fails.append(fail)
            assert conductor.packs.log(key, [said(lane.trial_id, 1, *sent)]) is (fail is None)
        conductor.packs.log(key, [said("trl_of_another_pack", 0, "lost")])
        conductor.packs.log("pack that was given up", [said(lane.trial_id, 9, "too late")])

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
        assert house.packs.conductor.packs.log(key, [said(order.lanes[0].trial_id, 0, "a word")]) is False

    house.packs.during = talk
    assert house.run().state is SweepState.COMPLETED
    assert house.store.list_sweep_logs(house.lease.sweep_id) == []


def test_a_report_waits_for_a_store_that_is_away(house: House) -> None:
    house.packs.during = lambda key, order: house.store.fails.extend(["before", "after"])
    assert house.run().state is SweepState.COMPLETED
    assert [(trial.state, trial.num_attempts) for trial in house.trials] == [(TrialState.COMPLETED, 1)] * 3
