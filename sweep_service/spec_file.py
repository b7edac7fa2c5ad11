"""Reading a sweep spec from a file, YAML or JSON, with the line of every field.

YAML is read by the rules of version 1.2: ``1e-3`` is a number, ``no`` is a text, ``010`` is ten. (By those of 1.1,
which the library follows, they are a text, false and eight.)
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

_CONTAINERS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_MAX_DEPTH = 50
_MAX_NODES = 200_000  # aliases can make a small file describe an endless document


class SpecFileError(Exception):
    """The file is no YAML or JSON document that a spec could be. The message begins with the line, where known."""


@dataclass(frozen=True, kw_only=True)
class SpecFile:
    """A document and where its parts are written."""

    document: dict[str, Any]
    lines: Mapping[str, int]  # JSON pointer -> line, counted from 1

    def line_of(self, pointer: str) -> int | None:
        """The line of that field, or of the nearest one around it."""
        while pointer and pointer not in self.lines:
            pointer = pointer.rpartition("/")[0]
        return self.lines.get(pointer)


class _Loader(yaml.SafeLoader):
    """Plain scalars by the core schema of YAML 1.2."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+0123456789."),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def read_spec_file(text: str) -> SpecFile:
    """The document that the text holds.

    Raises:
        SpecFileError: not YAML, not a mapping, a key twice, something that JSON cannot say.
    """
    loader = _Loader(text) if text.isprintable() or not _has_control(text) else None
    if loader is None:
        raise SpecFileError("The file holds control characters; is it a text file?")
    try:
        root = loader.get_single_node()
    except yaml.YAMLError as error:
        return _read_json(text, error)
    except RecursionError:
        raise SpecFileError("The document is too deep for a sweep spec.") from None
    finally:
        loader.dispose()
    if not isinstance(root, yaml.MappingNode):
        raise SpecFileError("A sweep spec is a mapping of keys to values, such as `name: my-sweep`.")
    reader = _Reader()
    document = reader.value(root, "", 0)
    with contextlib.suppress(ValueError):
        document = json.loads(text)  # JSON is nearly YAML; where the two read a text differently, JSON is meant
    return SpecFile(document=document, lines=reader.lines)


def _has_control(text: str) -> bool:
    return re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text) is not None


def _read_json(text: str, error: yaml.YAMLError) -> SpecFile:
    """JSON that is no YAML (indented with tabs, say): without lines."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise SpecFileError(_yaml_fault(error)) from None
    if not isinstance(document, dict):
        raise SpecFileError("A sweep spec is a JSON object.")
    return SpecFile(document=document, lines={})


def _yaml_fault(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"Line {error.problem_mark.line + 1}: {error.problem}."
    return f"The file is not YAML: {error}."


class _Reader:
    """From nodes to values, noting lines."""

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}
        self._num_nodes = 0

    def value(self, node: yaml.Node, pointer: str, depth: int) -> Any:
        self._num_nodes += 1
        if depth > _MAX_DEPTH or self._num_nodes > _MAX_NODES:
            raise _fault(node, "the document is too deep or too large for a sweep spec")
        self.lines.setdefault(pointer, node.start_mark.line + 1)
        if not isinstance(node, yaml.ScalarNode) and node.tag not in _CONTAINERS:
            raise _tag_fault(node)
        if isinstance(node, yaml.MappingNode):
            return dict(self._items(node, pointer, depth))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, f"{pointer}/{index}", depth + 1) for index, item in enumerate(node.value)]
        return _scalar(node)

    def _items(self, node: yaml.MappingNode, pointer: str, depth: int) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = _key(key_node)
            if key in seen:
                raise _fault(key_node, f"the key {key!r} is given more than once; keep one")
            seen.add(key)
            place = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            self.lines[place] = key_node.start_mark.line + 1
            yield key, self.value(value_node, place, depth + 1)


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise _fault(node, "a key must be a text")
    return node.value  # `1: x` and `true: x` have the keys "1" and "true", as they would in JSON


def _scalar(node: yaml.Node) -> Any:
    tag = node.tag.removeprefix("tag:yaml.org,2002:")
    text = str(node.value)
    try:
        match tag:
            case "str":
                return text
            case "bool":
                return text.lower() == "true"
            case "null":
                return None
            case "int":
                return int(text)
            case "float":
                return _float(node, text)
    except ValueError:
        raise _fault(node, f"{text[:50]!r} cannot be read as {tag}") from None
    raise _tag_fault(node)


def _float(node: yaml.Node, text: str) -> float:
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    if not math.isfinite(value):
        raise _fault(node, f"{text[:50]} is no finite number")
    return value


def _tag_fault(node: yaml.Node) -> SpecFileError:
    return _fault(node, f"the tag {node.tag!r} means nothing in a sweep spec; remove it")


def _fault(node: yaml.Node, detail: str) -> SpecFileError:
    return SpecFileError(f"Line {node.start_mark.line + 1}: {detail}.")
