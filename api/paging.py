"""Page tokens: the key of a page's last item, opaque to clients, valid only for the list that gave it."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from api.errors import InvalidParametersError, ParameterFault
from sweep_service.domain.ids import IdPrefix, is_id
from sweep_service.domain.states import SweepState
from sweep_service.ports import SweepFilter

MAX_KEY = 2**31 - 1  # of numbers that the store counts by


_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9_.\-]{0,61}[A-Za-z0-9])?"
_LABEL = re.compile(f"{_WORD}:{_WORD}")  # as a spec's labels
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


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


def _read_label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError("must be a label's key, a colon and its value, such as team:ads")
    return text


def _read_time(text: str) -> datetime:
    """RFC 3339, with the zone that it demands: a time without one would be somebody's, but whose?"""
    if isinstance(text, str) and _TIME.fullmatch(text):
        with contextlib.suppress(ValueError, OverflowError):  # no such day, or beyond the years that there are in UTC
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    raise ValueError("must be a time with its zone, such as 2026-03-01T12:00:00Z (in a query, + is written %2B)")


class SweepQuery(PageQuery):
    """Which sweeps, in which order, and which part of them."""

    state: Annotated[
        list[SweepState], Field(max_length=20, description="Only sweeps in that state; repeated: in one of them.")
    ] = []
    label: Annotated[
        list[Annotated[str, AfterValidator(_read_label)]],
        Field(
            max_length=20,
            description="Only sweeps with that label, as `key:value`; repeated: with all of them.",
            examples=[["team:ads"]],
        ),
    ] = []
    project: Annotated[
        str | None,
        Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$", description="Only sweeps of that project."),
    ] = None
    created_after: Annotated[
        datetime | None,
        BeforeValidator(_read_time),
        Field(description="Only sweeps submitted after that time (RFC 3339).", examples=["2026-03-01T12:00:00+01:00"]),
    ] = None
    order_by: Annotated[
        Literal["-created_at", "created_at"],
        Field(description="By the time of submitting, to the millisecond: newest first (-) or oldest first."),
    ] = "-created_at"

    @property
    def only(self) -> SweepFilter:
        """What is asked for."""
        return SweepFilter(
            states=frozenset(self.state),
            labels=frozenset((key, value) for key, _, value in (label.partition(":") for label in self.label)),
            project=self.project,
            created_after=self.created_after,
        )

    @property
    def oldest_first(self) -> bool:
        return self.order_by == "created_at"

    @property
    def list_name(self) -> str:
        """Tells one filtered and ordered list from another: a token of one is none of another."""
        wish = self.model_dump(mode="json", exclude={"page_size", "page_token"}, exclude_defaults=True)
        wish |= {name: sorted(set(value)) for name, value in wish.items() if isinstance(value, list)}
        text = json.dumps(wish, sort_keys=True)
        return f"sweeps {hashlib.sha256(text.encode()).hexdigest()[:16]}" if wish else "sweeps"


class EventQuery(_Query):
    """Which part of a sweep's events."""

    page_size: Annotated[int, Field(ge=1, le=500, description="Events of a page.")] = 50
    after: Annotated[int, Field(ge=0, le=MAX_KEY, description="Only events with a seq above this.")] = 0


class AuditQuery(_Query):
    """Which part of the records."""

    page_size: Annotated[int, Field(ge=1, le=500, description="Records of a page.")] = 50
    after: Annotated[int, Field(ge=0, le=MAX_KEY, description="Only records with a seq above this.")] = 0


class LogQuery(_Query):
    """Which part of what was said."""

    page_size: Annotated[int, Field(ge=1, le=500, description="Lines of a page.")] = 50
    after: Annotated[int, Field(ge=0, le=MAX_KEY, description="Only lines with a seq above this.")] = 0


class CurveQuery(_Query):
    """Which part of a trial's curves."""

    page_size: Annotated[int, Field(ge=1, le=500, description="Reports of a page.")] = 50
    after: Annotated[int, Field(ge=0, le=MAX_KEY, description="Only reports with a seq above this.")] = 0
    key: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=500)]],
        Field(max_length=100, description="Only the metrics of that name; may be repeated. All of them without it."),
    ] = []


def sweep_token(query: SweepQuery, sweep_id: str) -> str:
    """The token of the page of that list that starts beyond that sweep."""
    return _encode(query.list_name, sweep_id)


def sweep_key(query: SweepQuery) -> str | None:
    """The sweep that the page starts beyond; None for the first page. Raises InvalidParametersError, also for a token
    that another filter or order has given.
    """
    if query.page_token is None:
        return None
    key = _decode(query.list_name, query.page_token)
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
    detail = "This is no token of this list; take next_page_token of its page before, with the same filters, or none."
    return InvalidParametersError([ParameterFault(parameter="page_token", code="invalid_page_token", detail=detail)])
