"""API keys: make, look, revoke."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from api.dependencies import Body, KeyId, Keys, Self, Who, no_body, no_query
from api.json_document import parse_document
from api.schemas.keys import NEW_KEY_SCHEMA, KeyList, KeyView, NewKeyView, OwnKeyView
from api.schemas.problems import problem_responses

router = APIRouter(prefix="/keys", tags=["keys"])

_NEW_KEY_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": NEW_KEY_SCHEMA, "example": {"name": "ann-laptop", "role": "submitter"}}
        },
    }
}


@router.post(
    "",
    operation_id="create_key",
    status_code=201,
    response_model=NewKeyView,
    response_description="Made",
    responses=problem_responses(400, 409, 413, 415, 422, 503),
    openapi_extra=_NEW_KEY_BODY,
    dependencies=[Depends(no_query)],
)
def create_key(body: Body, keys: Keys, who: Who, response: Response) -> NewKeyView:
    """Make a key. Its text is in this answer only: what is kept is a digest of it. Needs an admin's key."""
    response.headers["Cache-Control"] = "no-store"
    return NewKeyView.of_new(keys.create(parse_document(body), by=who))


@router.get(
    "",
    operation_id="list_keys",
    response_model=KeyList,
    responses=problem_responses(422, 503),
    dependencies=[Depends(no_query)],
)
def list_keys(keys: Keys) -> KeyList:
    """All keys, the revoked ones last, the newest of each first. Needs an admin's key."""
    return KeyList(keys=[KeyView.of(key) for key in keys.list_keys()])


@router.get(
    "/me",
    operation_id="get_own_key",
    response_model=OwnKeyView,
    responses=problem_responses(422, 503),
    dependencies=[Depends(no_query)],
)
async def get_own_key(caller: Self) -> OwnKeyView:
    """Whom the service takes the caller for. Any key will do."""
    return OwnKeyView(id=caller.actor.key_id, name=caller.actor.name, role=caller.role)


@router.post(
    "/{key_id}/revoke",
    operation_id="revoke_key",
    response_model=KeyView,
    responses=problem_responses(400, 404, 409, 413, 415, 422, 503),
    dependencies=[Depends(no_query), Depends(no_body)],
)
def revoke_key(key_id: KeyId, keys: Keys, who: Who) -> KeyView:
    """Let a key open nothing any more, from a second later at the latest; streams that it has open end as well. It
    stays in the list. Asked again, it changes nothing. The last admin's key cannot be revoked. Needs an admin's key.
    """
    return KeyView.of(keys.revoke(key_id, by=who))
