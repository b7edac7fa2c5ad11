"""The JSON schema of a sweep spec, with what the catalogue knows: for editors, and for whoever writes specs by program.

It takes every spec that the service takes. What a schema cannot say (low above high, a baseline that is what the search
uses) it lets pass; submitting finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweep_service.domain.spec import SweepSpec
from trainables.catalog import Parameter, Trainable, task_parameter_name

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN: Mapping[str, Mapping[str, Any]] = {
    "string": {"type": "string"},
    "string_list": {"type": "array", "items": {"type": "string"}},
    "tasks": {"type": "object", "minProperties": 1},
}


def spec_schema(catalog: Mapping[str, Trainable]) -> dict[str, Any]:
    """The schema; an empty catalogue leaves out what only it knows."""
    schema = {"$schema": _DIALECT, **SweepSpec.model_json_schema()}
    if not catalog:
        return schema
    trainables = [catalog[name] for name in sorted(catalog)]
    schema["properties"] = {
        **schema["properties"],
        "trainable": {**schema["properties"]["trainable"], "enum": [trainable.name for trainable in trainables]},
    }
    schema["allOf"] = [_rule(trainable) for trainable in trainables]
    return schema


def _rule(trainable: Trainable) -> dict[str, Any]:
    """If it is that trainable, then these are its parameters and metrics."""
    own = (
        *trainable.parameters,
        *(p.for_task(task.name) for p in trainable.task_parameters for task in trainable.tasks),
    )
    searchable = [parameter.name for parameter in own if parameter.searchable]
    # Tasks that a spec describes itself may have any name.
    of_any_task = () if trainable.tasks else trainable.task_parameters
    of_tasks = {_of_any_task(parameter): _value(parameter) for parameter in of_any_task}
    patterns = [{"pattern": _of_any_task(parameter)} for parameter in of_any_task if parameter.searchable]
    return {
        "if": {"properties": {"trainable": {"const": trainable.name}}, "required": ["trainable"]},
        "then": {
            "description": trainable.summary,
            "properties": {
                "params": {
                    "properties": {parameter.name: _value(parameter) for parameter in own},
                    **({"patternProperties": of_tasks} if of_tasks else {}),
                    "additionalProperties": False,
                },
                "space": {
                    "propertyNames": {"anyOf": [{"enum": searchable}, *patterns]} if patterns else {"enum": searchable}
                },
                "objective": _metric(trainable),
                "objectives": {"items": _metric(trainable)},
            },
        },
    }


def _of_any_task(parameter: Parameter) -> str:
    """A pattern for the names of that parameter of tasks."""
    return f"^{task_parameter_name(parameter.name, '')}"


def _metric(trainable: Trainable) -> dict[str, Any]:
    return {"properties": {"metric": {"enum": list(trainable.metrics)}}}


def _value(parameter: Parameter) -> dict[str, Any]:
    """What the parameter may be fixed to."""
    if parameter.type == "bool":
        kind: dict[str, Any] = {"type": "boolean"}
    elif parameter.type == "categorical":
        kind = {"enum": list(parameter.choices)}
    elif parameter.type == "int_list":
        kind = {"type": "array", "items": {"type": "integer", **_bounds(parameter)}, "minItems": 1}
    elif parameter.type in _PLAIN:
        kind = dict(_PLAIN[parameter.type])
    else:
        kind = {"type": "integer" if parameter.type == "int" else "number", **_bounds(parameter)}
    return {"description": parameter.description, "default": parameter.default, **kind}


def _bounds(parameter: Parameter) -> dict[str, float]:
    low = "exclusiveMinimum" if parameter.exclusive_low else "minimum"
    bounds = {low: parameter.low, "maximum": parameter.high}
    return {name: bound for name, bound in bounds.items() if bound is not None}
