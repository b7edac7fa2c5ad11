"""What is wrong with the shape of a document, field by field and in a person's words.

Pydantic finds the faults; it speaks of Python's types and of branches of a union, and counts one fault several times.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from pydantic import ValidationError

from sweep_service.domain.errors import Finding
from sweep_service.domain.spec import PATTERN_RULES, SweepSpec

MAX_FINDINGS = 100  # a document with more faults than this is not read to its end by anybody

Location: TypeAlias = tuple[str | int, ...]  # pydantic's: keys and indices, and the names of a union's branches


def json_pointer(parts: Iterable[str | int]) -> str:
    """RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


_WORDS: Mapping[str, tuple[str, str]] = {  # pydantic's kinds of fault whose own words speak of Python
    "model_type": ("not_an_object", "Must be an object with named fields."),
    "dict_type": ("not_an_object", "Must be an object with named fields."),
    "model_attributes_type": ("not_an_object", "Must be an object such as {type: float, low: 0.0, high: 1.0}."),
    "int_type": ("int_type", "Must be a whole number."),
    "string_type": ("string_type", "Must be a text."),
    "tuple_type": ("not_a_list", "Must be a list."),
    "string_unicode": ("invalid_text", "Must be a text of valid Unicode."),
    "missing": ("missing", "This field is required."),
    "union_tag_not_found": ("missing", "This field is required: float, int or categorical."),
}
_TAGS = ("float", "int", "categorical")


def read_shape(document: Mapping[str, Any]) -> tuple[SweepSpec | None, Sequence[Any]]:
    """The spec, or all that is wrong with the document's shape, as pydantic tells it."""
    try:
        return SweepSpec.model_validate(document), ()
    except ValidationError as error:
        return None, error.errors(include_url=False, include_context=True, include_input=False)


def shape_findings(items: Sequence[Any], document: Mapping[str, Any]) -> list[Finding]:
    findings: dict[tuple[str, str], Finding] = {}
    around = places_around(item["loc"] for item in items)
    for item in items:
        if len(findings) == MAX_FINDINGS:
            break
        if item["type"] == "too_short" and item["loc"] in around:
            continue  # pydantic counts the right elements only; the wrong ones have findings of their own
        pointer = json_pointer(_document_path(item["loc"], document, missing=item["type"] == "missing"))
        if item["type"].startswith("union_tag"):
            pointer += "/type"
        code, detail = _explain(item, document)
        findings.setdefault((pointer, code), Finding(pointer=pointer, code=code, detail=detail))
    return list(findings.values())


def places_around(locations: Iterable[Location]) -> set[Location]:
    """Everything that one of the locations lies in."""
    return {loc[:depth] for loc in locations for depth in range(len(loc))}


def _document_path(loc: Location, document: Any, *, missing: bool) -> Iterator[str | int]:
    """Pydantic's location without the parts that name a branch of a union and not a place in the document."""
    here = document
    for index, part in enumerate(loc):
        if _holds(here, part):
            here = here[part]
        elif not (missing and index == len(loc) - 1):
            continue
        yield part


def _holds(container: Any, part: str | int) -> bool:
    if isinstance(container, Mapping):
        return part in container
    return isinstance(container, list) and isinstance(part, int) and part < len(container)


def _explain(item: Any, document: Mapping[str, Any]) -> tuple[str, str]:
    kind, message = str(item["type"]), str(item["msg"]).removeprefix("Value error, ")
    if kind in _WORDS:
        return _WORDS[kind]
    if kind == "extra_forbidden":
        return "unknown_key", f"Unknown key {str(item['loc'][-1])!r}.{_closest(str(item['loc'][-1]), item['loc'])}"
    if kind == "union_tag_invalid":
        tag = str(item["ctx"]["tag"])
        return "unknown_type", f"There is no range of type {tag!r}.{suggest(tag, _TAGS)}"
    if kind == "string_pattern_mismatch":
        return kind, PATTERN_RULES.get(item["ctx"]["pattern"], message + ".")
    if kind == "too_short":
        return kind, f"Must have at least {_entries(item['ctx']['min_length'])}."
    if kind == "too_long":
        return kind, f"May have at most {_entries(item['ctx']['max_length'])}."
    if kind == "value_error":
        return "invalid_value", message[:1].upper() + message[1:] + "."
    message = message.replace("Input should", "Must").replace("String should", "Must").replace("be a valid", "be a")
    return kind, message if message.endswith(".") else message + "."


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number} entries"


def _closest(key: str, loc: Location) -> str:
    return suggest(key, SweepSpec.model_fields) if len(loc) == 1 else " Remove it or correct its name."


def suggest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean …?", or the known words."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(names)}."
