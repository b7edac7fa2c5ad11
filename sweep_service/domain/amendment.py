"""Changes to what a sweep is to do, after it has been submitted: its budget, how many packs run at once, which trials
are ended early; and when its turn is. All else decides what its trials are, and those that it has would not be of the
same sweep.

A change is a JSON merge patch (RFC 7396): what it names is set, null removes, the rest stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sweep_service.domain.errors import Finding, InvalidSpecError
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.spec_check import check_spec
from sweep_service.domain.spec_shape import json_pointer, suggest
from trainables.catalog import Trainable

_FIELDS: Mapping[str, frozenset[str] | None] = {
    "budget": None,  # all of it
    "early_stopping": None,
    "resources": frozenset({"parallel"}),  # what a pack takes is reserved by packs that run
    "priority": None,
}
_PLAIN = frozenset({"priority"})  # values, no objects
_WHAT_CAN = "What can be changed is budget, resources.parallel, early_stopping and priority."

Changes = Mapping[str, tuple[Any, Any]]
"""What is different, by JSON pointer: before and after; None: not given."""


def amended_spec(spec: SweepSpec, patch: Any, catalog: Mapping[str, Trainable]) -> SweepSpec:
    """The spec with the changes that the patch describes, checked as a submitted one is.

    Raises:
        InvalidSpecError: with every finding; the pointers are into the spec as it would be.
    """
    if not isinstance(patch, Mapping):
        raise InvalidSpecError([Finding(pointer="", code="not_an_object", detail=f"Must be an object. {_WHAT_CAN}")])
    if findings := list(_scope_findings(patch)):
        raise InvalidSpecError(findings)
    checked = check_spec(_merged(spec.canonical(), patch), catalog)
    # Nothing else changes, whatever today's defaults would make of a spec that was stored by an earlier version.
    return spec.model_copy(update={name: getattr(checked, name) for name in _FIELDS})


def changes_between(before: SweepSpec, after: SweepSpec) -> Changes:
    """Where two specs of one sweep differ."""
    old, new = (dict(_leaves((), {name: spec.canonical()[name] for name in _FIELDS})) for spec in (before, after))
    pointers = dict.fromkeys([*old, *new])  # in the order of the spec
    return {p: (old.get(p), new.get(p)) for p in pointers if old.get(p) != new.get(p)}


def told(changes: Changes) -> str:
    """The changes as a sentence."""
    parts = [f"{'.'.join(p.split('/')[1:])}: {_word(old)} → {_word(new)}" for p, (old, new) in changes.items()]
    return "; ".join(parts) + "." if parts else ""


def _scope_findings(patch: Mapping[str, Any]) -> Iterator[Finding]:
    if not patch:
        yield Finding(pointer="", code="empty", detail=f"Nothing is to be changed. {_WHAT_CAN}")
    for name, value in patch.items():
        pointer = json_pointer([name])
        if name not in _FIELDS:
            yield _out_of_scope(pointer, name, SweepSpec.model_fields)
        elif name in _PLAIN:
            continue
        elif not isinstance(value, Mapping) and not (value is None and name == "early_stopping"):
            detail = "Must be an object with the fields to change, such as {trials: 64} in budget."
            yield Finding(pointer=pointer, code="not_an_object", detail=detail)
        elif (open_ones := _FIELDS[name]) is not None:
            known = type(SweepSpec.model_fields[name].default).model_fields
            for part in value or {}:
                if part not in open_ones:
                    yield _out_of_scope(json_pointer([name, part]), part, known)


def _out_of_scope(pointer: str, name: str, known: Mapping[str, Any]) -> Finding:
    if name not in known:
        return Finding(pointer=pointer, code="unknown_key", detail=f"Unknown key {name!r}.{suggest(name, known)}")
    detail = f"{name} is settled when a sweep is submitted. {_WHAT_CAN} For anything else submit another sweep."
    return Finding(pointer=pointer, code="not_amendable", detail=detail)


def _merged(document: Any, patch: Any) -> Any:
    """RFC 7396, section 2."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(document) if isinstance(document, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merged(merged.get(name), value)
    return merged


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves((*path, name), item)
    elif value is not None:
        yield json_pointer(path), value


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
