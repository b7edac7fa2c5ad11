"""What is wrong with a parameter of type ``tasks``, and where: the tasks of a problem as a spec describes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from trainables.catalog import TaskKind

MAX_TASKS = 100
MAX_TEXT = 1000  # characters

Fault: TypeAlias = tuple[tuple[str, ...], str, str]  # place within the parameter, code, sentence

_FIELDS = ("kind", "column", "positive")
_KINDS = tuple(kind.value for kind in TaskKind)
_EXAMPLE = 'such as {"income": {"column": "income", "kind": "binary"}}'
_TASK_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")  # it becomes part of a metric's name and of a module's


def tasks_faults(value: Any) -> Iterator[Fault]:
    """Everything that is wrong with a description of tasks; nothing if it is right."""
    if not isinstance(value, Mapping) or not value:
        yield (), "invalid_value", f"Must be an object of at least one task by name, {_EXAMPLE}."
        return
    if len(value) > MAX_TASKS:
        yield (), "too_long", f"May have at most {MAX_TASKS} entries."
        return
    for name, task in value.items():
        if not _TASK_NAME.fullmatch(name):
            detail = "A task's name must be at most 100 letters, digits and '_', and not begin with a digit."
            yield (name,), "invalid_name", detail
        elif not isinstance(task, Mapping):
            yield (name,), "not_an_object", f"A task is an object, {_EXAMPLE}."
        else:
            yield from _task_faults(name, task)


def _task_faults(name: str, task: Mapping[str, Any]) -> Iterator[Fault]:
    for field in task:
        if field not in _FIELDS:
            yield (name, field), "unknown_key", f"Unknown key {field!r}. A task has {', '.join(_FIELDS)}."
    if "kind" not in task:
        yield (name, "kind"), "missing", f"This field is required: one of {', '.join(_KINDS)}."
    elif task["kind"] not in _KINDS:
        yield (name, "kind"), "invalid_value", f"Must be one of: {', '.join(_KINDS)}."
    for field in ("column", "positive"):
        if field in task and not is_text(task[field]):
            yield (name, field), "invalid_value", f"Must be a text of 1 to {MAX_TEXT} characters on one line."
    if "positive" in task and task.get("kind") != "binary":
        yield (name, "positive"), "unused_parameter", "Only a task of kind binary has a positive value. Remove it."


def is_text(value: Any) -> bool:
    """Whether every store and file system takes it: one line of Unicode, not empty, without control characters."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_TEXT
        and not any(character < " " or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in value)
    )
