"""Conditions of a space: what is taken, what is filled in, and what is refused with a pointer and a way out."""

from __future__ import annotations

from typing import Any

import pytest
from spec_documents import CATALOG, changed
from test_spec_check import findings_of, only_finding_of

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.services.spec_schema import spec_schema

DTYPE = {"type": "categorical", "choices": ["float32", "float64"]}
BALANCER = {"type": "categorical", "choices": ["gradnorm", "equal", "inverse_initial_loss"]}


def searched(**space: Any) -> dict[str, Any]:
    """The valid spec with that space and no baselines."""
    return changed(("/space", space), ("/baselines", []), ("/confirm", None))


FREE = {"type": "float", "low": 0.0, "high": 1.0}
ALPHA = {"type": "float", "low": 0.0, "high": 3.0}
SHUFFLED = {"type": "categorical", "choices": [True, False]}
COUNT = {"type": "int", "low": 0, "high": 9}


def shuffled(**space: Any) -> dict[str, Any]:
    document = searched(shuffle=SHUFFLED, **space)
    del document["params"]["shuffle"]
    return document


def test_a_condition_is_one_value_or_several_and_is_kept_as_several() -> None:
    spec = check_spec(shuffled(free={**FREE, "when": {"shuffle": True}}), CATALOG)
    assert spec.space["free"].when == {"shuffle": (True,)}
    several = check_spec(shuffled(free={**FREE, "when": {"shuffle": [True, False]}}), CATALOG)
    assert several.space["free"].when == {"shuffle": (True, False)}
    assert spec.canonical()["space"]["free"]["when"] == {"shuffle": [True]}
    assert SweepSpec.model_validate(spec.canonical()) == spec == SweepSpec.trusted(spec.canonical())


@pytest.mark.parametrize(
    ("when", "pointer", "code", "hint"),
    [
        ({"shufle": True}, "/space/free/when/shufle", "not_searched", "'shuffle'"),
        ({"shuffle": "yes"}, "/space/free/when/shuffle", "invalid_value", "True, False"),
        ({"shuffle": 1}, "/space/free/when/shuffle", "invalid_value", "True, False"),
        ({"count": 3}, "/space/free/when/count", "not_categorical", "type categorical"),
        ({"lr": 0.001}, "/space/free/when/lr", "not_searched", "fixed in params"),
        ({"free": 0.5}, "/space/free/when", "circular", "itself"),
        ({"shuffle": []}, "/space/free/when/shuffle", "too_short", "at least 1"),
        ({"shuffle": None}, "/space/free/when/shuffle", "invalid_value", "true or false, a number or a text"),
        ({"shuffle": [True, {}]}, "/space/free/when/shuffle/1", "invalid_value", "true or false, a number or a text"),
        (["shuffle"], "/space/free/when", "not_an_object", "object"),
    ],
)
def test_a_wrong_condition_is_refused_with_a_way_out(when: Any, pointer: str, code: str, hint: str) -> None:
    found = findings_of(shuffled(count=COUNT, free={**FREE, "when": when}))
    finding = next(finding for finding in found if finding.pointer == pointer and finding.code == code)
    assert hint in finding.detail


def test_conditions_that_go_round_in_a_circle_are_refused_at_each_of_them() -> None:
    space = {
        "shuffle": {**SHUFFLED, "when": {"seed": 1}},
        "seed": {"type": "categorical", "choices": [1, 2], "when": {"shuffle": True}},
        "free": {**FREE, "when": {"seed": 1}},
    }
    document = searched(**space)
    del document["params"]["shuffle"]
    for sampler in ("tpe", "grid", "gp"):
        found = findings_of({**document, "search": {"sampler": sampler}})
        circular = [finding.pointer for finding in found if finding.code == "circular"]
        assert circular == ["/space/shuffle/when", "/space/seed/when"]


def test_chains_are_taken_in_any_order() -> None:
    space = {
        "free": {**FREE, "when": {"seed": [1, 3]}},
        "seed": {"type": "categorical", "choices": [1, 2, 3], "when": {"shuffle": False}},
    }
    assert check_spec(shuffled(**space), CATALOG).space["free"].when == {"seed": (1, 3)}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "qmc"])
def test_conditions_are_taken_by_samplers_that_can_learn_them_or_learn_nothing(sampler: str) -> None:
    document = shuffled(free={**FREE, "when": {"shuffle": True}})
    assert check_spec({**document, "search": {"sampler": sampler}}, CATALOG)


def test_gp_is_refused_a_space_with_conditions_also_where_they_are_implied() -> None:
    finding = only_finding_of({**shuffled(free={**FREE, "when": {"shuffle": True}}), "search": {"sampler": "gp"}})
    assert (finding.pointer, finding.code) == ("/search/sampler", "not_for_space")
    assert "tpe or nsga2" in finding.detail
    sampled = {"sampler": "gp", "balancers": "sampled"}
    finding = only_finding_of({**searched(balancer=BALANCER, alpha=ALPHA), "search": sampled})
    assert (finding.pointer, "'alpha'" in finding.detail) == ("/search/sampler", True)
    assert check_spec({**searched(balancer=BALANCER, free=FREE), "search": sampled}, CATALOG)


def test_cmaes_is_refused_every_space_with_conditions_for_they_need_a_choice() -> None:
    finding = only_finding_of({**shuffled(free={**FREE, "when": {"shuffle": True}}), "search": {"sampler": "cmaes"}})
    assert (finding.pointer, finding.code) == ("/space/shuffle/type", "not_for_sampler")


def test_a_grid_counts_what_conditions_leave_of_it() -> None:
    many = {"type": "int", "low": 1, "high": 90_000}
    small = shuffled(count={**many, "when": {"shuffle": True}}, batch_size={**many, "when": {"shuffle": False}})
    del small["params"]["batch_size"]
    finding = only_finding_of({**small, "search": {"sampler": "grid"}})
    assert (finding.pointer, "180000 points" in finding.detail) == ("/space", True)
    small["space"]["batch_size"]["high"] = 1000
    assert check_spec({**small, "search": {"sampler": "grid"}}, CATALOG)


# --- a searched balancer ----------------------------------------------------------------------------------------------


def test_what_not_all_balancers_read_gets_its_condition_by_itself() -> None:
    document = searched(balancer=BALANCER, alpha=ALPHA, free=FREE)
    spec = check_spec(document, CATALOG)
    assert spec.space["alpha"].when == {"balancer": ("gradnorm",)}
    assert spec.space["free"].when == {}
    assert check_spec(spec.canonical(), CATALOG) == spec
    document["space"]["alpha"]["when"] = {"balancer": "gradnorm"}
    assert check_spec(document, CATALOG) == spec


@pytest.mark.parametrize(
    ("space", "pointer", "code", "hint"),
    [
        (
            {"balancer": {**BALANCER, "choices": ["gradnorm", "bogus"]}},
            "/space/balancer/choices/1",
            "invalid_value",
            "",
        ),
        ({"balancer": {"type": "int", "low": 0, "high": 1}}, "/space/balancer/type", "wrong_type", "categorical"),
        (
            {"balancer": {**BALANCER, "choices": ["gradnorm", "single_task"]}},
            "/space/balancer/choices/1",
            "not_a_choice",
            "baselines",
        ),
        (
            {"balancer": {**BALANCER, "choices": ["equal", "inverse_initial_loss"]}, "alpha": ALPHA},
            "/space/alpha",
            "unused_parameter",
            "No balancer",
        ),
        (
            {"balancer": BALANCER, "alpha": {**ALPHA, "when": {"balancer": ["gradnorm", "equal"]}}},
            "/space/alpha/when/balancer",
            "unused_parameter",
            "'equal' does not read 'alpha'",
        ),
        (
            {"balancer": {**BALANCER, "when": {"dtype": "float32"}}, "seed": {"type": "categorical", "choices": [1]}},
            "/space/balancer/when",
            "not_conditional",
            "Every trial has a balancer",
        ),
    ],
)
def test_a_wrong_choice_of_balancers_is_refused(space: Any, pointer: str, code: str, hint: str) -> None:
    found = findings_of(searched(free=FREE, **space))
    finding = next(finding for finding in found if finding.pointer == pointer)
    assert finding.code == code
    assert hint in finding.detail


def test_a_balancer_may_be_a_choice_and_a_baseline_unless_it_is_the_only_choice() -> None:
    document = {**searched(balancer=BALANCER, free=FREE), "baselines": ["equal", "single_task"]}
    finding = only_finding_of(document)
    assert (finding.pointer, finding.code) == ("/baselines/0", "same_as_search")
    assert "list it once" in finding.detail
    document["search"] = {"balancers": "sampled"}
    assert check_spec(document, CATALOG).baselines == ("equal", "single_task")
    document["space"]["balancer"] = {**BALANCER, "choices": ["equal"]}
    finding = only_finding_of(document)
    assert (finding.pointer, finding.code) == ("/baselines/0", "same_as_search")


def test_a_condition_on_a_balancer_that_is_fixed_says_so() -> None:
    document = searched(free={**FREE, "when": {"balancer": "gradnorm"}})
    document["params"]["balancer"] = "gradnorm"
    finding = only_finding_of(document)
    assert (finding.pointer, finding.code) == ("/space/free/when/balancer", "not_searched")
    assert "fixed in params" in finding.detail


# --- points to begin with ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("point", "pointer", "hint"),
    [
        ({"balancer": "equal", "alpha": 1.0}, "/initial/0/alpha", "leave it out"),
        ({"alpha": 1.0}, "/initial/0/alpha", "give that one in this point as well"),
    ],
)
def test_an_initial_value_that_is_not_active_is_refused(point: Any, pointer: str, hint: str) -> None:
    document = {**searched(balancer=BALANCER, alpha=ALPHA, free=FREE), "initial": [point]}
    document["search"] = {"balancers": "sampled"}
    finding = only_finding_of(document)
    assert (finding.pointer, finding.code) == (pointer, "not_active")
    assert "'balancer' is 'gradnorm'" in finding.detail
    assert hint in finding.detail


def test_a_point_without_its_inactive_values_is_whole() -> None:
    document = searched(balancer=BALANCER, alpha=ALPHA, free=FREE)
    whole, part = {"balancer": "equal", "free": 0.5}, {"balancer": "gradnorm", "free": 0.5}
    assert check_spec({**document, "initial": [whole, part, part]}, CATALOG)
    finding = only_finding_of({**document, "initial": [whole, part, whole]})
    assert (finding.pointer, finding.code) == ("/initial/2", "duplicate")


def test_the_json_schema_takes_conditions_and_a_searched_balancer() -> None:
    schema = spec_schema(CATALOG)
    (dimension,) = [part for name, part in schema["$defs"].items() if name == "FloatRange"]
    options = dimension["properties"]["when"]["additionalProperties"]["anyOf"]
    assert {option["type"] for option in options} == {"boolean", "number", "string", "array"}
    rules = {rule["if"]["properties"]["trainable"]["const"]: rule for rule in schema["allOf"]}
    assert "balancer" in rules["toy"]["then"]["properties"]["space"]["propertyNames"]["enum"]
