"""Refusals as problem documents (RFC 9457), the only form in which this API says no."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from starlette.responses import Response
from starlette.types import Scope

from sweep_service.domain.errors import Finding
from sweep_service.domain.keys import without_keys

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One refusal. ``kind`` ends its type URI: stable, to be told apart by programs."""

    status: HTTPStatus
    kind: str
    title: str  # the same for every problem of that kind
    detail: str  # this case, with the way out
    errors: Sequence[Mapping[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)  # members of the document beyond the standard ones


class ProblemResponse(Response):
    """A problem, answering the request of that scope."""

    media_type = MEDIA_TYPE

    def __init__(self, problem: Problem, scope: Scope) -> None:
        document = {
            "type": f"urn:sweep-service:problem:{problem.kind}",
            "title": problem.title,
            "status": int(problem.status),
            "detail": problem.detail,
            "instance": quote(scope.get("path", ""), safe="/:@!$&'()*+,;=~"),
            "errors": list(problem.errors),
            **problem.extra,
        }
        text = without_keys(json.dumps(document, ensure_ascii=False, separators=(",", ":")))
        # A request may have held half a surrogate pair, which UTF-8 has no bytes for; its escape is valid JSON.
        super().__init__(text.encode("utf-8", "backslashreplace"), int(problem.status), dict(problem.headers))


def error_items(findings: Sequence[Finding]) -> list[Mapping[str, str]]:
    """Findings in a body as members of ``errors``."""
    return [{"pointer": f.pointer, "code": f.code, "detail": f.detail} for f in findings]
