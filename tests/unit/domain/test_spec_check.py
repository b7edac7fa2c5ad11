"""Every kind of wrong spec gets a finding that points at the field and names the way out."""

from __future__ import annotations

import math
from typing import Any

import pytest
from spec_documents import CATALOG, VALID, changed, without

from sweep_service.domain.errors import Finding, InvalidSpecError
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.domain.spec_shape import MAX_FINDINGS, json_pointer


def findings_of(document: Any) -> tuple[Finding, ...]:
    with pytest.raises(InvalidSpecError) as raised:
        check_spec(document, CATALOG)
    return raised.value.findings


def only_finding_of(document: Any) -> Finding:
    (finding,) = findings_of(document)
    return finding


def test_a_right_spec_is_taken_with_every_default_filled_in() -> None:
    small = {key: VALID[key] for key in ("name", "trainable", "space", "budget")}
    spec = check_spec(small, CATALOG)
    assert (spec.objective.metric, spec.objective.direction) == ("val/normalized_loss", "minimize")
    assert (spec.search.sampler, spec.resources.cpus, spec.resources.parallel, spec.retries) == ("tpe", 1.0, 1, 2)
    assert (spec.baselines, spec.confirm, spec.experiment) == ((), None, "toy")
    assert check_spec(VALID, CATALOG).experiment == "toys"


def test_a_spec_survives_its_canonical_form() -> None:
    spec = check_spec(VALID, CATALOG)
    assert SweepSpec.model_validate(spec.canonical()) == spec
    assert SweepSpec.model_validate_json(spec.model_dump_json()) == spec


def test_a_spec_of_other_rules_is_read_back_without_asking_todays() -> None:
    old = changed(
        ("/epochs", 3),
        ("/budget/hours", 2),
        ("/space/alpha/prior", "normal"),
        ("/space/alpha/low", 9.0),
        ("/space/seed/choices", [1, 1.0]),
        ("/search/sampler", "grid"),
        ("/baselines", ["equal", "uncertainty"]),
    )
    for field in ("resources", "objective", "confirm", "labels"):
        del old[field]
    spec = SweepSpec.trusted(old)
    assert (spec.search.sampler, spec.baselines, spec.budget.trials) == ("grid", ("equal", "uncertainty"), 32)
    assert (spec.resources.cpus, spec.objective.metric, spec.confirm, spec.labels) == (
        1.0,
        "val/normalized_loss",
        None,
        {},
    )
    assert spec.space["alpha"].model_dump() == {
        "type": "float",
        "low": 9.0,
        "high": 3.0,
        "log": False,
        "step": None,
        "when": {},
    }
    assert spec.canonical()["space"]["seed"] == {"type": "categorical", "choices": [1, 1.0], "when": {}}
    assert "epochs" not in spec.canonical()


@pytest.mark.parametrize("document", [None, [], "spec", 7, True, [VALID]], ids=repr)
def test_what_is_no_object_is_no_spec(document: Any) -> None:
    finding = only_finding_of(document)
    assert (finding.pointer, finding.code) == ("", "not_an_object")


@pytest.mark.parametrize("field", ["/name", "/trainable", "/space", "/budget", "/budget/trials"])
def test_a_missing_field_is_named(field: str) -> None:
    finding = only_finding_of(without(field))
    assert (finding.pointer, finding.code) == (field, "missing")


@pytest.mark.parametrize("field", ["/space/alpha/type", "/space/alpha/low", "/space/alpha/high", "/space/seed/choices"])
def test_a_missing_part_of_a_range_is_named(field: str) -> None:
    finding = only_finding_of(without(field))
    assert (finding.pointer, finding.code) == (field, "missing")


@pytest.mark.parametrize(
    ("pointer", "hint"),
    [
        ("/baseline", "'baselines'"),
        ("/paramz", "'params'"),
        ("/xyzzy", "Known: baselines, budget"),
        ("/budget/epochs", "Remove it"),
        ("/search/samplr", "Remove it"),
        ("/space/alpha/hihg", "Remove it"),
        ("/confirm/sides", "Remove it"),
    ],
)
def test_an_unknown_key_is_refused_with_what_was_meant(pointer: str, hint: str) -> None:
    finding = only_finding_of(changed((pointer, 1)))
    assert (finding.pointer, finding.code) == (pointer, "unknown_key")
    assert hint in finding.detail


@pytest.mark.parametrize(
    ("pointer", "value", "code", "detail"),
    [
        # wrong types: nothing is converted
        ("/name", 7, "string_type", "text"),
        ("/name", None, "string_type", "text"),
        ("/params", [], "not_an_object", "object"),
        ("/space", [], "not_an_object", "object"),
        ("/space/alpha", 3, "not_an_object", "low"),
        ("/space/alpha", None, "not_an_object", "low"),
        ("/space/alpha/low", "0", "float_type", "number"),
        ("/space/alpha/low", True, "float_type", "number"),
        ("/space/weight_lr/log", "yes", "bool_type", "boolean"),
        ("/objective", "val/normalized_loss", "not_an_object", "object"),
        ("/search/seed", "7", "int_type", "whole number"),
        ("/search/seed", 7.0, "int_type", "whole number"),
        ("/budget/trials", "32", "int_type", "whole number"),
        ("/resources/cpus", "1", "float_type", "number"),
        ("/baselines", "equal", "not_a_list", "list"),
        ("/tracking", None, "not_an_object", "object"),
        ("/labels/team", 7, "string_type", "text"),
        # out of bounds
        ("/name", "", "string_too_short", "at least 1"),
        ("/name", "x" * 201, "string_too_long", "at most 200"),
        ("/name", "two\nlines", "string_pattern_mismatch", "one line"),
        ("/name", "  ", "string_pattern_mismatch", "spaces alone"),
        ("/tracking/experiment", "\u3000", "string_pattern_mismatch", "spaces alone"),
        *(
            ("/tracking/register_as", name, "string_pattern_mismatch", "without / : @ ?")
            for name in ("a/b", "a:b", "a@b", "it's", "..", ".", " a", "a?", "a\nb")
        ),
        ("/tracking/register_as", "", "string_too_short", "at least 1"),
        ("/name", "\ud800", "invalid_text", "Unicode"),
        ("/budget/trials", 0, "greater_than_equal", "1"),
        ("/budget/trials", 100_001, "less_than_equal", "100000"),
        ("/search/seed", -1, "greater_than_equal", "0"),
        ("/search/seed", 2**31, "less_than", "2147483648"),
        ("/search/sampler", "bayes", "literal_error", "'tpe', 'gp'"),
        ("/objective/direction", "min", "literal_error", "'minimize' or 'maximize'"),
        ("/resources/cpus", 0, "greater_than", "0"),
        ("/resources/cpus", math.inf, "finite_number", "finite"),
        ("/resources/gpus", -0.5, "greater_than_equal", "0"),
        ("/resources/gpus", 1.5, "invalid_value", "whole number"),
        ("/resources/gpus", 0.00005, "invalid_value", "a multiple of 0.0001"),
        ("/resources/gpus", 0.33333, "invalid_value", "a multiple of 0.0001"),
        ("/resources/cpus", 1e-9, "invalid_value", "a multiple of 0.0001"),
        ("/resources/parallel", 0, "greater_than_equal", "1"),
        ("/confirm/seeds", 1, "greater_than_equal", "2"),
        ("/confirm/margin", 0, "greater_than", "0"),
        ("/retries", -1, "greater_than_equal", "0"),
        ("/baselines/0", "gradnorm", "literal_error", "'single_task'"),
        ("/labels/team", "no spaces", "string_pattern_mismatch", "letters"),
        ("/labels/-team", "ads", "string_pattern_mismatch", "letters"),
        ("/params/no-dashes", 1, "string_pattern_mismatch", "'_'"),
        ("/params/lr", math.nan, "invalid_value", "finite"),
        ("/params/lr", None, "invalid_value", "a number"),
        ("/params/lr", {"low": 0}, "invalid_value", "a number"),
        ("/params/hidden", [1.5], "invalid_value", "whole numbers"),
        ("/params/hidden", [True], "invalid_value", "whole numbers"),
        ("/params/steps", 2**53 + 1, "invalid_value", "9007199254740992"),
        # ranges
        ("/space", {}, "too_short", "at least 1"),
        ("/space/alpha/type", "floot", "unknown_type", "'float'"),
        ("/space/alpha/low", 3.5, "invalid_value", "above high"),
        ("/space/alpha/low", math.nan, "finite_number", "finite"),
        ("/space/weight_lr/low", 0.0, "invalid_value", "log"),
        ("/space/weight_lr/low", -1.0, "invalid_value", "log"),
        ("/space/weight_lr/step", 0.1, "invalid_value", "drop one"),
        ("/space/alpha/step", 0, "greater_than", "0"),
        ("/space/alpha/step", 1e-12, "invalid_value", "points"),
        ("/space/free", {"type": "float", "low": -1e308, "high": 1e308}, "invalid_value", "narrow"),
        ("/space/count", {"type": "int", "low": 5, "high": 1}, "invalid_value", "above high"),
        ("/space/count", {"type": "int", "low": 0, "high": 9, "log": True}, "invalid_value", "at least 1"),
        ("/space/seed/choices", [], "too_short", "at least 1"),
        ("/space/seed/choices", [1, 2, 1], "invalid_value", "twice"),
        ("/space/seed/choices", [1, 2, 1.0], "invalid_value", "twice"),
        ("/space/seed/choices", list(range(1001)), "too_long", "at most 1000 entries."),
        ("/space", {f"a{i}": VALID["space"]["alpha"] for i in range(101)}, "too_long", "at most 100 entries."),
        ("/params", {f"a{i}": 1 for i in range(201)}, "too_long", "at most 200 entries."),
        ("/baselines", ["equal"] * 11, "too_long", "May have at most 10 entries."),
        ("/space/seed/choices/1", None, "invalid_value", "number or a text"),
        ("/space/seed/choices/1", math.inf, "invalid_value", "finite"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_value_of_the_wrong_shape_is_refused_at_its_field(pointer: str, value: Any, code: str, detail: str) -> None:
    finding = only_finding_of(changed((pointer, value)))
    whole_range = "/".join(pointer.split("/")[:3])  # a fault between low and high is the range's
    assert finding.pointer in {pointer, whole_range}
    assert finding.code == code
    assert detail in finding.detail
    assert not {"Tuple", "Dictionary", "Input", "String", "validation"} & set(finding.detail.split())


@pytest.mark.parametrize(
    ("pointer", "value", "code", "detail"),
    [
        ("/trainable", "tyo", "unknown_trainable", "'toy'"),
        ("/objective/metric", "val/auc/weeks", "unknown_metric", "Did you mean"),
        ("/objective/metric", "accuracy", "unknown_metric", "val/normalized_loss"),
        ("/params/btach_size", 8, "unknown_parameter", "'batch_size'"),
        ("/space/alhpa", {"type": "float", "low": 0, "high": 1}, "unknown_parameter", "'alpha'"),
        ("/space/steps", {"type": "int", "low": 1, "high": 9}, "not_searchable", "cannot be searched"),
        ("/space/lr", {"type": "float", "low": 1e-4, "high": 1e-2}, "fixed_and_searched", "keep one"),
        ("/params/batch_size", "256", "invalid_value", "a whole number"),
        ("/params/batch_size", 256.0, "invalid_value", "a whole number"),
        ("/params/batch_size", True, "invalid_value", "a whole number"),
        ("/params/batch_size", 0, "invalid_value", "at least 1"),
        ("/params/lr", 0, "invalid_value", "above 0"),
        ("/params/lr", 101.0, "invalid_value", "at most 100"),
        ("/params/shuffle", 1, "invalid_value", "true or false"),
        ("/params/hidden", [], "invalid_value", "at least one"),
        ("/params/hidden", [64, 0], "invalid_value", "at least 1"),
        ("/params/hidden", 64, "invalid_value", "a list"),
        ("/params/dtype", "float16", "invalid_value", "float32, float64"),
        ("/params/balancer", "gradnrom", "invalid_value", "gradnorm, equal"),
        ("/params/balancer", True, "invalid_value", "gradnorm, equal"),
        ("/space/alpha/high", 10.5, "invalid_value", "at most 10"),
        ("/space/weight_lr/high", 11.0, "invalid_value", "at most 10"),
        ("/space/seed/choices/2", "three", "invalid_value", "a whole number"),
        ("/baselines", ["equal", "equal"], "duplicate", "once"),
        ("/baselines", [], "nothing_to_compare", "drop confirm"),
    ],
    ids=repr,
)
def test_what_the_catalogue_does_not_know_is_refused_at_its_field(
    pointer: str, value: Any, code: str, detail: str
) -> None:
    finding = only_finding_of(changed((pointer, value)))
    assert finding.pointer == ("/confirm" if code == "nothing_to_compare" else pointer)
    assert finding.code == code
    assert detail in finding.detail


def test_a_name_may_hold_spaces_of_every_kind_beside_other_text() -> None:
    for name in ("two words", " x", "x ", "\u3000x\xa0"):
        assert check_spec(changed(("/name", name)), CATALOG).name == name


def test_which_way_is_better_must_be_said_of_all_but_losses() -> None:
    finding = only_finding_of(changed(("/objective", {"metric": "val/auc/income"})))
    assert (finding.pointer, finding.code) == ("/objective/direction", "missing")
    assert "maximize" in finding.detail
    for direction in ("minimize", "maximize"):
        objective = {"metric": "val/auc/income", "direction": direction}
        assert check_spec(changed(("/objective", objective)), CATALOG).objective.direction == direction
    for metric in ("val/normalized_loss", "val/loss/weeks"):
        assert check_spec(changed(("/objective", {"metric": metric})), CATALOG).objective.direction == "minimize"


@pytest.mark.parametrize(("params", "known"), [({}, 2), ({"num_tasks": 1}, 1), ({"num_tasks": 3}, 3)], ids=repr)
def test_the_objective_is_a_metric_of_the_tasks_that_the_params_ask_for(params: dict[str, Any], known: int) -> None:
    for number in (1, 2, 3):
        document = changed(("/trainable", "several"), ("/params", params), ("/objective/metric", f"val/loss/t{number}"))
        if number <= known:
            assert check_spec(document, CATALOG).params == params
        else:
            assert only_finding_of(document).pointer == "/objective/metric"


@pytest.mark.parametrize("params", [[], {"num_tasks": 0}, {"num_tasks": "2"}, {"num_tasks": None}], ids=repr)
def test_no_metric_is_refused_while_it_is_open_which_tasks_there_are(params: Any) -> None:
    document = changed(("/trainable", "several"), ("/params", params), ("/objective/metric", "val/loss/t3"))
    assert only_finding_of(document).pointer in {"/params", "/params/num_tasks"}


def test_a_range_of_the_wrong_type_points_at_its_type() -> None:
    finding = only_finding_of(changed(("/space/batch_size", {"type": "float", "low": 1, "high": 9}), ("/params", {})))
    assert (finding.pointer, finding.code) == ("/space/batch_size/type", "wrong_type")


def test_both_bounds_of_a_range_are_judged() -> None:
    found = findings_of(changed(("/space/alpha", {"type": "float", "low": -11.0, "high": 11.0})))
    assert [f.pointer for f in found] == ["/space/alpha/low", "/space/alpha/high"]


def test_a_parameter_that_the_balancer_does_not_read_cannot_be_searched() -> None:
    found = findings_of(changed(("/params/balancer", "inverse_initial_loss")))
    assert {(f.pointer, f.code) for f in found} == {
        ("/space/alpha", "unused_parameter"),
        ("/space/weight_lr", "unused_parameter"),
    }


def test_a_baseline_differs_from_what_is_searched() -> None:
    free = {"type": "float", "low": 0, "high": 1}
    found = findings_of(changed(("/params/balancer", "single_task"), ("/space", {"free": free})))
    assert [(f.pointer, f.code) for f in found] == [("/baselines/1", "same_as_search")]


@pytest.mark.parametrize(
    ("early_stopping", "pointer", "code"),
    [
        ({"min_steps": 1500}, "/min_steps", "above_steps"),
        ({"min_steps": 0}, "/min_steps", "greater_than_equal"),
        ({"min_steps": 10.5}, "/min_steps", "int_type"),
        ({"pruner": "hyperbnad"}, "/pruner", "literal_error"),
        ({"reduction_factor": 1}, "/reduction_factor", "greater_than_equal"),
        ({"pruner": "median", "reduction_factor": 3}, "", "invalid_value"),
        ({"patience": 3}, "/patience", "unknown_key"),
        ("asha", "", "not_an_object"),
    ],
    ids=repr,
)
def test_early_stopping_that_cannot_work_is_told_at_its_field(early_stopping: Any, pointer: str, code: str) -> None:
    finding = only_finding_of(changed(("/early_stopping", early_stopping)))
    assert (finding.pointer, finding.code) == ("/early_stopping" + pointer, code)


def test_min_steps_is_measured_by_the_default_where_params_say_no_steps() -> None:
    document = without("/params/steps")
    document["early_stopping"]["min_steps"] = CATALOG["toy"].defaults()["steps"]
    assert only_finding_of(document).pointer == "/early_stopping/min_steps"
    document["early_stopping"] = None
    assert check_spec(document, CATALOG).early_stopping is None


@pytest.mark.parametrize(
    ("initial", "pointer", "code"),
    [
        ([{"alpha": 1.5}, {"alpha": 3.5}], "/1/alpha", "invalid_value"),
        ([{"alpha": "much"}], "/0/alpha", "invalid_value"),
        ([{"alpha": True}], "/0/alpha", "invalid_value"),
        ([{"alpha": None}], "/0/alpha", "invalid_value"),
        ([{"seed": 4}], "/0/seed", "invalid_value"),
        ([{"aplha": 1.5}], "/0/aplha", "not_searched"),
        ([{"lr": 0.001}], "/0/lr", "not_searched"),
        ([{}], "/0", "too_short"),
        ([{"alpha": 1, "weight_lr": 0.01, "seed": 1}] * 2, "/1", "duplicate"),
        ([{"alpha": index / 100} for index in range(33)], "", "too_many"),
        ({"alpha": 1.5}, "", "not_a_list"),
        ([3], "/0", "not_an_object"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_an_initial_point_that_does_not_fit_the_space_is_told_at_its_value(
    initial: Any, pointer: str, code: str
) -> None:
    finding = only_finding_of(changed(("/initial", initial)))
    assert (finding.pointer, finding.code) == ("/initial" + pointer, code)


def test_an_initial_value_lies_on_the_steps_of_its_range() -> None:
    space = {"alpha": {"type": "float", "low": 0.1, "high": 3.0, "step": 0.2}}
    assert check_spec(changed(("/space", space), ("/initial", [{"alpha": 0.7}, {"alpha": 0.7000000001}])), CATALOG)
    finding = only_finding_of(changed(("/space", space), ("/initial", [{"alpha": 0.8}])))
    assert (finding.pointer, "0.1 plus a multiple of the step 0.2" in finding.detail) == ("/initial/0/alpha", True)


def test_partial_initial_points_may_be_alike() -> None:
    assert len(check_spec(changed(("/initial", [{"alpha": 1}, {"alpha": 1}])), CATALOG).initial) == 2


@pytest.mark.parametrize("wall_time", ["30", "30 m", "0m", "1.5h", "1h30m", "-2h", "m", "2H", 30])
def test_a_wall_time_is_a_whole_number_and_a_unit(wall_time: Any) -> None:
    finding = only_finding_of(changed(("/budget/wall_time", wall_time)))
    assert finding.pointer == "/budget/wall_time"


@pytest.mark.parametrize(("wall_time", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400)])
def test_a_wall_time_is_read_in_its_unit(wall_time: str, seconds: int) -> None:
    time = check_spec(changed(("/budget/wall_time", wall_time)), CATALOG).budget.time
    assert time is not None
    assert time.total_seconds() == seconds


def test_a_grid_needs_finitely_many_values_of_every_parameter() -> None:
    found = findings_of(changed(("/search/sampler", "grid")))
    assert [(f.pointer, f.code) for f in found] == [
        ("/space/alpha", "not_for_sampler"),
        ("/space/weight_lr", "not_for_sampler"),
    ]
    space = {"alpha": {"type": "float", "low": 0.0, "high": 3.0, "step": 0.5}, "seed": VALID["space"]["seed"]}
    grid = changed(("/search/sampler", "grid"), ("/space", space))
    assert check_spec(grid, CATALOG).search.sampler == "grid"
    grid["space"]["alpha"]["step"] = 1e-5
    finding = only_finding_of(grid)
    assert (finding.pointer, finding.code) == ("/space", "too_large")
    assert "900003 points" in finding.detail


def test_cmaes_takes_no_choices() -> None:
    finding = only_finding_of(changed(("/search/sampler", "cmaes")))
    assert (finding.pointer, finding.code) == ("/space/seed/type", "not_for_sampler")
    assert check_spec(without("/space/seed") | {"search": {"sampler": "cmaes"}}, CATALOG)


@pytest.mark.parametrize("sampler", ["gp", "nsga2", "qmc", "random", "tpe"])
def test_the_other_samplers_take_any_space(sampler: str) -> None:
    assert check_spec(changed(("/search/sampler", sampler)), CATALOG).search.sampler == sampler


def test_all_faults_are_found_at_once() -> None:
    shape = changed(("/nmae", "x"), ("/space/alpha/low", 9.0), ("/budget/trials", "many"), ("/baselines/1", 5))
    assert {f.pointer for f in findings_of(shape)} == {"/nmae", "/space/alpha", "/budget/trials", "/baselines/1"}
    meaning = changed(("/params/x", 1), ("/space/y", VALID["space"]["alpha"]), ("/objective/metric", "z"))
    assert {f.pointer for f in findings_of(meaning)} == {"/params/x", "/space/y", "/objective/metric"}


def test_what_the_catalogue_says_of_the_right_parts_is_told_along_with_the_wrong_shapes() -> None:
    mixed = changed(
        ("/nmae", "x"),
        ("/params/lr", None),
        ("/params/btach_size", 8),
        ("/params/steps", 0),
        ("/space/alhpa", {"type": "float", "low": 0, "high": 1}),
        ("/space/weight_lr/high", "x"),
        ("/space/lr", {"type": "float", "low": 1e-4, "high": 1e-2}),
        ("/space/seed/choices", [1, "two"]),
        ("/objective", {"metric": "val/auc/weeks", "direction": "min"}),
        ("/budget/trials", "many"),
        ("/baselines", ["equal", 5, "equal"]),
    )
    assert {(f.pointer, f.code) for f in findings_of(mixed)} == {
        ("/nmae", "unknown_key"),
        ("/params/lr", "invalid_value"),
        ("/params/btach_size", "unknown_parameter"),
        ("/params/steps", "invalid_value"),
        ("/space/alhpa", "unknown_parameter"),
        ("/space/weight_lr/high", "float_type"),
        ("/space/lr", "fixed_and_searched"),
        ("/space/seed/choices/1", "invalid_value"),
        ("/objective/metric", "unknown_metric"),
        ("/objective/direction", "literal_error"),
        ("/budget/trials", "int_type"),
        ("/baselines/1", "literal_error"),
        ("/baselines", "duplicate"),
    }


def test_an_unknown_trainable_hides_nothing_that_can_be_judged_without_it() -> None:
    found = findings_of(changed(("/trainable", "tyo"), ("/budget", {}), ("/baselines", [])))
    assert [f.pointer for f in found] == ["/budget/trials", "/trainable", "/confirm"]


@pytest.mark.parametrize(
    ("changes", "pointers"),
    [
        ([("/params", [])], ["/params"]),
        ([("/params/balancer", None)], ["/params/balancer"]),
        ([("/space", None)], ["/space"]),
        ([("/objective", [])], ["/objective"]),
        ([("/baselines", 3)], ["/baselines"]),
        ([("/baselines", [3])], ["/baselines/0"]),
        ([("/trainable", 3), ("/params/x", 1)], ["/trainable"]),
    ],
    ids=repr,
)
def test_nothing_is_guessed_of_a_part_whose_shape_is_wrong(changes: list[tuple[str, Any]], pointers: list[str]) -> None:
    assert [f.pointer for f in findings_of(changed(*changes))] == pointers


def test_one_wrong_entry_does_not_make_its_list_look_empty() -> None:
    assert [f.pointer for f in findings_of(changed(("/space/seed/choices", [None])))] == ["/space/seed/choices/0"]
    only = {"alpha": {"type": "float", "low": 0.0, "high": "x"}}
    assert [f.pointer for f in findings_of(changed(("/space", only)))] == ["/space/alpha/high"]


def test_nobody_gets_more_findings_than_can_be_read() -> None:
    found = findings_of(VALID | {f"unknown_{index}": 1 for index in range(3 * MAX_FINDINGS)})
    assert len(found) == MAX_FINDINGS


@pytest.mark.timeout(20)
def test_a_document_full_of_faults_is_refused_in_the_time_that_it_takes_to_read_it() -> None:
    """A fault that looks at all the others, 23,000 times, would take minutes."""
    space = {f"a{index}": {"type": "categorical", "choices": []} for index in range(23_000)}
    found = findings_of(VALID | {"space": space})
    assert [f.pointer for f in found] == [f"/space/a{index}/choices" for index in range(MAX_FINDINGS)]


def test_a_pointer_escapes_what_a_key_may_hold() -> None:
    assert json_pointer(["a/b", "m~n", 0]) == "/a~1b/m~0n/0"
    document = VALID | {"params": VALID["params"] | {"a/b~c": 1}}
    assert only_finding_of(document).pointer == "/params/a~1b~0c"


def test_the_error_says_all_of_its_findings() -> None:
    with pytest.raises(InvalidSpecError) as raised:
        check_spec(changed(("/name", ""), ("/budget/trials", 0)), CATALOG)
    assert "/name: " in str(raised.value)
    assert "/budget/trials: " in str(raised.value)
    with pytest.raises(InvalidSpecError, match="/: A sweep spec is a JSON object"):
        check_spec(3, CATALOG)


def test_an_empty_catalogue_knows_no_trainable() -> None:
    with pytest.raises(InvalidSpecError, match="/trainable"):
        check_spec(VALID, {})
