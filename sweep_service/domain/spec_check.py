"""From a document to a spec that can be run, or to everything that is wrong with it.

Two steps: the shape (:mod:`sweep_service.domain.spec`), then what only the catalogue knows. Each wrong field gives one
:class:`Finding` with a JSON pointer and a way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from sweep_service.domain.errors import Finding, InvalidSpecError
from sweep_service.domain.space import Choice, Dimension, FloatRange, IntRange
from sweep_service.domain.spec import PATTERN_RULES, SweepSpec
from trainables.catalog import BALANCERS, Parameter, Trainable

MAX_FINDINGS = 100  # a document with more faults than this is not read to its end by anybody


def check_spec(document: Any, catalog: Mapping[str, Trainable]) -> SweepSpec:
    """The spec that the document describes.

    Raises:
        InvalidSpecError: with every finding, at most MAX_FINDINGS.
    """
    if not isinstance(document, Mapping):
        raise InvalidSpecError([Finding(pointer="", code="not_an_object", detail="A sweep spec is a JSON object.")])
    try:
        spec = SweepSpec.model_validate(document)
    except ValidationError as error:
        raise InvalidSpecError(_shape_findings(error, document)) from None
    findings = list(_catalog_findings(spec, catalog))
    if findings:
        raise InvalidSpecError(findings[:MAX_FINDINGS])
    return spec


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


def _shape_findings(error: ValidationError, document: Mapping[str, Any]) -> Sequence[Finding]:
    findings: dict[tuple[str, str], Finding] = {}
    items = error.errors(include_url=False, include_context=True, include_input=False)
    around = {loc[:depth] for loc in (item["loc"] for item in items) for depth in range(len(loc))}
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


def _document_path(loc: tuple[str | int, ...], document: Any, *, missing: bool) -> Iterator[str | int]:
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
        return "unknown_type", f"There is no range of type {tag!r}.{_suggest(tag, _TAGS)}"
    if kind == "string_pattern_mismatch":
        return kind, PATTERN_RULES.get(item["ctx"]["pattern"], message + ".")
    if kind == "too_short":
        return kind, f"Must have at least {item['ctx']['min_length']} entry."
    if kind == "value_error":
        return "invalid_value", message[:1].upper() + message[1:] + "."
    message = message.replace("Input should", "Must").replace("String should", "Must").replace("be a valid", "be a")
    return kind, message if message.endswith(".") else message + "."


def _closest(key: str, loc: tuple[str | int, ...]) -> str:
    return _suggest(key, SweepSpec.model_fields) if len(loc) == 1 else " Remove it or correct its name."


def _suggest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean …?", or the known words."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(names)}."


def _catalog_findings(spec: SweepSpec, catalog: Mapping[str, Trainable]) -> Iterator[Finding]:
    trainable = catalog.get(spec.trainable)
    if trainable is None:
        detail = f"There is no trainable {spec.trainable!r}.{_suggest(spec.trainable, catalog)}"
        yield Finding(pointer="/trainable", code="unknown_trainable", detail=detail)
        return
    yield from _params_findings(spec, trainable)
    yield from _space_findings(spec, trainable)
    if spec.objective.metric not in trainable.metrics:
        detail = f"{trainable.name} does not report it.{_suggest(spec.objective.metric, trainable.metrics)}"
        yield Finding(pointer="/objective/metric", code="unknown_metric", detail=detail)
    yield from _comparison_findings(spec)


def _params_findings(spec: SweepSpec, trainable: Trainable) -> Iterator[Finding]:
    for name, value in spec.params.items():
        pointer = json_pointer(("params", name))
        parameter = trainable.parameter(name)
        if parameter is None:
            known = (p.name for p in trainable.parameters)
            detail = f"{trainable.name} has no parameter {name!r}.{_suggest(name, known)}"
            yield Finding(pointer=pointer, code="unknown_parameter", detail=detail)
        elif fault := value_fault(parameter, value):
            yield Finding(pointer=pointer, code="invalid_value", detail=fault)


def _space_findings(spec: SweepSpec, trainable: Trainable) -> Iterator[Finding]:
    for name, dimension in spec.space.items():
        pointer = json_pointer(("space", name))
        parameter = trainable.parameter(name)
        if parameter is None or not parameter.searchable:
            known = (p.name for p in trainable.parameters if p.searchable)
            fact = "cannot be searched" if parameter else f"is no parameter of {trainable.name}"
            detail = f"{name!r} {fact}.{_suggest(name, known)}"
            yield Finding(pointer=pointer, code="not_searchable" if parameter else "unknown_parameter", detail=detail)
            continue
        if name in spec.params:
            detail = f"{name!r} is fixed in params and searched in space; keep one of the two."
            yield Finding(pointer=pointer, code="fixed_and_searched", detail=detail)
        balancer = str(spec.params.get("balancer", trainable.defaults()["balancer"]))
        if parameter.used_by is not None and balancer in BALANCERS and balancer not in parameter.used_by:
            detail = f"The balancer {balancer!r} does not read {name!r}: searching it changes nothing. Remove it."
            yield Finding(pointer=pointer, code="unused_parameter", detail=detail)
        yield from _dimension_findings(pointer, parameter, dimension)


def _dimension_findings(pointer: str, parameter: Parameter, dimension: Dimension) -> Iterator[Finding]:
    fits = {"float": FloatRange | IntRange | Choice, "int": IntRange | Choice}.get(parameter.type, Choice)
    if not isinstance(dimension, fits):
        detail = f"{parameter.name!r} is of type {parameter.type}; a range of type {dimension.type} does not fit it."
        yield Finding(pointer=f"{pointer}/type", code="wrong_type", detail=detail)
        return
    if isinstance(dimension, Choice):
        points = [(f"/choices/{index}", choice) for index, choice in enumerate(dimension.choices)]
    else:
        points = [("/low", dimension.low), ("/high", dimension.high)]
    for suffix, value in points:
        if fault := value_fault(parameter, value):
            yield Finding(pointer=pointer + suffix, code="invalid_value", detail=fault)


def _comparison_findings(spec: SweepSpec) -> Iterator[Finding]:
    if len(set(spec.baselines)) < len(spec.baselines):
        yield Finding(pointer="/baselines", code="duplicate", detail="A baseline is listed twice; list each once.")
    balancer = spec.params.get("balancer")
    if balancer in spec.baselines:
        index = spec.baselines.index(balancer)
        detail = f"{balancer!r} is what the search trials use; a baseline must differ from it."
        yield Finding(pointer=f"/baselines/{index}", code="same_as_search", detail=detail)
    if spec.confirm is not None and not spec.baselines:
        detail = "confirm compares the best trial with the baselines, but there are none: list some, or drop confirm."
        yield Finding(pointer="/confirm", code="nothing_to_compare", detail=detail)


def value_fault(parameter: Parameter, value: Any) -> str | None:
    """What is wrong with that value for that parameter, as a sentence; None if nothing is."""
    if parameter.type == "int_list":
        if not isinstance(value, list) or not value:
            return f"{parameter.name!r} must be a list of at least one whole number, such as {parameter.default}."
        return next((fault for item in value if (fault := _number_fault(parameter, item, whole=True))), None)
    if parameter.type == "bool":
        return None if isinstance(value, bool) else f"{parameter.name!r} must be true or false."
    if parameter.type == "categorical":
        known = ", ".join(parameter.choices)
        return None if value in parameter.choices else f"{parameter.name!r} must be one of: {known}."
    return _number_fault(parameter, value, whole=parameter.type == "int")


def _number_fault(parameter: Parameter, value: Any, *, whole: bool) -> str | None:
    kind = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        return f"{parameter.name!r} must be {kind}, not {value!r}."
    too_low = parameter.low is not None and (
        value <= parameter.low if parameter.exclusive_low else value < parameter.low
    )
    if too_low:
        bound = "above" if parameter.exclusive_low else "at least"
        return f"{parameter.name!r} must be {bound} {parameter.low:g}, not {value!r}."
    if parameter.high is not None and value > parameter.high:
        return f"{parameter.name!r} must be at most {parameter.high:g}, not {value!r}."
    return None
