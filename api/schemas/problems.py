"""Problem documents, as the API's description shows them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ErrorItem(BaseModel):
    """One thing that is wrong with a request."""

    pointer: str = Field(description="JSON pointer into the body; empty for the whole of it and for parameters.")
    parameter: str | None = Field(default=None, description="The query parameter or header, where it is one.")
    code: str = Field(description="What kind of fault, for programs.")
    detail: str = Field(description="What is wrong and the way out, for people.")


class ProblemDocument(BaseModel):
    """A refusal, after RFC 9457. Some kinds have further members: 409 has `state` and `allowed`."""

    model_config = ConfigDict(extra="allow", title="Problem")

    type: str = Field(description="Names the kind of problem, for programs.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="The path that was asked.")
    errors: list[ErrorItem]


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a route, for its description; those that any route can give are the default."""
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    known: dict[int | str, dict[str, Any]] = {status: {"content": content} for status in statuses}
    return {**known, "default": {"description": "Any other refusal", "content": content}}
