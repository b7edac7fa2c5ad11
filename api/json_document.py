"""Strict reading of JSON: what other readers let pass (NaN, a key given twice, half a surrogate pair) is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from sweep_service.domain.errors import Finding
from sweep_service.domain.spec_shape import json_pointer

MAX_DEPTH = 50
MAX_FINDINGS = 100
_BYTE_ORDER_MARK = "\ufeff"


class InvalidJsonError(Exception):
    """The body is not JSON, or JSON that means different things to different readers."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(f"{f.pointer or '/'}: {f.detail}" for f in self.findings))


class _Ambiguous(dict[str, Any]):
    """An object that gave a key more than once."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        seen: set[str] = set()
        self.repeated = sorted({key for key, _ in pairs if key in seen or seen.add(key)})


def parse_document(body: bytes) -> Any:
    """The body's JSON value.

    Raises:
        InvalidJsonError: with a pointer to each fault, where the body is JSON at all.
    """
    try:
        text = body.decode("utf-8").removeprefix(_BYTE_ORDER_MARK)
        document = json.loads(
            text, object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_float, parse_int=_whole
        )
    except UnicodeDecodeError as error:
        raise _invalid("invalid_json", f"The body is not UTF-8: byte {error.start} does not belong there.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _invalid("invalid_json", f"The body is not JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise _invalid("too_deep", f"The body nests deeper than {MAX_DEPTH} levels.") from None
    except ValueError as error:  # of the functions below
        raise _invalid("invalid_number", f"The body holds a number that cannot be read: {error}.") from None
    findings = [finding for finding, _ in zip(_faults(document), range(MAX_FINDINGS), strict=False)]
    if findings:
        raise InvalidJsonError(findings)
    return document


def _invalid(code: str, detail: str) -> InvalidJsonError:
    return InvalidJsonError([Finding(pointer="", code=code, detail=detail)])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    return plain if len(plain) == len(pairs) else _Ambiguous(pairs)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:50]} is larger than any 64-bit floating-point number")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # Python reads no more than some thousands of digits, and speaks of itself
        raise ValueError(f"{text[:20]}… has {len(text)} digits") from None


def _faults(document: Any) -> Iterator[Finding]:
    """What is wrong with a value that parsed, in no particular order. Walks without recursion."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [((), document)]
    while waiting:
        path, value = waiting.pop()
        if len(path) > MAX_DEPTH:
            detail = f"The body nests deeper than {MAX_DEPTH} levels."
            yield Finding(pointer=json_pointer(path), code="too_deep", detail=detail)
            return
        if isinstance(value, str):
            yield from _text_faults(path, value)
        elif isinstance(value, list):
            waiting += [((*path, index), item) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            yield from _object_faults(path, value)
            waiting += [((*path, key), item) for key, item in value.items()]


def _object_faults(path: tuple[str | int, ...], value: dict[str, Any]) -> Iterator[Finding]:
    if isinstance(value, _Ambiguous):
        for key in value.repeated:
            detail = f"The key {key!r} is given more than once; keep one."
            yield Finding(pointer=json_pointer((*path, key)), code="duplicate_key", detail=detail)
    for key in value:
        yield from _text_faults((*path, key), key)


def _text_faults(path: tuple[str | int, ...], text: str) -> Iterator[Finding]:
    if "\x00" in text:
        yield Finding(pointer=json_pointer(path), code="invalid_text", detail="A text may not hold the NUL character.")
    elif not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        detail = "Half a surrogate pair is no character; give both halves or none."
        yield Finding(pointer=json_pointer(path), code="invalid_text", detail=detail)
