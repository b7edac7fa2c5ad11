"""Values of a sweep, as the API gives them, as text in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]


def plain(value: object) -> str:
    """Text from outside, on one line and without control characters: they could move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def number(value: object, *, sign: bool = False) -> str:
    """Four significant digits; a dash for what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return "–"
    if isinstance(value, int) and not sign:
        return str(value)
    return f"{value:+.4g}" if sign else f"{value:.4g}"


def parameters(values: object) -> str:
    """``alpha=1.2 weight_lr=0.03``."""
    if not isinstance(values, Mapping) or not values:
        return "–"
    return " ".join(f"{plain(name)}={shown(value)}" for name, value in sorted(values.items()))


def shown(value: object) -> str:
    """A parameter's value."""
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else plain(value)


def as_mapping(value: object) -> Mapping[str, Any]:
    """The value if it is one; an empty one for what is missing."""
    return value if isinstance(value, Mapping) else {}


def as_rows(value: object) -> list[Document]:
    """The rows of a list; none for what is missing."""
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list | tuple) else []
