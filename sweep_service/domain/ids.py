"""Identifiers: prefixed ULIDs, which sort by the time of their making. The only place that makes or parses one."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum

from ulid import ULID

from sweep_service.domain.errors import KeyNotFoundError, SweepNotFoundError, TrialNotFoundError

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")  # Crockford base 32, 128 bits


class IdPrefix(StrEnum):
    SWEEP = "swp"
    TRIAL = "trl"
    ATTEMPT = "att"
    KEY = "key"


def new_id(prefix: IdPrefix, *, now: datetime) -> str:
    """A new identifier such as ``swp_01J…``; later ones sort after earlier ones, to the millisecond."""
    return f"{prefix}_{ULID.from_datetime(now)}"


def is_id(text: str, prefix: IdPrefix) -> bool:
    """Whether the text has the form of an identifier of that kind. Says nothing of its existence."""
    head, separator, tail = text.partition("_")
    return head == prefix and separator == "_" and _ULID.fullmatch(tail) is not None


def check_sweep_id(text: str) -> None:
    """Raise SweepNotFoundError for what is no sweep's id: it spares the store text that no row can have, NUL characters
    among it.
    """
    if not is_id(text, IdPrefix.SWEEP):
        raise SweepNotFoundError(text)


def check_trial_id(text: str) -> None:
    """The same of a trial's. Raises TrialNotFoundError."""
    if not is_id(text, IdPrefix.TRIAL):
        raise TrialNotFoundError(text)


def check_key_id(text: str) -> None:
    """The same of a key's. Raises KeyNotFoundError."""
    if not is_id(text, IdPrefix.KEY):
        raise KeyNotFoundError(text)
