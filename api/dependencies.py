"""What routes are given."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated

from fastapi import Depends, Header, Request
from pydantic import AfterValidator

from api.errors import KEY_HEADER, InvalidParametersError, ParameterFault, UnexpectedBodyError
from api.json_document import MAX_FINDINGS, parse_document
from sweep_service.domain.errors import Finding
from sweep_service.domain.spec_check import json_pointer
from sweep_service.services.sweeps import SweepService
from sweep_service.services.trials import TrialService

_KEY = re.compile(r"[!-~]{1,255}")


async def _service(request: Request) -> SweepService:
    return request.app.state.service


async def _trials(request: Request) -> TrialService:
    return request.app.state.trials


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
        json_schema_extra={"minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    ),
    AfterValidator(lambda value: None if value is None else _check_key(value)),
]
Trials = Annotated[TrialService, Depends(_trials)]
Service = Annotated[SweepService, Depends(_service)]
Body = Annotated[bytes, Depends(_body)]
