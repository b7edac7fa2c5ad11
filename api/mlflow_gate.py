"""Answers the gateway's question whether a request may go on to MLflow, as plain ASGI."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access import AUTHORIZE_PATH, CALLER, Caller
from api.key_check import KeyBuckets, forbidden
from api.problems import Problem, ProblemResponse
from sweep_service.domain.keys import KeyRole
from sweep_service.domain.mlflow_access import may_use_mlflow, reads_mlflow

_TIMES_THE_RATE = 4.0
"""MLflow's page is a hundred files, and asks for each of its charts."""


class MlflowGate:
    """``/internal/authorize``: 200 and who it is, or 403, or 429. What is asked for is in ``X-Forwarded-Method`` and
    ``X-Forwarded-Uri``; all other headers are those of the request that waits, and there is no body.

    It stands before bodies are checked, for the headers may announce one that stays with the gateway, of whatever type;
    and before the keys' limit, for it has a wider one of its own: who looks at MLflow is not to wait with the API.
    """

    def __init__(self, app: ASGIApp, *, prefix: str, rate: float) -> None:
        self._app = app
        self._prefix = prefix
        self._buckets = KeyBuckets(rate * _TIMES_THE_RATE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != AUTHORIZE_PATH:
            await self._app(scope, receive, send)
            return
        caller: Caller = scope[CALLER]
        headers = Headers(scope=scope)
        problem = self._buckets.fault(caller) or self._fault(headers, caller)
        if problem is not None:
            response: Response = ProblemResponse(problem, scope)
        else:
            response = Response(headers={"X-Sweep-User": caller.actor.name, "Cache-Control": "no-store"})
        if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
            # The body that is announced may never come: the next question would be taken for it.
            response.headers["Connection"] = "close"
        await response(scope, receive, send)

    def _fault(self, headers: Headers, caller: Caller) -> Problem | None:
        methods, uris = headers.getlist("x-forwarded-method"), headers.getlist("x-forwarded-uri")
        if len(methods) != 1 or len(uris) != 1:  # of two, somebody outside may have sent one
            return forbidden(caller, KeyRole.ADMIN, "What the gateway does not describe")
        method, uri = methods[0], uris[0]
        if not may_use_mlflow(caller.role, method, uri, prefix=self._prefix):
            return forbidden(caller, KeyRole.ADMIN, "To do that in MLflow")
        # A browser adds an admin's password to what a foreign page makes it send, too.
        if caller.is_basic and not reads_mlflow(method, uri, prefix=self._prefix) and not _is_own_page(headers):
            return forbidden(caller, KeyRole.ADMIN, "What a foreign page asks for")
        return None


def _is_own_page(headers: Headers) -> bool:
    """Whether MLflow's own page sent the request, or nothing that tells of its page. A browser of today always tells,
    and no page can have it say something else.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("x-forwarded-host", "")
