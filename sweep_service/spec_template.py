"""A first spec of a trainable, with a comment on every line that is not plain: what ``sweep init`` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

Document = Mapping[str, Any]

_SEARCHED = {
    "alpha": "{type: float, low: 0.0, high: 3.0}",
    "weight_lr": "{type: float, low: 0.001, high: 0.3, log: true}",
}
_EXAMPLES = {  # of parameters that have no default: to be replaced
    "string": "path/to/your.csv",
    "tasks": '{first: {column: a_column, kind: regression}, second: {column: another, kind: binary, positive: "yes"}}',
}
_COMMENT_COLUMN = 34
_TO_FILL_IN = "TO FILL IN"


def spec_template(trainable: Document) -> str:
    """YAML that can be submitted as it is. ``trainable`` is a member of what ``GET /trainables`` lists."""
    parameters: Sequence[Document] = trainable["parameters"]
    is_incomplete = any(parameter["default"] is None for parameter in parameters)
    lines = [
        f"# {_one_line(trainable['summary'])}",
        "# Commented parameters show their defaults. Queue it with: sweep submit FILE --watch",
        *([f"# Lines that say {_TO_FILL_IN} have no default: they hold an example to be replaced."] * is_incomplete),
        f"name: {_value(trainable['name'] + '-gradnorm')}",
        f"trainable: {_value(trainable['name'])}",
        "params:",
        *_params(parameters),
        *_of_tasks(trainable),
        "space:",
        *_space(parameters),
        "objective:",
        _line("  metric: " + _value(trainable["default_objective"]), "or " + ", ".join(_other_metrics(trainable))),
        "  direction: minimize",
        "search: {sampler: tpe, seed: 0}",
        _line("budget: {trials: 16}", "of GradNorm; each baseline gets as many over the parameters that it reads"),
        _line("resources: {cpus: 1, gpus: 0, parallel: 2}", "of one pack of trials; how many packs at once"),
        "baselines: [equal, inverse_initial_loss, single_task]",
        _line("confirm: {seeds: 5}", "the best of each again with fresh seeds, judged on the test split: the verdict"),
        _line(
            f"tracking: {{experiment: {_value(trainable['name'])}}}",
            "of MLflow; register_as: NAME adds the best model to its registry",
        ),
        "# labels: {team: mine}",
    ]
    return "\n".join(lines) + "\n"


def _params(parameters: Sequence[Document]) -> Iterator[str]:
    for parameter in parameters:
        name = parameter["name"]
        if name in _SEARCHED:
            continue
        must_be_given = parameter["default"] is None
        fixed = must_be_given or name == "steps"  # one line must stand, or params would be no mapping
        value = _EXAMPLES[parameter["type"]] if must_be_given else _value(parameter["default"])
        entry = f"  {'' if fixed else '# '}{name}: {value}"
        choices = f" One of {', '.join(parameter['choices'])}." if parameter.get("choices") else ""
        mark = f"{_TO_FILL_IN}. " if must_be_given else ""
        yield _line(entry, mark + _one_line(parameter["description"]) + choices)


def _space(parameters: Sequence[Document]) -> Iterator[str]:
    for parameter in parameters:
        if parameter["name"] in _SEARCHED:
            yield _line(f"  {parameter['name']}: {_SEARCHED[parameter['name']]}", _one_line(parameter["description"]))
    searchable = [p["name"] for p in parameters if p.get("searchable") and p["name"] not in _SEARCHED]
    yield f"  # Can be searched too: {', '.join(searchable)}"


def _of_tasks(trainable: Document) -> Iterator[str]:
    """One line on what each task may have for itself."""
    found: Sequence[Document] = trainable.get("task_parameters", ())
    task = next((task["name"] for task in trainable.get("tasks", ())), "TASK")
    readers = [f" (read by {', '.join(one['used_by'])})" if one["used_by"] else "" for one in found]
    named = [f"{one['name']}/{task}{who}" for one, who in zip(found, readers, strict=True)]
    if named:
        yield f"  # Each task may have for itself, too, {'; '.join(named)}"


def _other_metrics(trainable: Document) -> list[str]:
    return [metric for metric in trainable["metrics"] if metric != trainable["default_objective"]]


def _line(entry: str, comment: str) -> str:
    return f"{entry:<{_COMMENT_COLUMN}}  # {comment}" if comment else entry


def _value(value: Any) -> str:
    """As YAML on one line, and as a JSON document would be read, too, where it is no plain word."""
    if isinstance(value, str):
        plain = yaml.safe_dump(value, width=10_000).splitlines()[0]
        return plain if yaml.safe_load(plain) == value else json.dumps(value)
    return json.dumps(value)


def _one_line(text: str) -> str:
    return " ".join(str(text).split())
