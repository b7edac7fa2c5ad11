"""What a warm start is worth, and what it does not change: whole sweeps over the in-memory store."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
from conductor_fakes import CATALOG, Rig, small_spec

from sweep_service.domain.adoption import MAX_ADOPTED, adopt
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.trial import AdoptedTrial, Role, Trial

DIGITS = CATALOG["digits"]
SOURCE_TRIALS = 16


def bowl(trial: Trial) -> float:
    """Least at alpha = 2.2, lr = 0.003."""
    return (trial.params["alpha"] - 2.2) ** 2 + (math.log10(trial.params["lr"]) + 2.5) ** 2


def spec(**changes: Any) -> SweepSpec:
    return small_spec(**{"budget": {"trials": 5}, "resources": {"parallel": 1}, **changes})


def source(**changes: Any) -> Rig:
    rig = Rig(
        spec(**{"budget": {"trials": SOURCE_TRIALS}, "search": {"sampler": "random", "seed": 1}, **changes}), bowl
    )
    rig.run_to_end()
    return rig


def results(rig: Rig) -> list[float]:
    return [trial.objective for trial in rig.trials if trial.role is Role.SEARCH and trial.objective is not None]


def warm(document: SweepSpec, of: Rig) -> Rig:
    adoption = adopt(document, DIGITS, of.sweep, of.trials)
    return Rig(document, bowl, adopted=adoption.adopted)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_a_warm_start_finds_better_points_than_a_cold_one(sampler: str) -> None:
    earlier = source()

    def mean_of(*, is_warm: bool) -> float:
        found = []
        for seed in range(4):
            one = spec(search={"sampler": sampler, "seed": seed})
            rig = warm(one, earlier) if is_warm else Rig(one, bowl)
            rig.run_to_end()
            found.append(statistics.mean(results(rig)))
        return statistics.mean(found)

    assert mean_of(is_warm=True) < 0.8 * mean_of(is_warm=False)


def test_adopted_trials_are_none_of_the_sweep() -> None:
    rig = warm(spec(), source())
    rig.run_to_end()
    assert [trial.number for trial in rig.trials] == list(range(5))
    assert rig.sweep.best_trial_id in {trial.id for trial in rig.trials}


def test_a_cut_after_every_trial_changes_nothing() -> None:
    earlier = source()
    uncut, cut = warm(spec(), earlier), warm(spec(), earlier)
    uncut.run_to_end()
    for _ in range(5):
        started = cut.start_pack()
        assert isinstance(started, tuple)
        cut.train(*started)
        cut.next_generation()
    cut.run_to_end()
    assert [trial.searched for trial in cut.trials] == [trial.searched for trial in uncut.trials]


def test_a_baseline_adopts_of_its_own_kind_only() -> None:
    earlier = source(baselines=["equal"])
    adoption = adopt(spec(baselines=["equal", "inverse_initial_loss"]), DIGITS, earlier.sweep, earlier.trials)
    by_line = {(line.line.role, line.line.balancer): len(line.adopted) for line in adoption.lines}
    assert by_line == {
        (Role.SEARCH, "gradnorm"): SOURCE_TRIALS,
        (Role.BASELINE, "equal"): SOURCE_TRIALS,
        (Role.BASELINE, "inverse_initial_loss"): 0,
    }


def test_of_very_many_trials_the_best_and_the_last_are_adopted() -> None:
    earlier = source()
    some = [trial for trial in earlier.trials if trial.role is Role.SEARCH]
    many = [
        replace(some[number % len(some)], id=f"trl_{number}", number=number, objective=float(number))
        for number in range(2 * MAX_ADOPTED)
    ]
    (line,) = adopt(spec(), DIGITS, earlier.sweep, many).lines
    kept = {int(adopted_number(one)) for one in line.adopted}
    assert len(line.adopted) == MAX_ADOPTED
    assert kept == {*range(MAX_ADOPTED // 2), *range(2 * MAX_ADOPTED - MAX_ADOPTED // 2, 2 * MAX_ADOPTED)}
    assert sum(one.trials for one in line.left_out) == MAX_ADOPTED


def adopted_number(one: AdoptedTrial) -> str:
    return one.trial_id.removeprefix("trl_")
