"""Whether this process lives, and whether it can serve. For supervisors and load balancers."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from api.dependencies import Ready
from api.schemas.problems import problem_responses

router = APIRouter(tags=["health"])

_NO_KEY = {"security": []}


class Health(BaseModel):
    """The answer of a process that is well."""

    status: Literal["ok", "ready"]


@router.get(
    "/healthz",
    operation_id="check_health",
    response_model=Health,
    responses=problem_responses(needs_key=False),
    openapi_extra=_NO_KEY,
)
async def check_health() -> Health:
    """The process answers. Asks nothing of the store, and needs none of the threads that wait for it."""
    return Health(status="ok")


@router.get(
    "/readyz",
    operation_id="check_readiness",
    response_model=Health,
    responses=problem_responses(503, needs_key=False),
    openapi_extra=_NO_KEY,
)
async def check_readiness(readiness: Ready) -> Health:
    """The store answers and is migrated, or was so within the last second: it is not asked more often."""
    await readiness.check()
    return Health(status="ready")
