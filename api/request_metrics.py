"""Counts what this process is asked, and how soon it answers."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.metrics import ServiceMetrics
from api.middleware import AS_GET

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """Labels are of what the service has, never of what it was asked: paths and methods that somebody makes up would
    make a series each.

    A request counts when its answer begins: a stream of events may go on for hours.
    """

    def __init__(self, app: ASGIApp, *, metrics: ServiceMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        has_answered = False

        async def watched_send(message: Message) -> None:
            nonlocal has_answered
            if message["type"] == "http.response.start" and not has_answered:
                has_answered = True
                self._count(scope, str(message["status"]), time.perf_counter() - began)
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        finally:
            if not has_answered:  # the client has gone away in the middle of its body
                self._count(scope, "none", time.perf_counter() - began)

    def _count(self, scope: Scope, status: str, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = _route(scope)
        self._metrics.requests.labels(method=method, route=route, status=status).inc()
        self._metrics.request_seconds.labels(method=method, route=route).observe(seconds)


def _route(scope: Scope) -> str:
    """The template of the route that has answered, none if there is no such."""
    return getattr(scope.get(AS_GET, scope).get("route"), "path", "none")
