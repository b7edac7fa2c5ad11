"""Problem documents, as the API's description shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sweep_service.domain.keys import EXAMPLE


class ErrorItem(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer into the body; empty for the whole of it and for parameters.")
    parameter: str | None = Field(default=None, description="The query parameter or header, where it is one.")
    code: str = Field(description="What kind of fault, for programs.")
    detail: str = Field(description="What is wrong and the way out, for people.")


class ProblemDocument(BaseModel):
    """A refusal, after RFC 9457. Some kinds have further members: `illegal-move` has `state` and `allowed`, `forbidden`
    has `needed` and `role`.
    """

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str = Field(description="Names the kind of problem, for programs.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked.")
    errors: list[ErrorItem]


_SWEEP = "/api/v1/sweeps/swp_01J9Z3NDEKTSV4RRFFQ69G5FAV"
_EXAMPLES: Mapping[int, tuple[str, str, str, str, list[dict[str, str]]]] = {
    # kind, title, detail, instance, errors
    400: (
        "invalid-json",
        "Invalid JSON",
        "The body is not JSON: Expecting value at line 1, column 1.",
        "/api/v1/sweeps",
        [
            {
                "pointer": "",
                "code": "invalid_json",
                "detail": "The body is not JSON: Expecting value at line 1, column 1.",
            }
        ],
    ),
    401: (
        "unauthorized",
        "No valid key",
        f"This needs a key that is valid here: send Authorization: Bearer {EXAMPLE}. An admin makes keys.",
        "/api/v1/sweeps",
        [],
    ),
    403: (
        "forbidden",
        "Not allowed",
        "This needs a key of the role submitter; that of 'ann' is of the role viewer.",
        "/api/v1/sweeps",
        [],
    ),
    404: (
        "not-found",
        "Not found",
        "There is no sweep 'swp_01J9Z3NDEKTSV4RRFFQ69G5FAV'.",
        _SWEEP,
        [],
    ),
    409: (
        "illegal-move",
        "Not possible in this state",
        "The sweep is completed: stop is not possible. Possible now: retry.",
        f"{_SWEEP}/stop",
        [
            {
                "pointer": "",
                "code": "illegal_move",
                "detail": "The sweep is completed: stop is not possible. Possible now: retry.",
            }
        ],
    ),
    413: (
        "body-too-large",
        "Body too large",
        "A request's body may have at most 1000000 bytes.",
        "/api/v1/sweeps",
        [],
    ),
    415: (
        "unsupported-media-type",
        "Unsupported media type",
        "Send the body as JSON, in UTF-8, with Content-Type: application/json.",
        "/api/v1/sweeps",
        [],
    ),
    422: (
        "invalid-parameter",
        "Invalid parameter",
        "Wrong in the request: page_size.",
        _SWEEP,
        [
            {
                "pointer": "",
                "parameter": "page_size",
                "code": "greater_than_equal",
                "detail": "Input should be greater than or equal to 1.",
            }
        ],
    ),
    429: (
        "too-many-requests",
        "Too many requests",
        "Nothing was done: there were too many requests. Send it again in 1 s, and fewer a second.",
        "/api/v1/sweeps",
        [],
    ),
    503: (
        "store-unavailable",
        "Store unavailable",
        "The database does not answer. Try again soon.",
        _SWEEP,
        [],
    ),
}
_MORE: Mapping[int, dict[str, Any]] = {
    403: {"needed": "submitter", "role": "viewer"},
    409: {"state": "completed", "allowed": ["retry"]},
}
_OF_KEYS = (401, 403, 429)


def problem_responses(*statuses: int, needs_key: bool = True) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for its description; those that any route can give are the default."""
    told = sorted({*statuses, *(_OF_KEYS if needs_key else ())})
    known: dict[int | str, dict[str, Any]] = {status: {"content": _content(status)} for status in told}
    return {**known, "default": {"description": "Any other refusal", "content": _content(None)}}


def _content(status: int | None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": "#/components/schemas/Problem"}}
    if status is not None:
        kind, title, detail, instance, errors = _EXAMPLES[status]
        content["example"] = {
            "type": f"urn:sweep-service:problem:{kind}",
            "title": title,
            "status": status,
            "detail": detail,
            "instance": instance,
            "errors": errors,
            **_MORE.get(status, {}),
        }
    return {"application/problem+json": content}
