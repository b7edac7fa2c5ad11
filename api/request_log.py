"""What the log tells of a request, whoever writes its lines."""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweep_service.logs import log_context

HEADER = "X-Request-ID"
_GIVEN = re.compile(r"[A-Za-z0-9._-]{1,128}", re.ASCII)
_IN_PATH = re.compile(r"/(?:sweeps/(?P<sweep_id>swp_[0-9A-Z]{26})|trials/(?P<trial_id>trl_[0-9A-Z]{26}))(?:/|\Z)")


class RequestLog:
    """Lines of a request tell its id, and the sweep or the trial in its path. The id is the one that comes with it
    (``X-Request-ID``, of a proxy, say) or a new one, and goes back with the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _GIVEN.fullmatch(given) else uuid.uuid4().hex

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        found = _IN_PATH.search(scope["path"])
        with log_context(request_id=request_id, **(found.groupdict() if found else {})):
            await self._app(scope, receive, send_with_id)
