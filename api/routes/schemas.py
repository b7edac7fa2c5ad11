"""Schemas of what is submitted, for editors and programs."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse

from api.dependencies import Service, no_query
from api.schemas.problems import problem_responses

router = APIRouter(prefix="/schemas", tags=["schemas"])


class SchemaResponse(JSONResponse):
    """A JSON schema."""

    media_type = "application/schema+json"


@router.get(
    "/sweep",
    operation_id="get_sweep_schema",
    response_class=SchemaResponse,
    responses={200: {"content": {SchemaResponse.media_type: {"schema": {"type": "object"}}}}}
    | problem_responses(422, 503),
    dependencies=[Depends(no_query)],
)
def get_sweep_schema(service: Service) -> SchemaResponse:
    """The JSON schema (2020-12) of a sweep spec. Names the trainables that there are, their parameters and metrics, as
    soon as a dispatcher has published them.
    """
    return SchemaResponse(service.spec_schema())
