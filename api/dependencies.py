"""What routes are given."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Annotated

from fastapi import Depends, Header, Path, Request
from pydantic import AfterValidator
from starlette.concurrency import run_in_threadpool

from api.access import CALLER, Caller
from api.errors import KEY_HEADER, InvalidParametersError, ParameterFault, UnexpectedBodyError
from api.event_feed import EventFeed
from api.json_document import MAX_FINDINGS, parse_document
from api.middleware import IS_HEAD
from api.paging import MAX_KEY
from api.readiness import Readiness
from sweep_service.domain.errors import Finding
from sweep_service.domain.keys import Actor
from sweep_service.domain.spec_shape import json_pointer
from sweep_service.services.keys import KeyRing, KeyService
from sweep_service.services.reports import ReportService
from sweep_service.services.sweeps import SweepService
from sweep_service.services.trials import TrialService

_WEIGHT = re.compile(r"[01](\.\d{0,3})?", re.ASCII)
_KEY = re.compile(r"[!-~]{1,255}")


async def _service(request: Request) -> SweepService:
    return request.app.state.service


async def _readiness(request: Request) -> Readiness:
    return request.app.state.readiness


async def _trials(request: Request) -> TrialService:
    return request.app.state.trials


async def _reports(request: Request) -> ReportService:
    return request.app.state.reports


async def _keys(request: Request) -> KeyService:
    return request.app.state.keys


async def _caller(request: Request) -> Caller:
    return request.scope[CALLER]


async def _actor(request: Request) -> Actor:
    return request.scope[CALLER].actor


async def _is_let_in(request: Request) -> Callable[[], Awaitable[bool]]:
    """Tells of a caller that stays, whether it would still be let in."""
    ring: KeyRing = request.app.state.ring
    key = request.scope[CALLER].key

    async def is_let_in() -> bool:
        return key is None or ring.fresh(key) is not None or await run_in_threadpool(ring.find, key) is not None

    return is_let_in


async def _feed(request: Request) -> EventFeed:
    return request.app.state.feed


async def wants_stream(request: Request) -> bool:
    """Whether the caller would rather have server-sent events than JSON. HEAD has no use for a stream's body, which
    would never end.
    """
    liked = dict(_liked_types(request.headers.get("accept", "")))
    stream, page = liked.get("text/event-stream", 0.0), liked.get("application/json", 0.0)
    return stream > page and not request.scope.get(IS_HEAD, False)


def _liked_types(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.split(","):
        media_type, *options = (piece.strip().lower() for piece in part.split(";"))
        weight = next((option[2:] for option in options if option.startswith("q=")), "1")
        yield media_type, float(weight) if _WEIGHT.fullmatch(weight) else 0.0


async def _body(request: Request) -> bytes:
    return await request.body()


async def no_query(request: Request) -> None:
    """Refuse query parameters where a route has none: one that is ignored would be taken for obeyed."""
    faults = [
        ParameterFault(
            parameter=name,
            code="unknown_parameter",
            detail=f"There is no query parameter {name!r} here; remove it.",
        )
        for name in request.query_params
    ]
    if faults:
        raise InvalidParametersError(faults)


def no_repeated_query(*, but: Collection[str] = ()) -> Callable[[Request], Awaitable[None]]:
    """Refuse query parameters that are given more than once, but for lists: all values but one would be ignored."""

    async def check(request: Request) -> None:
        given = Counter(name for name, _ in request.query_params.multi_items())
        faults = [
            ParameterFault(
                parameter=name, code="repeated_parameter", detail=f"{name!r} is given {number} times; give it once."
            )
            for name, number in given.items()
            if number > 1 and name not in but
        ]
        if faults:
            raise InvalidParametersError(faults)

    return check


def _check_key(value: str) -> str:
    if not _KEY.fullmatch(value):
        raise ValueError("must be 1 to 255 visible ASCII characters, without spaces")
    return value


async def no_repeated_key(request: Request) -> None:
    """Refuse more than one key: all but one would be ignored."""
    if len(request.headers.getlist(KEY_HEADER)) > 1:
        detail = "It is given more than once; give it once."
        raise InvalidParametersError([ParameterFault(parameter=KEY_HEADER, code="repeated_parameter", detail=detail)])


async def no_body(request: Request) -> None:
    """Refuse a body that says anything. An empty object says nothing; some clients always send one.

    Raises:
        UnexpectedBodyError, InvalidJsonError.
    """
    body = await request.body()
    document = parse_document(body) if body.strip() else {}
    if document == {}:
        return
    names = list(document)[:MAX_FINDINGS] if isinstance(document, dict) else []
    raise UnexpectedBodyError(
        [
            Finding(pointer=json_pointer([name]), code="unknown_key", detail="Nothing can be set here; remove it.")
            for name in names
        ]
    )


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=KEY_HEADER,
        description="Any name of yours for this one submission, 1 to 255 visible ASCII characters. The same body under "
        "the same key is queued once: send it again if no answer came. Remembered for as long as the sweep is.",
        examples=["4f1d2c0e-6f3b-4a57-9f0e-0c6a8b1f2d33"],
        json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    ),
    AfterValidator(lambda value: None if value is None else _check_key(value)),
]
SweepId = Annotated[str, Path(description="The sweep's id.", examples=["swp_01J9Z3NDEKTSV4RRFFQ69G5FAV"])]
TrialId = Annotated[str, Path(description="The trial's id.", examples=["trl_01J9Z3P2C4W6Q8R0T2V4X6Y8ZA"])]
LastEventId = Annotated[
    int | None,
    Header(
        alias="Last-Event-ID",
        ge=0,
        le=MAX_KEY,
        description="The seq of the last event that the caller has; goes before `after`. Browsers send it themselves.",
    ),
]
KeyId = Annotated[str, Path(description="The key's id.", examples=["key_01J9Z3NDEKTSV4RRFFQ69G5FAV"])]
Who = Annotated[Actor, Depends(_actor)]
Self = Annotated[Caller, Depends(_caller)]
IsLetIn = Annotated[Callable[[], Awaitable[bool]], Depends(_is_let_in)]
Keys = Annotated[KeyService, Depends(_keys)]
WantsStream = Annotated[bool, Depends(wants_stream)]
Feed = Annotated[EventFeed, Depends(_feed)]
Trials = Annotated[TrialService, Depends(_trials)]
Reports = Annotated[ReportService, Depends(_reports)]
Service = Annotated[SweepService, Depends(_service)]
Ready = Annotated[Readiness, Depends(_readiness)]
Body = Annotated[bytes, Depends(_body)]
