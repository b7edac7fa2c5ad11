"""Who has changed what."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from api.dependencies import Keys, no_repeated_query
from api.paging import AuditQuery
from api.schemas.keys import AuditPage, AuditView
from api.schemas.problems import problem_responses

router = APIRouter(tags=["keys"])


@router.get(
    "/audit",
    operation_id="list_audit",
    response_model=AuditPage,
    responses=problem_responses(422, 503),
    dependencies=[Depends(no_repeated_query())],
)
def list_audit(query: Annotated[AuditQuery, Query()], keys: Keys) -> AuditPage:
    """Every change that was made over REST, in order: who, when, what, of what. Read on with `after`. Needs an admin's
    key.
    """
    page = keys.list_audit(after=query.after, limit=query.page_size)
    return AuditPage(
        records=[AuditView.of(record) for record in page.items],
        next_after=page.items[-1].seq if page.items else query.after,
        has_more=page.has_more,
    )
