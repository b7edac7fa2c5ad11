"""What a sweep does that drives several objectives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from conductor_fakes import Rig, small_spec

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Role, Trial
from sweep_service.services.generation import Pause
from sweep_service.services.packs import LaneMessage
from sweep_service.services.ranking import best_trial, front_of
from sweep_service.services.results import summarise

BOTH = [{"metric": "val/loss/digit"}, {"metric": "val/accuracy/odd", "direction": "maximize"}]


def spec_of_two(**changes: Any) -> SweepSpec:
    return small_spec(**{"objectives": BOTH, **changes})


class TwoRig(Rig):
    """``results`` are those of the search trials, in the order of their ends; a baseline repeats the last one."""

    def __init__(self, spec: SweepSpec, results: Sequence[tuple[float, float]] = ()) -> None:
        self._results = list(results)
        super().__init__(spec)

    def last_message(self, trial_id: str, **changes: Any) -> LaneMessage:
        trial = self.store.get_trial(trial_id)
        alpha, lr = float(trial.params["alpha"]), 100 * float(trial.params["lr"])
        loss, score = self._results[trial.number] if self._results else (alpha + lr, alpha - lr)
        metrics = {"val/normalized_loss": loss, "val/loss/digit": loss, "val/accuracy/odd": score}
        return super().last_message(trial_id, **{"metrics": {**metrics, "test/normalized_loss": loss}, **changes})


def numbers(trials: Sequence[Trial] | None) -> list[int]:
    return [trial.number for trial in trials or ()]


def start(rig: Rig) -> Any:
    pack = rig.start_pack()
    assert not isinstance(pack, Pause)
    return pack


def test_what_came_of_several_objectives_is_their_front_and_one_trial_is_picked_by_the_objective() -> None:
    points = [(3.0, 0.1), (1.0, 0.5), (2.0, 0.9), (2.5, 0.9), (1.0, 0.5), (0.5, 0.2)]
    rig = TwoRig(spec_of_two(), points)
    rig.run_to_end()
    assert numbers(front_of(rig.sweep.spec, rig.trials)) == [5, 1, 4, 2]
    assert rig.store.get_trial(rig.sweep.best_trial_id or "").number == 5
    results = summarise(rig.sweep, rig.trials)
    assert [row["number"] for row in results["front"]] == [5, 1, 4, 2]
    assert results["front"][0]["values"] == {"val/loss/digit": 0.5, "val/accuracy/odd": 0.2}
    assert [row["number"] for row in results["leaderboard"]] == [5, 1, 4, 2, 3, 0]
    assert results["best"]["number"] == 5


def test_of_one_objective_there_is_no_front() -> None:
    rig = Rig(small_spec(budget={"trials": 1}))
    rig.run_to_end()
    assert front_of(rig.sweep.spec, rig.trials) is None
    assert summarise(rig.sweep, rig.trials)["front"] is None


def test_the_front_is_of_search_trials_that_completed() -> None:
    rig = TwoRig(spec_of_two(baselines=["equal"], confirm={"seeds": 2}, budget={"trials": 3}))
    rig.train(*start(rig))
    rig.train(*start(rig), ending=TrialEnding.NON_FINITE)
    rig.run_to_end()
    assert Counter(trial.role for trial in rig.trials) == {Role.BASELINE: 3, Role.SEARCH: 3, Role.CONFIRM: 4}
    front = front_of(rig.sweep.spec, rig.trials)
    assert front
    assert {(trial.role, trial.state) for trial in front} == {(Role.SEARCH, TrialState.COMPLETED)}
    best = best_trial(rig.sweep.spec, rig.trials)
    assert best is not None
    assert best.id in {trial.confirms for trial in rig.trials if trial.role is Role.CONFIRM}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_every_cut_goes_on_with_the_points_of_an_uncut_sweep_for_search_and_baseline(sampler: str) -> None:
    spec = spec_of_two(search={"sampler": sampler, "seed": 5}, budget={"trials": 10}, baselines=["equal"])
    uncut, cut = TwoRig(spec), TwoRig(spec)
    uncut.run_to_end()
    for _ in range(20):
        cut.train(*start(cut))
        cut.next_generation()
    cut.run_to_end()
    assert [trial.searched for trial in cut.trials] == [trial.searched for trial in uncut.trials]
    for role in (Role.SEARCH, Role.BASELINE):
        points = [tuple(trial.searched.values()) for trial in uncut.trials if trial.role is role]
        assert len(set(points)) == len(points) == 10


def test_the_second_objective_is_driven_and_not_only_told() -> None:
    """Two sweeps that differ in its direction alone part ways once their samplers have learnt."""
    other = [BOTH[0], {**BOTH[1], "direction": "minimize"}]
    one, two = TwoRig(spec_of_two(budget={"trials": 12})), TwoRig(spec_of_two(budget={"trials": 12}, objectives=other))
    one.run_to_end()
    two.run_to_end()
    assert one.trials[0].searched == two.trials[0].searched
    assert [trial.searched for trial in one.trials] != [trial.searched for trial in two.trials]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_trial_that_lacks_one_of_the_objectives_fails_with_that_reason(value: float | None) -> None:
    rig = TwoRig(spec_of_two())
    metrics = {"val/normalized_loss": 1.0, "val/loss/digit": 1.0}
    rig.train(*start(rig), metrics=metrics if value is None else {**metrics, "val/accuracy/odd": value})
    (trial,) = rig.trials
    assert (trial.state, trial.objective) == (TrialState.FAILED, None)
    assert trial.message == "The trial did not report the objective 'val/accuracy/odd'."


def test_a_search_that_adds_nothing_to_its_front_for_so_many_trials_is_over() -> None:
    # Better in the second alone, then dominated, equal, better again; three that add nothing.
    points = [
        (1.0, 0.1),
        (2.0, 0.2),
        (2.0, 0.1),
        (1.0, 0.1),
        (0.9, 0.0),
        (1.5, 0.1),
        (0.9, 0.0),
        (3.0, 0.2),
        (0.0, 9.0),
    ]
    rig = TwoRig(spec_of_two(budget={"trials": 50, "no_improvement": 3}), points)
    for _ in range(4):
        rig.train(*start(rig))
        rig.next_generation()
    rig.run_to_end()
    assert numbers(rig.trials) == list(range(8))
    outcome = rig.generation.outcome()
    assert (outcome.state, outcome.reason) == (SweepState.COMPLETED, SweepReason.NO_IMPROVEMENT)
    assert outcome.message == "None of the last 3 trials was on the Pareto front of those before it."


def test_a_target_is_one_of_the_single_objective() -> None:
    rig = TwoRig(spec_of_two(budget={"trials": 50, "target": 0.5}), [(1.0, 0.9), (0.4, 0.1), (0.0, 1.0)])
    rig.run_to_end()
    assert numbers(rig.trials) == [0, 1]
    assert rig.generation.outcome().reason is SweepReason.TARGET_REACHED
