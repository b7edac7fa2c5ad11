"""Identifiers: prefixed ULIDs, which sort by the time of their making. The only place that makes or parses one."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum

from ulid import ULID

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")  # Crockford base 32, 128 bits


class IdPrefix(StrEnum):
    SWEEP = "swp"
    TRIAL = "trl"
    ATTEMPT = "att"


def new_id(prefix: IdPrefix, *, now: datetime) -> str:
    """A new identifier such as ``swp_01J…``; later ones sort after earlier ones, to the millisecond."""
    return f"{prefix}_{ULID.from_datetime(now)}"


def is_id(text: str, prefix: IdPrefix) -> bool:
    """Whether the text has the form of an identifier of that kind. Says nothing of its existence."""
    head, separator, tail = text.partition("_")
    return head == prefix and separator == "_" and _ULID.fullmatch(tail) is not None
