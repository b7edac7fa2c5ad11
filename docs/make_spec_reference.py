"""Prints docs/spec.md from the spec's own schema and the catalogue: ``make docs`` writes it, a test compares it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from sweep_service.domain.spec import SweepSpec
from trainables.catalog import Parameter, Trainable, builtin_trainables

Schema = Mapping[str, Any]

HEAD = """# The sweep spec

*Made from the code by `make docs`; the same as JSON schema: the `SweepSpec` of `/api/v1/openapi.json`.*

A spec is YAML or JSON. It is strict: an unknown key, a wrong type or an impossible value is refused with a pointer to
the field, before anything is queued. `sweep init TRAINABLE` writes one to start from.
"""


def main() -> None:
    sys.stdout.write("\n".join(reference()).rstrip() + "\n")


def reference() -> Iterator[str]:
    """The page, line by line."""
    schema = SweepSpec.model_json_schema()
    parts: Mapping[str, Schema] = schema["$defs"]
    yield HEAD
    yield from _fields(schema, "## Fields")
    objects = {
        name: parts[part] for name, field in schema["properties"].items() if (part := _part_of(field)) is not None
    }
    for name, part in objects.items():
        yield from _fields(part, f"## `{name}`")
    yield "## `space`\n\nBy the name of a parameter, the range that it is searched in:\n"
    ranges = schema["properties"]["space"]["patternProperties"].values()
    for reference_ in next(iter(ranges))["oneOf"]:
        part = parts[_name(reference_["$ref"])]
        yield from _fields(part, f"### `type: {part['properties']['type']['const']}`")
    yield "## What can be trained\n"
    yield "Installed packages may bring more; `GET /api/v1/trainables` lists what a service has.\n"
    yield "`weight/TASK` and the like are parameters that each task may have for itself: `weight/income`.\n"
    for trainable in builtin_trainables():
        yield from _trainable(trainable)


def _fields(schema: Schema, heading: str) -> Iterator[str]:
    yield f"{heading}\n"
    if text := schema.get("description"):
        yield f"{_cell(text)}\n"
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    required = schema.get("required", ())
    for name, field in schema["properties"].items():
        default = "**required**" if name in required else f"`{json.dumps(field.get('default', {}))}`"
        yield f"| `{name}` | {_type(field)} | {default} | {_cell(field.get('description', ''))} |"
    yield ""


def _type(field: Schema) -> str:
    if _part_of(field) is not None:
        return "list of objects, see below" if field.get("type") == "array" else "object, see below"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(option) for option in field["anyOf"]))
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    kind = {"integer": "whole number", "string": "text", "array": "list", "boolean": "true or false"}
    name = kind.get(field.get("type", ""), field.get("type", "anything"))
    if name == "list" and "items" in field:
        name = f"list of {_type(field['items'])}"
    return name + _bounds(field)


def _bounds(field: Schema) -> str:
    bounds = [
        f"{sign} {_number(field[key])}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in field
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


def _trainable(trainable: Trainable) -> Iterator[str]:
    yield f"### `{trainable.name}`\n\n{trainable.summary}\n"
    yield "Metrics for `objective.metric`: " + ", ".join(f"`{metric}`" for metric in trainable.metrics) + ".\n"
    yield "| parameter | type | default | searched | meaning |\n|---|---|---|---|---|"
    of_tasks = (parameter.for_task("TASK") for parameter in trainable.task_parameters)
    for parameter in (*trainable.parameters, *of_tasks):
        searched = "yes" if parameter.searchable else "no"
        default = f"`{json.dumps(parameter.default)}`"
        yield f"| `{parameter.name}` | {_parameter_type(parameter)} | {default} | {searched} | {_meaning(parameter)} |"
    yield ""


def _parameter_type(parameter: Parameter) -> str:
    if parameter.choices:
        return " or ".join(f"`{choice}`" for choice in parameter.choices)
    names = {"int": "whole number", "float": "number", "bool": "true or false", "int_list": "list of whole numbers"}
    low = "" if parameter.low is None else f"{'>' if parameter.exclusive_low else '≥'} {_number(parameter.low)}"
    high = "" if parameter.high is None else f"≤ {_number(parameter.high)}"
    bounds = " and ".join(bound for bound in (low, high) if bound)
    return names.get(parameter.type, parameter.type) + (f", {bounds}" if bounds else "")


def _meaning(parameter: Parameter) -> str:
    read_by = f" Read by {', '.join(parameter.used_by)} only." if parameter.used_by is not None else ""
    return _cell(parameter.description + read_by)


def _part_of(field: Schema) -> str | None:
    """The object that a field is, alone, as an alternative to null or in a list."""
    options = field.get("anyOf", [field.get("items", field)])
    return next((_name(option["$ref"]) for option in options if "$ref" in option), None)


def _name(reference_: str) -> str:
    return reference_.rpartition("/")[2]


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e6 else f"{value:,.0f}".replace(",", " ")


def _cell(text: str) -> str:
    return " ".join(text.replace("``", "`").replace("|", r"\|").split())


if __name__ == "__main__":
    main()
