"""What routes are given."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.errors import InvalidParameterError
from sweep_service.services.sweeps import SweepService


async def _service(request: Request) -> SweepService:
    return request.app.state.service


async def _body(request: Request) -> bytes:
    return await request.body()


async def no_query(request: Request) -> None:
    """Refuse query parameters where a route has none: one that is ignored would be taken for obeyed."""
    for name in request.query_params:
        detail = f"There is no query parameter {name!r} here; remove it."
        raise InvalidParameterError(name, code="unknown_parameter", detail=detail)


Service = Annotated[SweepService, Depends(_service)]
Body = Annotated[bytes, Depends(_body)]
