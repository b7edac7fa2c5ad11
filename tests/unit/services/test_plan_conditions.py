"""Sweeps over spaces with conditions, and over balancers that the sampler chooses: the plan and the generation above
it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from conductor_fakes import CATALOG, Rig, small_spec

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.domain.states import SweepState
from sweep_service.domain.trial import Role, Trial

BALANCER = {"type": "categorical", "choices": ["gradnorm", "equal", "inverse_initial_loss"]}
ALPHA = {"type": "float", "low": 0.0, "high": 3.0}
LR = {"type": "float", "low": 1e-4, "high": 1e-2}


def checked(**changes: Any) -> SweepSpec:
    space = {"balancer": BALANCER, "alpha": ALPHA, "lr": LR}
    document = small_spec().canonical() | {"space": space, "budget": {"trials": 12}} | changes
    document["search"] = {**document["search"], "balancers": "sampled"}
    return check_spec(document, CATALOG)


def result(trial: Trial) -> float:
    """Best with inverse_initial_loss, and a small learning rate."""
    return float(trial.params["lr"]) + {"inverse_initial_loss": 1, "equal": 2}.get(trial.balancer, 3)


def of_role(rig: Rig, role: Role) -> list[Trial]:
    return [trial for trial in rig.trials if trial.role is role]


def test_each_trial_has_the_balancer_that_it_drew_and_defaults_for_what_it_does_not_read() -> None:
    rig = Rig(checked())
    rig.run_to_end()
    search = of_role(rig, Role.SEARCH)
    assert len(search) == 12
    assert {trial.balancer for trial in search} == set(BALANCER["choices"])
    for trial in search:
        assert trial.balancer == trial.searched["balancer"] == trial.params["balancer"]
        assert ("alpha" in trial.searched) == (trial.balancer == "gradnorm")
        assert trial.params["alpha"] == trial.searched.get("alpha", 1.5)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc"])
def test_the_search_is_one_line_whatever_its_balancers_are_and_a_cut_changes_nothing(sampler: str) -> None:
    spec = checked(search={"sampler": sampler, "seed": 5}, baselines=["equal", "single_task"])
    uncut, cut = Rig(spec, result), Rig(spec, result)
    uncut.run_to_end()
    for _ in range(30):
        started = cut.start_pack()
        assert isinstance(started, tuple)
        cut.train(*started)
        cut.next_generation()
    cut.run_to_end()
    assert [(t.number, t.role, t.balancer, t.searched) for t in cut.trials] == [
        (t.number, t.role, t.balancer, t.searched) for t in uncut.trials
    ]
    assert Counter(trial.role for trial in uncut.trials) == {Role.SEARCH: 12, Role.BASELINE: 24}


def test_a_balancer_that_is_a_choice_and_a_baseline_has_trials_of_both_kinds() -> None:
    rig = Rig(checked(baselines=["equal"], confirm={"seeds": 2}), result)
    rig.run_to_end()
    baseline = of_role(rig, Role.BASELINE)
    assert len(baseline) == 12
    assert {(trial.balancer, *trial.searched) for trial in baseline} == {("equal", "lr")}
    assert any(trial.balancer == "equal" for trial in of_role(rig, Role.SEARCH))
    best = rig.store.get_trial(rig.sweep.best_trial_id or "")
    assert (best.role, best.balancer) == (Role.SEARCH, "inverse_initial_loss")
    repeats = Counter((trial.confirms, trial.balancer) for trial in of_role(rig, Role.CONFIRM))
    assert repeats[best.id, "inverse_initial_loss"] == 2
    assert sorted(balancer for _, balancer in repeats) == ["equal", "inverse_initial_loss"]
    assert rig.generation.outcome().state is SweepState.COMPLETED


def test_baselines_search_what_conditions_leave_to_them() -> None:
    space = {
        "balancer": BALANCER,
        "alpha": ALPHA,
        "dropout": {"type": "float", "low": 0.1, "high": 0.5, "when": {"balancer": ["gradnorm", "equal"]}},
        "weight_decay": {"type": "float", "low": 0.1, "high": 0.5, "when": {"balancer": "gradnorm"}},
        "lr": LR,
    }
    rig = Rig(checked(space=space, baselines=["equal", "single_task"]))
    rig.run_to_end()
    searched = {(trial.balancer, tuple(sorted(trial.searched))) for trial in of_role(rig, Role.BASELINE)}
    assert searched == {("equal", ("dropout", "lr")), ("single_task", ("lr",))}


def test_a_baseline_for_which_conditions_leave_nothing_runs_once() -> None:
    rig = Rig(checked(space={"balancer": BALANCER, "alpha": ALPHA}, baselines=["equal"]))
    rig.run_to_end()
    assert len(of_role(rig, Role.BASELINE)) == 1


def test_a_grid_over_balancers_ends_when_each_different_point_has_been_tried() -> None:
    space = {"balancer": BALANCER, "alpha": {**ALPHA, "step": 1.0}}
    rig = Rig(checked(space=space, search={"sampler": "grid"}, budget={"trials": 100}))
    rig.run_to_end()
    counts = Counter(trial.balancer for trial in rig.trials)
    assert counts == {"gradnorm": 4, "equal": 1, "inverse_initial_loss": 1}
    assert rig.generation.outcome().message == "Every point of the grid has been tried."


def test_a_baseline_begins_with_its_part_of_initial_points_of_other_balancers() -> None:
    initial = [{"balancer": "gradnorm", "alpha": 1.0, "lr": 0.002}, {"balancer": "equal", "lr": 0.003}]
    rig = Rig(checked(initial=initial, baselines=["equal"]))
    rig.run_to_end()
    assert [trial.searched for trial in of_role(rig, Role.SEARCH)][:2] == initial
    assert [trial.searched for trial in of_role(rig, Role.BASELINE)][:2] == [{"lr": 0.002}, {"lr": 0.003}]
