"""Page tokens: the key of a page's last item, opaque to clients, valid only for the list that gave it."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from api.errors import InvalidParametersError, ParameterFault
from sweep_service.domain.ids import IdPrefix, is_id

MAX_KEY = 2**31 - 1  # of numbers that the store counts by


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SubmitQuery(_Query):
    """How a spec is taken."""

    validate_only: Annotated[bool, Field(description="Check the spec and queue nothing.")] = False


class PageQuery(_Query):
    """Which part of a list."""

    page_size: Annotated[int, Field(ge=1, le=500, description="Items of a page.")] = 50
    page_token: Annotated[
        str | None, Field(max_length=500, description="next_page_token of the page before; the first page without it.")
    ] = None


class EventQuery(_Query):
    """Which part of a sweep's events."""

    page_size: Annotated[int, Field(ge=1, le=500, description="Events of a page.")] = 50
    after: Annotated[int, Field(ge=0, le=MAX_KEY, description="Only events with a seq above this.")] = 0


class CurveQuery(_Query):
    """Which part of a trial's curves."""

    page_size: Annotated[int, Field(ge=1, le=500, description="Reports of a page.")] = 50
    after: Annotated[int, Field(ge=0, le=MAX_KEY, description="Only reports with a seq above this.")] = 0
    key: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=500)]],
        Field(max_length=100, description="Only the metrics of that name; may be repeated. All of them without it."),
    ] = []


def sweep_token(sweep_id: str) -> str:
    """The token of the page that starts below that sweep."""
    return _encode("sweeps", sweep_id)


def sweep_key(token: str | None) -> str | None:
    """The sweep that the page starts below; None for the first page. Raises InvalidParametersError."""
    if token is None:
        return None
    key = _decode("sweeps", token)
    if not is_id(key, IdPrefix.SWEEP):
        raise _bad_token()
    return key


def trial_token(sweep_id: str, number: int) -> str:
    """The token of the page that starts above that trial."""
    return _encode(f"trials of {sweep_id}", str(number))


def trial_key(sweep_id: str, token: str | None) -> int:
    """The number that the page starts above; -1 for the first page. Raises InvalidParametersError."""
    if token is None:
        return -1
    key = _decode(f"trials of {sweep_id}", token)
    if not (key.isascii() and key.isdecimal() and len(key) <= 10 and int(key) <= MAX_KEY):
        raise _bad_token()
    return int(key)


def _encode(of: str, key: str) -> str:
    return base64.urlsafe_b64encode(f"{of}\n{key}".encode()).decode().rstrip("=")


def _decode(of: str, token: str) -> str:
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError):
        raise _bad_token() from None
    found, separator, key = text.partition("\n")
    if not separator or found != of:
        raise _bad_token()
    return key


def _bad_token() -> InvalidParametersError:
    detail = "This is no token that this list has given; take next_page_token of a page of it, or none."
    return InvalidParametersError([ParameterFault(parameter="page_token", code="invalid_page_token", detail=detail)])
