"""A conductor whose sweep is changed: while packs run, when all is done, and after its end."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from conductor_fakes import CATALOG
from conductor_house import House

from sweep_service.domain.amendment import amended_spec
from sweep_service.domain.errors import TrackingUnavailableError
from sweep_service.domain.events import EventKind
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState, Verb
from sweep_service.services.packs import LaneMessage, PackOrder


def amend(house: House, **patch: Any) -> None:
    sweep = house.sweep
    spec = amended_spec(sweep.spec, patch, CATALOG)
    house.store.amend_sweep(sweep.id, spec, revision=sweep.revision)


def fail(house: House, key: str, order: PackOrder) -> None:
    conductor = house.packs.conductor
    assert conductor is not None
    end: dict[str, Any] = {"step": 10, "metrics": {}, "ending": TrialEnding.ERROR, "message": "no file"}
    conductor.packs.report(key, [LaneMessage(trial_id=lane.trial_id, **end) for lane in order.lanes])


def all_completed(house: House) -> int:
    """How many trials there are, all of them completed."""
    assert {trial.state for trial in house.trials} == {TrialState.COMPLETED}
    return len(house.trials)


def num_openings(house: House) -> int:
    """Of the sweep's run."""
    return house.tracker.opened.count(f"run of {house.lease.sweep_id}")


def test_a_running_sweep_goes_on_under_what_it_has_got(house: House) -> None:
    seen = threading.Event()

    def change(key: str, order: PackOrder) -> None:
        if not seen.is_set():
            amend(house, budget={"trials": 5})
            conductor = house.packs.conductor
            assert conductor is not None
            for _ in range(12_000):
                if conductor._generation is not None and conductor._generation.revision == 1:
                    break
                seen.wait(0.005)
            seen.set()

    house.packs.during = change
    sweep = house.run()
    assert (sweep.state, sweep.generation, sweep.revision) == (SweepState.COMPLETED, 1, 1)
    assert all_completed(house) == 5


@pytest.mark.parametrize("when", ["delivered", "results are set"])
def test_a_change_that_comes_when_all_is_done_is_for_the_next_generation(house: House, when: str) -> None:
    if when == "delivered":
        house.tracker.on_close_sweep = lambda: amend(house, budget={"trials": 5})
    else:
        set_results = house.store.set_results

        def change_then(lease: Any, results: Mapping[str, Any]) -> None:
            house.store.set_results = set_results
            set_results(lease, results)
            amend(house, budget={"trials": 5})

        house.store.set_results = change_then
    sweep = house.run()
    assert (sweep.state, sweep.ended_at) == (SweepState.RUNNING, None)
    assert len(house.trials) == 3
    house.lease = house.claim()
    assert house.run().state is SweepState.COMPLETED
    assert all_completed(house) == 5
    moves = [event.data["to"] for event in house.store.list_events(sweep.id, limit=500) if event.kind == "sweep.moved"]
    assert moves.count("completed") == 1


def test_a_sweep_that_waits_for_the_tracking_server_to_end_is_changed_at_once(house: House) -> None:
    def go_away() -> None:
        house.tracker.on_close_sweep = lambda: None
        house.tracker.is_away = True
        threading.Timer(0.1, lambda: amend(house, budget={"trials": 4})).start()
        raise TrackingUnavailableError("away")

    house.tracker.on_close_sweep = go_away
    assert house.run().state is SweepState.RUNNING
    house.tracker.is_away = False
    house.lease = house.claim()
    assert house.run().state is SweepState.COMPLETED
    assert all_completed(house) == 4


def test_a_larger_budget_re_opens_a_sweep_and_its_run_and_its_old_verdict_stays_told(house: House) -> None:
    assert house.run().state is SweepState.COMPLETED
    first = house.store.list_events(house.lease.sweep_id, limit=500)[-1].seq
    amend(house, budget={"trials": 4})
    assert house.sweep.results is None
    house.lease = house.claim()
    sweep = house.run()
    assert (sweep.state, sweep.reason, sweep.generation) == (SweepState.COMPLETED, SweepReason.BUDGET_TRIALS, 2)
    assert sweep.results is not None
    assert all_completed(house) == 4
    told = house.store.list_events(sweep.id, limit=500)
    verdicts = [event.seq for event in told if event.kind is EventKind.SWEEP_VERDICT]
    assert len(verdicts) == 2
    assert verdicts[0] < first < verdicts[1]
    assert num_openings(house) == 2, "found again, and open again"


def test_failed_trials_of_a_sweep_that_has_ended_are_tried_again_in_their_runs(house: House) -> None:
    house.packs.during = lambda key, order: fail(house, key, order)
    sweep = house.run()
    assert (sweep.state, sweep.reason) == (SweepState.FAILED, SweepReason.TOO_MANY_FAILURES)
    refs = {trial.id: trial.tracking_ref for trial in house.trials}
    house.ask(Verb.RETRY)
    house.packs.during = lambda key, order: None
    house.lease = house.claim()
    assert house.run().state is SweepState.COMPLETED
    assert all_completed(house) == 3
    assert {trial.id: trial.tracking_ref for trial in house.trials} == refs
    assert {trial.num_attempts for trial in house.trials} == {2}


def test_a_retry_that_comes_when_all_is_done_does_not_fail_the_sweep(house: House) -> None:
    num_packs = 0

    def fail_first(key: str, order: PackOrder) -> None:
        nonlocal num_packs
        num_packs += 1
        if num_packs == 1:
            fail(house, key, order)

    def retry() -> None:
        house.ask(Verb.RETRY)

    house.packs.during = fail_first
    house.tracker.on_close_sweep = retry
    assert house.run().state is SweepState.RUNNING
    house.lease = house.claim()
    assert house.run().state is SweepState.COMPLETED
    assert all_completed(house) == 3


def test_a_stop_after_a_retry_leaves_no_trial_open(house: House) -> None:
    num_packs = 0

    def fail_then_stop(key: str, order: PackOrder) -> None:
        nonlocal num_packs
        num_packs += 1
        if num_packs == 1:
            fail(house, key, order)
        elif num_packs == 2:
            house.ask(Verb.RETRY)
            house.ask(Verb.STOP)

    house.packs.during = fail_then_stop
    sweep = house.run()
    if sweep.state is not SweepState.STOPPED:  # the trial to try again was not known yet when all was done
        house.lease = house.claim()
        sweep = house.run()
    assert sweep.state is SweepState.STOPPED
    assert all(trial.state.is_ended for trial in house.trials)
