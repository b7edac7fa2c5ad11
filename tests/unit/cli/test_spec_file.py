"""Spec files: YAML by the rules of 1.2, JSON, and the line of every field."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sweep_service.spec_file import SpecFileError, read_spec_file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1.0e-4", 1e-4),
        ("1E5", 1e5),
        (".5", 0.5),
        ("-2.", -2.0),
        ("010", 10),
        ("+7", 7),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("30m", "30m"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("'1e-3'", "1e-3"),
        ("<<", "<<"),
        ("=", "="),
        ("1e", "1e"),
        (".", "."),
    ],
)
def test_a_plain_value_means_what_yaml_1_2_says(text: str, value: Any) -> None:
    found = read_spec_file(f"key: {text}\n").document["key"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", [".inf", "-.INF", ".nan", "1e999"])
def test_a_number_that_is_not_finite_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(SpecFileError, match=r"^Line 2: .* is no finite number"):
        read_spec_file(f"a: 1\nb: {text}\n")


def test_every_field_has_its_line() -> None:
    spec = read_spec_file("a: 1\n\nb:\n  - x\n  - c/d: 2\n    e~f: 3\n# remark\ng: {h: 4,\n  i: 5}\n")
    assert spec.document == {"a": 1, "b": ["x", {"c/d": 2, "e~f": 3}], "g": {"h": 4, "i": 5}}
    expected = {"/a": 1, "/b": 3, "/b/0": 4, "/b/1": 5, "/b/1/c~1d": 5, "/b/1/e~0f": 6, "/g": 8, "/g/h": 8, "/g/i": 9}
    assert {pointer: spec.line_of(pointer) for pointer in expected} == expected


def test_a_field_that_is_missing_is_looked_for_around() -> None:
    spec = read_spec_file("name: x\nbudget:\n  wall_time: 3\n")
    assert spec.line_of("/budget/trials") == 2
    assert spec.line_of("/space") == 1


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read_as_json(indent: int | str | None) -> None:
    document = {"name": "a/b \U0001f600 é", "x": [1, 2.5, True, None, "1e3"], "y": {"z": {}}}
    text = json.dumps(document, indent=indent)
    assert "\\ud83d" in text, "as half pairs, which a YAML reader would leave apart"
    assert read_spec_file(text).document == document


def test_json_knows_its_lines_too() -> None:
    assert read_spec_file('{\n  "a": 1,\n  "b": {\n    "c": 2}\n}').line_of("/b/c") == 4


def test_an_anchor_can_be_used_again() -> None:
    assert read_spec_file("a: &x {low: 1}\nb: *x\n").document == {"a": {"low": 1}, "b": {"low": 1}}


def test_a_document_that_unfolds_without_end_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(SpecFileError, match="too deep or too large"):
        read_spec_file("\n".join(lines))


def test_a_document_that_holds_itself_is_refused() -> None:
    with pytest.raises(SpecFileError, match="too deep or too large"):
        read_spec_file("a: &a [*a]\n")


@pytest.mark.parametrize(
    "text",
    ["a: b: c", "a: [1", "\ta: 1", "a: *nowhere", "---\na: 1\n---\nb: 2\n", "{" * 5000, "- " * 5000, "? [a]\n: 1"],
)
def test_what_is_no_document_is_refused_with_a_line_where_there_is_one(text: str) -> None:
    with pytest.raises(SpecFileError):
        read_spec_file(text)


@pytest.mark.parametrize("text", ["", "text", "- a", "3", "[1]", "# nothing", "[\t1]"])
def test_a_document_that_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(SpecFileError, match="mapping"):
        read_spec_file(text)


@pytest.mark.parametrize("indent", ["", "  ", "\t"])
@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("NaN", "finite, .*at /b/c"),
        ("Infinity", "finite, .*at /b/c"),
        ("-Infinity", "finite, .*at /b/c"),
        ("1e999", "finite"),
        ("9" * 5000, "'999"),
        ('"\\ud83d"', "surrogate pair .*at /b/c"),
        ('{"\\ude00": 1}', "surrogate pair in a key .*at /b/c"),
        ('{"x/y": 1, "x/y": 2}', "'x/y' is given more than once"),
        ('{"x": 1, "\\u0078": 2}', "'x' is given more than once"),
    ],
)
def test_json_that_lax_readers_take_is_refused_with_its_line(indent: str, value: str, fault: str) -> None:
    with pytest.raises(SpecFileError, match=rf"^Line 4: .*{fault}"):
        read_spec_file(f'{{\n{indent}"a": 1,\n{indent}"b": {{\n{indent * 2}"c": {value}}}\n}}')


@pytest.mark.parametrize("value", ["NaN", '"\\ud83d"', '{"x": 1, "x": 2}', "1e999", "9" * 5000])
def test_json_that_is_no_yaml_at_all_is_read_as_strictly(value: str) -> None:
    with pytest.raises(SpecFileError, match=r"at /c\."):
        read_spec_file(f'{{"{"k" * 2000}": 1,\n"c": {value}}}')


def test_of_many_faults_the_first_is_told() -> None:
    with pytest.raises(SpecFileError, match="at /b/0"):
        read_spec_file('{"a": 1, "b": [NaN, 1, NaN], "c": NaN}')


def test_json_that_is_indented_with_tabs_knows_its_lines_too() -> None:
    assert read_spec_file('{\n\t"a": 1,\n\t"b": {\n\t\t"c": 2}\n}').line_of("/b/c") == 4


def test_half_a_character_is_refused_in_yaml_as_well() -> None:
    with pytest.raises(SpecFileError, match=r"^Line 2: half a surrogate pair .*at /b"):
        read_spec_file('a: 1\nb: "\\ud83d"\n')


@pytest.mark.parametrize("character", ["\x80", "\ufffe", "\udc80"], ids=repr)
def test_a_character_that_yaml_does_not_know_is_refused_with_its_line(character: str) -> None:
    with pytest.raises(SpecFileError, match=rf"^Line 2: .*U\+{ord(character):04X}"):
        read_spec_file(f"a: 1\nb: x{character}\n")


@pytest.mark.parametrize("text", ["name: x\n", '{"name": "x"}', '{\n\t"name": "x"}'])
def test_a_mark_of_the_byte_order_is_passed_over(text: str) -> None:
    assert read_spec_file("\ufeff" + text).document == {"name": "x"}
