"""The JSON merge patch of a sweep, as the API's description shows it: made of the schemas of what it changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAME = "SweepPatch"


def patch_schema(schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a patch, of those of the spec's parts by name."""
    parallel = schemas["Resources"]["properties"]["parallel"]
    return {
        "title": NAME,
        "description": "What it names is set, null removes, the rest stays (RFC 7396).",
        "type": "object",
        "additionalProperties": False,
        "minProperties": 1,
        "properties": {
            "budget": _part(schemas["Budget"], required=("trials",)),
            "resources": {"type": "object", "additionalProperties": False, "properties": {"parallel": parallel}},
            "priority": _or_null(_without_default(schemas["SweepSpec"]["properties"]["priority"])),
            "early_stopping": {"anyOf": [_part(schemas["EarlyStopping"]), {"type": "null"}]},
        },
    }


def _part(schema: Mapping[str, Any], *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """All of an object's fields, any of which may be left out, and removed unless it is required."""
    properties = {
        name: _without_default(field) if name in required else _or_null(_without_default(field))
        for name, field in schema["properties"].items()
    }
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _without_default(field: Mapping[str, Any]) -> dict[str, Any]:
    """What a patch does not name keeps the value that it has."""
    return {name: value for name, value in field.items() if name != "default"}


def _or_null(field: dict[str, Any]) -> dict[str, Any]:
    if {"type": "null"} in field.get("anyOf", ()):
        return field
    notes = {name: field.pop(name) for name in ("title", "description") if name in field}
    return {"anyOf": [field, {"type": "null"}], **notes}
