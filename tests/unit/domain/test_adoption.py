"""Which trials of an earlier sweep a new one can adopt, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
from spec_documents import CATALOG, changed
from store_values import START

from sweep_service.domain.adoption import MAX_ADOPTED, Adoption, LineAdoption, adopt, as_history
from sweep_service.domain.lines import lines_of
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.domain.states import SweepState, TrialState
from sweep_service.domain.trial import Role, Sweep, Trial

TOY = CATALOG["toy"]
POINT = {"alpha": 1.0, "weight_lr": 0.01, "seed": 2}


def spec(*changes: tuple[str, Any]) -> SweepSpec:
    return check_spec(changed(*changes), CATALOG)


EARLIER = spec()


def earlier_sweep() -> Sweep:
    return Sweep(
        id="swp_earlier",
        project="default",
        created_by="somebody",
        spec=EARLIER,
        state=SweepState.RUNNING,
        created_at=START,
        updated_at=START,
    )


def trial(number: int = 0, **changes: Any) -> Trial:
    """A trial of the earlier sweep; ``params`` are what differs from the usual."""
    params = {**TOY.defaults(), **EARLIER.params, **POINT, **changes.pop("params", {})}
    values: dict[str, Any] = {
        "id": f"trl_{number}",
        "sweep_id": "swp_earlier",
        "number": number,
        "role": Role.SEARCH,
        "balancer": "gradnorm",
        "params": params,
        "searched": {},
        "seed": 2,
        "state": TrialState.COMPLETED,
        "objective": 0.5,
        "last_step": 1500,
        "created_at": START,
    }
    return Trial(**{**values, **changes})


def adopted_of(new: SweepSpec, *trials: Trial) -> Adoption:
    return adopt(new, TOY, earlier_sweep(), trials)


def search_of(new: SweepSpec, *trials: Trial) -> LineAdoption:
    (found,) = adopted_of(new, *trials).search
    return found


def reason(new: SweepSpec, one: Trial) -> str:
    (left_out,) = search_of(new, one).left_out
    assert left_out.trials == 1
    return left_out.reason


def test_a_trial_that_could_be_of_the_new_sweep_is_adopted_with_its_point_and_its_result() -> None:
    (one,) = search_of(spec(), trial()).adopted
    assert (one.trial_id, one.point, one.value, one.state) == ("trl_0", POINT, 0.5, TrialState.COMPLETED)


def test_a_parameter_that_is_newly_searched_takes_the_value_that_it_had() -> None:
    document = changed(("/space/free", {"type": "float", "low": 0, "high": 1}))
    document["space"]["batch_size"] = {"type": "int", "low": 64, "high": 512}
    del document["params"]["batch_size"]
    (one,) = search_of(check_spec(document, CATALOG), trial()).adopted
    assert one.point == {**POINT, "free": 0.0, "batch_size": 256}


def test_a_parameter_that_is_new_to_the_trainable_takes_its_default() -> None:
    old = trial()
    without = {name: value for name, value in old.params.items() if name not in ("free", "count")}
    new = spec(("/space/free", {"type": "float", "low": 0, "high": 1}))
    (one,) = search_of(new, trial(params={})).adopted
    (other,) = search_of(new, Trial(**{**vars(old), "params": without})).adopted
    assert one.point == other.point == {**POINT, "free": 0.0}


@pytest.mark.parametrize(
    ("change", "params", "text"),
    [
        (("/params/steps", 1600), {}, "params.steps was 1500, here 1600"),
        (("/params/hidden", [32]), {}, "params.hidden was [128, 64], here [32]"),
        (("/params/dtype", "float64"), {}, "params.dtype was float32, here float64"),
        (("/name", "x"), {"alpha": 4.0}, "params.alpha was 4.0, here it is searched from 0 to 3"),
        (("/name", "x"), {"seed": 9}, "params.seed was 9, none of the choices here"),
        (
            ("/space/weight_lr", {"type": "float", "low": 0.001, "high": 0.1, "step": 0.002}),
            {},
            "params.weight_lr was 0.01, between the steps here",
        ),
        (("/name", "x"), {"count": 7}, "params.count was 7, here 0"),
        (("/name", "x"), {"hidden": list(range(100, 200))}, "params.hidden was [100, 101, "),
    ],
)
def test_a_trial_that_could_not_be_is_left_out_with_the_reason(change: Any, params: Any, text: str) -> None:
    found = reason(spec(change), trial(params=params))
    assert found.startswith(text)
    assert len(found) < 200


@pytest.mark.parametrize("params", [{"report_every": 7}, {"checkpoint_every": 9}])
def test_what_makes_no_difference_to_a_result_may_differ(params: Any) -> None:
    assert search_of(spec(), trial(params=params)).adopted


def test_the_seed_may_differ_where_it_is_not_searched() -> None:
    document = changed(("/search/seed", 3))
    del document["space"]["seed"]
    (one,) = search_of(check_spec(document, CATALOG), trial(params={"seed": 99})).adopted
    assert "seed" not in one.point


def test_whole_numbers_become_real_ones_where_the_new_range_is_of_those() -> None:
    (one,) = search_of(spec(), trial(params={"alpha": 2})).adopted
    assert type(one.point["alpha"]) is float


# --- states and numbers -----------------------------------------------------------------------------------------------


def test_early_stopped_trials_come_with_their_last_value_and_others_without_a_result_do_not() -> None:
    stopped = trial(
        1, state=TrialState.EARLY_STOPPED, objective=None, metrics={"val/normalized_loss": 0.75}, last_step=200
    )
    silent = trial(2, state=TrialState.EARLY_STOPPED, objective=None)
    others = [
        trial(3, state=TrialState.INFEASIBLE, objective=None),
        trial(4, state=TrialState.FAILED, objective=None),
        trial(5, state=TrialState.CANCELLED, objective=None),
        trial(6, state=TrialState.RUNNING, objective=None, metrics={"val/normalized_loss": 0.75}),
    ]
    found = search_of(spec(), stopped, silent, *others)
    (one,) = found.adopted
    assert (one.trial_id, one.state, one.value, one.last_step) == ("trl_1", TrialState.EARLY_STOPPED, 0.75, 200)
    assert found.considered == 2
    assert [left.trials for left in found.left_out] == [1]
    assert "before it had a value" in found.left_out[0].reason


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_of_too_many_the_best_are_adopted_and_of_the_others_the_last(direction: str) -> None:
    num = MAX_ADOPTED + 100
    new = spec(("/objective/direction", direction))
    sign = 1 if direction == "minimize" else -1
    # The first are the best of all, then they get better one by one.
    trials = [trial(n, objective=sign * (-1.0 if n < 50 else num - n)) for n in range(num)]
    found = search_of(new, *trials)
    numbers = [int(one.trial_id.removeprefix("trl_")) for one in found.adopted]
    assert len(numbers) == MAX_ADOPTED
    assert numbers == sorted(numbers)
    assert set(range(50)) <= set(numbers)
    assert numbers[50:] == list(range(150, num))
    (left_out,) = found.left_out
    assert (left_out.trials, str(MAX_ADOPTED) in left_out.reason) == (100, True)


def test_gp_adopts_fewer_for_it_takes_long_over_many() -> None:
    found = search_of(spec(("/search/sampler", "gp")), *(trial(n, objective=float(n)) for n in range(250)))
    assert len(found.adopted) == 200


# --- balancers and conditions -----------------------------------------------------------------------------------------


def test_each_baseline_adopts_the_trials_of_that_baseline_and_the_search_those_of_the_search() -> None:
    trials = [
        trial(0),
        trial(1, role=Role.BASELINE, balancer="equal", params={"balancer": "equal", "alpha": 1.5, "weight_lr": 0.3}),
        trial(2, role=Role.BASELINE, balancer="inverse_initial_loss", params={"balancer": "inverse_initial_loss"}),
        trial(3, role=Role.CONFIRM, params={"seed": 77}),
    ]
    found = adopted_of(spec(), *trials)
    search, equal, single_task = found.lines
    assert [one.trial_id for one in search.adopted] == ["trl_0"]
    assert [(one.trial_id, one.point) for one in equal.adopted] == [("trl_1", {"seed": 2})]
    assert (single_task.considered, single_task.adopted) == (0, ())
    assert found.summary == (
        "The samplers begin with trials of swp_earlier. search: 1 of 1. equal: 1 of 1. single_task: 0 of 0."
    )


def test_another_balancer_is_another_trial() -> None:
    document = changed(("/params/balancer", "equal"), ("/baselines", []), ("/confirm", None))
    document["space"] = {"seed": document["space"]["seed"]}
    assert reason(check_spec(document, CATALOG), trial()) == "params.balancer was gradnorm, here equal"


def test_a_search_over_balancers_adopts_those_of_its_choices_each_with_its_active_part() -> None:
    document = changed(
        ("/space/balancer", {"type": "categorical", "choices": ["gradnorm", "equal"]}),
        ("/search/balancers", "sampled"),
    )
    new = check_spec(document, CATALOG)
    other = "inverse_initial_loss"
    trials = [
        trial(0),
        trial(1, balancer="equal", params={"balancer": "equal", "alpha": 99.0}),
        trial(2, balancer=other, params={"balancer": other}),
    ]
    found = search_of(new, *trials)
    assert [one.point for one in found.adopted] == [
        {**POINT, "balancer": "gradnorm"},
        {"seed": 2, "balancer": "equal"},
    ]
    assert [left.reason for left in found.left_out] == [f"params.balancer was {other}, none of the choices here"]


def test_what_is_not_active_must_have_had_its_default() -> None:
    free = {"type": "float", "low": 0, "high": 1, "when": {"seed": 1}}
    new = spec(("/space/free", free))
    assert [one.point for one in search_of(new, trial()).adopted] == [POINT]
    assert reason(new, trial(params={"free": 0.5})) == "params.free was 0.5, here 0.0"
    (one,) = search_of(new, trial(params={"free": 0.5, "seed": 1})).adopted
    assert one.point == {**POINT, "seed": 1, "free": 0.5}


def test_reasons_are_counted_the_most_frequent_first_and_the_rest_summed_up() -> None:
    trials = [trial(n, params={"count": 1 + n // 2}) for n in range(15)]
    found = adopted_of(spec(), *trials)
    assert [left.trials for left in found.search[0].left_out] == [2] * 7 + [1]
    assert "search: 0 of 15; left out: 2: params.count was 1, here 0; 2: " in found.summary
    assert "5: for 3 other reasons." in found.summary


def test_a_sampler_is_told_of_adopted_trials_by_numbers_below_0() -> None:
    found = adopted_of(spec(), trial(0), trial(1, objective=0.25), trial(2, role=Role.BASELINE, balancer="equal"))
    new = Sweep(**{**vars(earlier_sweep()), "spec": spec(), "adopted": found.adopted})
    search, equal, single_task = lines_of(spec(), TOY)
    assert [(one.number, one.objective) for one in as_history(new, search)] == [(-2, 0.5), (-1, 0.25)]
    assert [one.number for one in as_history(new, equal)] == [-1]
    assert as_history(new, single_task) == []


def test_parameters_of_tasks_count_like_any_other_where_the_balancer_reads_them() -> None:
    income, weeks = "initial_loss/income", "weight/weeks"
    assert reason(spec(), trial(params={income: 0.7})) == f"params.{income} was 0.7, here 0.0"
    assert search_of(spec((f"/params/{income.replace('/', '~1')}", 0.7)), trial(params={income: 0.7})).adopted
    assert search_of(spec(), trial(params={weeks: 2.0})).adopted, "GradNorm does not read it"
    document = changed(
        ("/params/balancer", "static"), ("/space", {weeks: {"type": "float", "low": 0.1, "high": 10.0, "log": True}})
    )
    static = check_spec(document, CATALOG)
    params = {"balancer": "static", "seed": 7}
    trials = [trial(0, balancer="static", params=params | {weeks: 2}), trial(1, balancer="static", params=params)]
    assert [one.point for one in search_of(static, *trials).adopted] == [{weeks: 2.0}, {weeks: 1.0}]


def test_where_balancers_are_searched_by_themselves_each_adopts_its_own() -> None:
    document = changed(
        ("/space/balancer", {"type": "categorical", "choices": ["gradnorm", "inverse_initial_loss"]}),
        ("/space/free", {"type": "float", "low": 0, "high": 1}),
    )
    new = check_spec(document, CATALOG)
    other, none = "inverse_initial_loss", "equal"
    trials = [
        trial(0),
        trial(1, balancer=other, params={"balancer": other, "alpha": 99.0, "free": 0.5}),
        trial(2, balancer=none, params={"balancer": none}),
        trial(3, balancer=none, params={"balancer": none}, role=Role.BASELINE),
    ]
    found = adopted_of(new, *trials)
    gradnorm, inverse = found.search
    assert (gradnorm.line.balancer, [one.point for one in gradnorm.adopted]) == ("gradnorm", [{**POINT, "free": 0.0}])
    assert (inverse.line.balancer, [one.point for one in inverse.adopted]) == (other, [{"seed": 2, "free": 0.5}])
    assert [(one.line.balancer, one.considered) for one in found.lines[2:]] == [("equal", 1), ("single_task", 0)]
    assert found.strays == 1
    assert found.summary.endswith("Left out are 1 search trials of other balancers.")
    assert "gradnorm: 1 of 1. inverse_initial_loss: 1 of 1. equal: 1 of 1." in found.summary
