"""Early stopping in a generation: what is judged when, and what the store and the sampler hear of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
from conductor_fakes import Rig, small_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from store_values import new_sweep, new_trial
from test_shaky_store import until_it_answers

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import AttemptState, SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Report, Role
from sweep_service.services.early_stopping import EarlyStopper
from sweep_service.services.generation import Pause
from sweep_service.services.packs import LaneMessage, PackOrder

METRIC = "val/normalized_loss"
ASHA = {"pruner": "asha", "min_steps": 5, "reduction_factor": 2}
MEDIAN = {"pruner": "median", "min_steps": 5, "startup_trials": 2}


def asha_spec(**changes: Any) -> SweepSpec:
    return small_spec(**{"early_stopping": ASHA, **changes})


def started(rig: Rig) -> tuple[str, PackOrder]:
    result = rig.start_pack()
    assert not isinstance(result, Pause)
    return result


def report(rig: Rig, key: str, order: PackOrder, step: int, value: float) -> bool:
    """One report on the way; whether the answer is to stop."""
    (lane,) = order.lanes
    message = LaneMessage(trial_id=lane.trial_id, step=step, metrics={METRIC: value})
    return bool(until_it_answers(rig.generation.report, key, [message]))


def train(rig: Rig, key: str, order: PackOrder, value: float) -> None:
    """Report every five of twenty steps, until told to stop."""
    (lane,) = order.lanes
    if not any(report(rig, key, order, step, value) for step in (5, 10, 15)):
        until_it_answers(rig.generation.report, key, [rig.last_message(lane.trial_id, metrics={METRIC: value})])
    until_it_answers(rig.generation.pack_over, key, loss=None)


def run(rig: Rig, values: Mapping[int, float] | None = None, *, cut: bool = False) -> None:
    for index in range(100):
        key = f"pack-{index}"
        pause = until_it_answers(rig.generation.next_pack, key)
        if pause is not None:
            assert pause is Pause.DONE
            return
        order = until_it_answers(rig.generation.begin, key, node="here")
        number = rig.store.get_trial(order.lanes[0].trial_id).number
        train(rig, key, order, (values or {}).get(number, float(number * 7 % 5)))
        if cut:
            rig.next_generation()
    raise AssertionError("no end")


def test_a_trial_that_is_not_good_enough_ends_in_the_write_of_its_report_and_is_told_to_stop() -> None:
    rig = Rig(asha_spec())
    train(rig, *started(rig), 1.0)
    key, order = started(rig)
    assert report(rig, key, order, 5, 2.0)
    trial = rig.trials[1]
    assert (trial.state, trial.ending) == (TrialState.EARLY_STOPPED, TrialEnding.PRUNED)
    assert (trial.objective, trial.last_step, trial.metrics) == (None, 5, {METRIC: 2.0})
    assert trial.message == "At step 5 it is not among the best 1 of 2 trials."
    assert [r.objective for r in rig.store.list_reports(trial.id)] == [2.0]
    assert [attempt.state for attempt in rig.store.list_attempts(trial.id)] == [AttemptState.FINISHED]
    stopped = LaneMessage(trial_id=trial.id, step=5, metrics={})  # the lane's last word
    assert list(rig.generation.report(key, [stopped])) == [trial.id]
    rig.generation.pack_over(key, loss=None)
    assert rig.store.get_trial(trial.id).num_attempts == 1


def test_a_sweep_with_early_stopped_trials_is_completed_and_they_count_in_its_budget() -> None:
    rig = Rig(asha_spec())
    run(rig)
    states = [trial.state for trial in rig.trials]
    assert len(states) == 6
    assert set(states) == {TrialState.COMPLETED, TrialState.EARLY_STOPPED}
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.COMPLETED, SweepReason.BUDGET_TRIALS)


def test_many_early_stopped_trials_do_not_make_a_search_hopeless() -> None:
    rig = Rig(asha_spec(budget={"trials": 8}))
    first = started(rig)
    assert not report(rig, *first, 5, 0.0)
    for number in range(1, 7):
        train(rig, *started(rig), float(number))
    assert [trial.state for trial in rig.trials[1:]] == [TrialState.EARLY_STOPPED] * 6
    train(rig, *first, 0.0)
    train(rig, *started(rig), 9.0)
    assert rig.start_pack() is Pause.DONE
    assert rig.generation.outcome().state is SweepState.COMPLETED


def test_what_went_wrong_is_told_of_a_failed_sweep_and_not_what_was_stopped_early() -> None:
    rig = Rig(asha_spec(budget={"trials": 2}))
    first, second = started(rig), started(rig)
    report(rig, *first, 5, 1.0)
    assert report(rig, *second, 5, 2.0)
    rig.generation.pack_over(second[0], loss=None)
    rig.train(*first, ending=TrialEnding.ERROR, metrics={}, message="ValueError: no")
    assert rig.start_pack() is Pause.DONE
    outcome = rig.generation.outcome()
    assert (outcome.reason, outcome.message) == (
        SweepReason.TOO_MANY_FAILURES,
        "None of 2 search trials completed. The first: ValueError: no",
    )


def test_baselines_and_the_comparison_train_to_their_end() -> None:
    rig = Rig(asha_spec(baselines=["equal"], confirm={"seeds": 2}))
    run(rig, {number: float(number) for number in range(100)})
    by_role = {role: [t.state for t in rig.trials if t.role is role] for role in Role}
    assert set(by_role[Role.BASELINE]) == set(by_role[Role.CONFIRM]) == {TrialState.COMPLETED}
    assert TrialState.EARLY_STOPPED in by_role[Role.SEARCH]


def test_a_baseline_is_no_measure_for_a_search_trial() -> None:
    space = {"alpha": {"type": "float", "low": 0.0, "high": 3.0}}
    rig = Rig(asha_spec(space=space, baselines=["equal"], budget={"trials": 1}))
    run(rig, {0: 0.0, 1: 9.0})
    assert [trial.role for trial in rig.trials] == [Role.BASELINE, Role.SEARCH]
    assert {trial.state for trial in rig.trials} == {TrialState.COMPLETED}


@pytest.mark.parametrize("early_stopping", [ASHA, MEDIAN, {"pruner": "hyperband", "min_steps": 5}])
def test_a_cut_after_every_trial_stops_the_same_trials(early_stopping: Any) -> None:
    spec = small_spec(early_stopping=early_stopping, budget={"trials": 12})
    uncut, cut = Rig(spec), Rig(spec)
    run(uncut)
    run(cut, cut=True)
    states = [trial.state for trial in uncut.trials]
    assert [trial.state for trial in cut.trials] == states
    assert [trial.searched for trial in cut.trials] == [trial.searched for trial in uncut.trials]
    assert TrialState.EARLY_STOPPED in states


def test_a_trial_that_resumes_behind_its_last_report_is_not_judged_again_there() -> None:
    rig = Rig(asha_spec())
    key, order = started(rig)
    assert not report(rig, key, order, 5, 2.0)
    train(rig, *started(rig), 1.0)
    rig.next_generation()
    key, order = started(rig)
    assert rig.store.get_trial(order.lanes[0].trial_id).number == 0
    assert not report(rig, key, order, 5, 2.0), "it had passed before the better one came"
    assert report(rig, key, order, 10, 2.0)


def test_an_objective_that_a_report_lacks_or_that_is_no_number_is_borne() -> None:
    rig = Rig(asha_spec())
    train(rig, *started(rig), 1.0)
    key, order = started(rig)
    missing = LaneMessage(trial_id=order.lanes[0].trial_id, step=5, metrics={"train/loss": 1.0})
    assert not rig.generation.report(key, [missing])
    assert report(rig, key, order, 10, math.nan)
    rig.generation.pack_over(key, loss=None)
    rig.next_generation()
    run(rig)
    assert rig.generation.outcome().state is SweepState.COMPLETED


@settings(deadline=None, max_examples=40)
@given(fails=st.lists(st.sampled_from([None, None, None, "before", "after"]), max_size=60))
def test_a_failing_store_changes_nothing_in_what_is_stopped(fails: list[Literal["before", "after"] | None]) -> None:
    calm, shaky = Rig(asha_spec()), Rig(asha_spec())
    shaky.store.fails.extend(fails)
    run(calm)
    run(shaky)
    shaky.store.fails.clear()
    assert [(t.state, t.last_step, t.message) for t in shaky.trials] == [
        (t.state, t.last_step, t.message) for t in calm.trials
    ]


_lanes = st.lists(st.floats(-5, 5) | st.just(math.nan), min_size=1, max_size=9)


@given(before=_lanes, lanes=_lanes, rule=st.sampled_from([ASHA, MEDIAN]), data=st.data())
def test_the_order_of_the_lanes_of_a_report_does_not_matter(
    before: list[float], lanes: list[float], rule: Any, data: st.DataObject
) -> None:
    sweep = new_sweep(spec=small_spec(early_stopping=rule))
    values = [*before, *lanes]
    done = {"state": TrialState.COMPLETED, "objective": 0.0}
    trials = [
        new_trial(sweep.id, number, params={"steps": 20}, **(done if number < len(before) else {}))
        for number in range(len(values))
    ]
    by_id = {trial.id: trial for trial in trials}

    def row(number: int) -> Report:
        value = values[number]
        return Report(
            sweep_id=sweep.id,
            trial_id=trials[number].id,
            attempt_id="att",
            step=5,
            metrics={METRIC: value},
            objective=value if math.isfinite(value) else None,
            reported_at=sweep.created_at,
        )

    def ends(order: Sequence[int]) -> dict[str, str]:
        stopper = EarlyStopper(store=Rig(sweep.spec).store, spec=sweep.spec)
        stopper.ends([row(number) for number in range(len(before))], by_id, ending=by_id)
        return {end.trial_id: end.message for end in stopper.ends([row(n) for n in order], by_id, ending=())}

    order = list(range(len(before), len(values)))
    assert ends(order) == ends(data.draw(st.permutations(order)))


def test_balancers_that_take_turns_are_stopped_alike_in_hyperband_s_brackets() -> None:
    names, rounds = [f"method_{index}" for index in range(8)], 8
    space = {
        "balancer": {"type": "categorical", "choices": names},
        "lr": {"type": "float", "low": 1e-4, "high": 1e-2},
    }
    rule = {"pruner": "hyperband", "min_steps": 2, "reduction_factor": 2}
    spec = small_spec(space=space, search={"balancers": "equal_effort"}, early_stopping=rule)
    sweep = new_sweep(spec=spec)
    trials = [
        new_trial(sweep.id, number, balancer=names[number % 8], params={"steps": 20}) for number in range(8 * rounds)
    ]
    by_id = {trial.id: trial for trial in trials}
    stopper, stopped = EarlyStopper(store=Rig(spec).store, spec=spec), dict[str, list[int]]()
    for step in (2, 4, 8, 16):
        for trial in trials:
            place = trial.number // 8  # the later, the worse, of each balancer alike
            row = Report(
                sweep_id=sweep.id,
                trial_id=trial.id,
                attempt_id="att",
                step=step,
                metrics={METRIC: float(place)},
                objective=float(place),
                reported_at=sweep.created_at,
            )
            if place not in stopped.setdefault(trial.balancer, []) and stopper.ends([row], by_id, ending=()):
                stopped[trial.balancer].append(place)
    assert all(places == stopped[names[0]] for places in stopped.values())
    assert 0 < len(stopped[names[0]]) < rounds
