"""Specs that search each balancer by itself: what is filled in, taken and refused."""

from __future__ import annotations

from typing import Any

import pytest
from spec_documents import CATALOG, changed
from test_spec_check import findings_of, only_finding_of

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec

FREE = {"type": "float", "low": 0.0, "high": 1.0}
ALPHA = {"type": "float", "low": 0.0, "high": 3.0}
BALANCER = {"type": "categorical", "choices": ["gradnorm", "static", "equal"]}


def searched(**more: Any) -> dict[str, Any]:
    space = {"balancer": BALANCER, "alpha": ALPHA, "free": FREE}
    return {**changed(("/space", space), ("/baselines", []), ("/confirm", None)), **more}


def test_how_balancers_are_searched_is_filled_in_where_they_are_and_survives_being_stored() -> None:
    spec = check_spec(searched(), CATALOG)
    assert (spec.search.balancers, spec.methods) == ("equal_effort", ("gradnorm", "static", "equal"))
    assert check_spec(spec.canonical(), CATALOG) == spec == SweepSpec.trusted(spec.canonical())
    sampled = check_spec(searched(search={"balancers": "sampled"}), CATALOG)
    assert (sampled.search.balancers, sampled.methods) == ("sampled", ())
    plain = check_spec(changed(), CATALOG)
    assert (plain.search.balancers, plain.methods) == (None, ())
    assert check_spec(plain.canonical(), CATALOG) == plain


@pytest.mark.parametrize("value", ["equal_effort", "sampled"])
def test_it_is_refused_where_the_balancer_is_not_searched(value: str) -> None:
    finding = only_finding_of(changed(("/search/balancers", value)))
    assert (finding.pointer, finding.code) == ("/search/balancers", "not_searched")


def test_an_unknown_way_is_refused() -> None:
    finding = only_finding_of(searched(search={"balancers": "fair"}))
    assert (finding.pointer, finding.code) == ("/search/balancers", "literal_error")


def test_a_budget_that_leaves_a_balancer_without_a_trial_is_refused() -> None:
    finding = only_finding_of(searched(budget={"trials": 2}))
    assert (finding.pointer, finding.code) == ("/budget/trials", "too_few")
    assert "3 or more" in finding.detail
    assert check_spec(searched(budget={"trials": 3}), CATALOG)
    assert check_spec(searched(budget={"trials": 2}, search={"balancers": "sampled"}), CATALOG)


def test_a_baseline_that_is_searched_too_is_refused() -> None:
    finding = only_finding_of(searched(baselines=["single_task", "equal"]))
    assert (finding.pointer, finding.code) == ("/baselines/1", "same_as_search")


def test_balancers_can_be_compared_without_baselines() -> None:
    assert check_spec(searched(confirm={"seeds": 2}), CATALOG).confirm
    alone = searched(confirm={"seeds": 2})
    alone["space"]["balancer"] = {**BALANCER, "choices": ["gradnorm"]}
    assert only_finding_of(alone).code == "nothing_to_compare"
    assert only_finding_of(searched(confirm={"seeds": 2}, search={"balancers": "sampled"})).code == "nothing_to_compare"


def test_gp_and_cmaes_search_balancers_since_none_draws_the_balancer_itself() -> None:
    for sampler in ("gp", "cmaes"):
        assert check_spec(searched(search={"sampler": sampler}), CATALOG)
        found = findings_of(searched(search={"sampler": sampler, "balancers": "sampled"}))
        assert found[0].code in ("not_for_space", "not_for_sampler")


def test_a_condition_or_a_choice_within_a_balancer_is_still_refused_them() -> None:
    document = searched()
    document["space"]["shuffle"] = {"type": "categorical", "choices": [True, False], "when": {"balancer": "static"}}
    document["space"]["count"] = {"type": "int", "low": 1, "high": 3, "when": {"shuffle": True}}
    del document["params"]["shuffle"]
    finding = only_finding_of({**document, "search": {"sampler": "gp"}})
    assert (finding.pointer, "'count'" in finding.detail) == ("/search/sampler", True)
    finding = only_finding_of({**document, "search": {"sampler": "cmaes"}})
    assert finding.pointer == "/space/shuffle/type"


def test_a_point_need_not_name_the_balancer_but_must_not_name_another() -> None:
    assert check_spec(searched(initial=[{"alpha": 1.0}, {"free": 0.5}]), CATALOG)
    finding = only_finding_of(searched(initial=[{"alpha": 1.0, "balancer": "equal"}]))
    assert (finding.pointer, finding.code) == ("/initial/0/alpha", "not_active")


@pytest.mark.parametrize("search", [{}, {"seed": 1}, {"sampler": "tpe"}])
def test_more_points_than_a_balancer_has_trials_are_refused(search: dict[str, Any]) -> None:
    points = [{"balancer": "equal", "free": place / 10} for place in range(4)]
    finding = only_finding_of(searched(initial=points, budget={"trials": 12}, search=search))
    assert (finding.pointer, finding.code) == ("/initial", "too_many")
    assert "for equal, which gets 3" in finding.detail
    assert check_spec(searched(initial=points, budget={"trials": 16}), CATALOG)
