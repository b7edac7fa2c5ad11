"""Reading a sweep spec from a file, YAML or JSON, with the line of every field.

YAML is read by the rules of version 1.2: ``1e-3`` is a number, ``no`` is a text, ``010`` is ten. (By those of 1.1,
which the library follows, they are a text, false and eight.) JSON is nearly YAML; where the two read a text
differently, JSON is meant.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

_CONTAINERS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_MAX_DEPTH = 50
_MAX_NODES = 200_000  # aliases can make a small file describe an endless document
_BYTE_ORDER_MARK = "\ufeff"
_NO_JSON = object()


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
        SpecFileError: neither YAML nor JSON, not a mapping, a key twice, something that JSON cannot say.
    """
    if _has_control(text):
        raise SpecFileError("The file holds control characters; is it a text file?")
    text = text.removeprefix(_BYTE_ORDER_MARK)
    document = _parse_json(text)
    is_json = document is not _NO_JSON
    # Outside of texts, where it may not stand, a tab is nothing but space to JSON; to YAML it is a fault.
    root = _root_node(text.replace("\t", " ") if is_json else text, is_json=is_json)
    if not (isinstance(document, dict) if root is None else isinstance(root, yaml.MappingNode)):
        raise SpecFileError("A sweep spec is a mapping of keys to values, such as `name: my-sweep`.")
    reader = _Reader()
    if root is not None:
        found = reader.value(root, "", 0)
        document = document if is_json else found
    spec = SpecFile(document=document, lines=reader.lines)
    for pointer, fault in _faults(document):
        line = spec.line_of(pointer)
        raise SpecFileError(f"{'' if line is None else f'Line {line}: '}{fault}, at {pointer or '/'}.")
    return spec


def read_value(text: str) -> Any:
    """A single value on one line, as it would be read in a file. Raises SpecFileError."""
    if not text.strip() or "\n" in text:
        raise SpecFileError("a value on one line is needed; null is none")
    document = read_spec_file(f"value: {text}").document
    return document["value"]


def _has_control(text: str) -> bool:
    return re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", text) is not None


def _root_node(text: str, *, is_json: bool) -> yaml.Node | None:
    """Where everything is written; None for the little JSON that is no YAML, such as one with a very long key."""
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.YAMLError as error:
        if is_json:
            return None
        raise SpecFileError(_yaml_fault(text, error)) from None
    except RecursionError:
        raise SpecFileError("The document is too deep for a sweep spec.") from None
    finally:
        if loader is not None:
            loader.dispose()


def _yaml_fault(text: str, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"Line {error.problem_mark.line + 1}: {error.problem}."
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"Line {line}: the character U+{ord(text[error.position]):04X} does not belong in a text file."
    return f"The file is not YAML: {error}."


class _Ambiguous(dict[str, Any]):
    """A JSON object that gave a key more than once."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        seen: set[str] = set()
        self.repeated = next(key for key, _ in pairs if key in seen or seen.add(key))


def _parse_json(text: str) -> Any:
    """The JSON value, with a mark on what only lax readers take (see :func:`_faults`); _NO_JSON if the text is none."""
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_whole, parse_float=float, parse_constant=float)
    except json.JSONDecodeError:
        return _NO_JSON
    except RecursionError:
        raise SpecFileError("The document is too deep for a sweep spec.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else _Ambiguous(pairs)


def _whole(text: str) -> float:
    try:
        return int(text)
    except ValueError:  # Python reads no more than some thousands of digits
        return math.inf


def _faults(document: Any) -> Iterator[tuple[str, str]]:
    """What no service will take, and where, as it is written. Walks without recursion."""
    waiting: list[tuple[str, Any]] = [("", document)]
    while waiting:
        pointer, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield pointer, "a number must be finite, and not of thousands of digits"
        elif isinstance(value, str) and _has_half_a_character(value):
            yield pointer, "half a surrogate pair is no character; give both halves or none"
        elif isinstance(value, list):
            waiting += [(f"{pointer}/{index}", item) for index, item in enumerate(value)][::-1]
        elif isinstance(value, dict):
            if isinstance(value, _Ambiguous):
                yield pointer, f"the key {value.repeated!r} is given more than once; keep one"
            if any(_has_half_a_character(key) for key in value):
                yield pointer, "half a surrogate pair in a key is no character; give both halves or none"
            waiting += [(f"{pointer}/{_escaped(key)}", item) for key, item in value.items()][::-1]


def _has_half_a_character(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)


def _escaped(key: str) -> str:
    """The key as a part of a JSON pointer."""
    return key.replace("~", "~0").replace("/", "~1")


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
            place = f"{pointer}/{_escaped(key)}"
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
