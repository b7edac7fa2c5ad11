"""What every request passes before it reaches a route, as plain ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Collection, Set
from datetime import timedelta
from email.message import Message as Mail
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.problems import Problem, ProblemResponse
from sweep_service.domain.keys import without_keys

logger = logging.getLogger(__name__)

IS_HEAD = "sweep_service.is_head"
"""Key of a request's scope that says that the method was HEAD, whatever it is now."""

AS_GET = "sweep_service.as_get"
"""Key of the scope of a HEAD: the scope of the GET that is answered in its place."""

_DRAIN_BYTES = 32 * 2**20
_DRAIN_SECONDS = 5.0


class ErrorBoundary:
    """The last resort: an unforeseen error goes to the log with its traceback, and its number to the caller."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception:
            number = uuid.uuid4().hex
            logger.exception("%s %s failed; error %s", scope["method"], without_keys(scope["path"]), number)
            if started:
                raise  # half an answer is out: only closing the connection tells the caller
            problem = Problem(
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
                kind="internal-error",
                title="Internal error",
                detail=f"The server failed to answer. Its log has the cause under {number}.",
            )
            await ProblemResponse(problem, scope)(scope, receive, send)


class HeadAsGet:
    """Answers HEAD like GET; the server leaves the body out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            as_get = scope[AS_GET] = {**scope, "method": "GET", IS_HEAD: True}
            await self._app(as_get, receive, send)
            return
        await self._app(scope, receive, send)


class AllowedHosts:
    """Refuses requests for other hosts: no web page shall reach a service on loopback through a name of its own."""

    def __init__(self, app: ASGIApp, *, allowed: Collection[str]) -> None:
        self._app = app
        self._allowed = {_host_name(host) for host in allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self._fault(Headers(scope=scope).getlist("host"))):
            await ProblemResponse(problem, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _fault(self, hosts: list[str]) -> Problem | None:
        if len(hosts) != 1 or not hosts[0]:
            return Problem(
                status=HTTPStatus.BAD_REQUEST,
                kind="bad-host",
                title="Bad Host header",
                detail="A request carries exactly one Host header.",
            )
        if "*" in self._allowed or _host_name(hosts[0]) in self._allowed:
            return None
        return Problem(
            status=HTTPStatus.MISDIRECTED_REQUEST,
            kind="unknown-host",
            title="Unknown host",
            detail=f"This server does not answer for {hosts[0]!r}; add it to SWEEP_ALLOWED_HOSTS if it should.",
        )


class CheckedBody:
    """Reads a request's body before the application sees it: refuses one that is too large or is not said to be JSON.

    A body is at most ``max_bytes``, so it is simply kept in memory. What is refused is read to its end first, within
    bounds: a client that is still sending when the connection closes never sees the answer.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, timeout: timedelta) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout_seconds = timeout.total_seconds()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if "content-length" in headers or "transfer-encoding" in headers:
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    body = await self._read(headers, receive)
            except _ClientGoneError:
                return
            except TimeoutError:
                await ProblemResponse(self._too_slow(), scope)(scope, receive, send)
                return
            except _TooLargeError:
                await ProblemResponse(self._too_large(), scope)(scope, receive, send)
                return
            receive = _replay(body, receive)
        if not _is_json(headers, _JSON_TYPES | (_PATCH_TYPES if scope["method"] == "PATCH" else set())):
            await ProblemResponse(_NOT_JSON, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        declared = int(headers.get("content-length", "0"))  # the server has refused what is no number
        if declared > self._max_bytes:
            if declared <= _DRAIN_BYTES and "expect" not in headers:  # who expects 100-continue has sent nothing yet
                await _drain(receive)
            raise _TooLargeError
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            chunk, more = await _next_chunk(receive)
            chunks.append(chunk)
            size += len(chunk)
            if size > self._max_bytes:
                if more:
                    await _drain(receive)
                raise _TooLargeError
        return b"".join(chunks)

    def _too_slow(self) -> Problem:
        return Problem(
            status=HTTPStatus.REQUEST_TIMEOUT,
            kind="body-too-slow",
            title="Body too slow",
            detail=f"Nothing was done: the body did not come within {self._timeout_seconds:g} s. Send it again.",
            headers={"Connection": "close"},
        )

    def _too_large(self) -> Problem:
        return Problem(
            status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            kind="body-too-large",
            title="Body too large",
            detail=f"A request's body may have at most {self._max_bytes} bytes.",
            headers={"Connection": "close"},
        )


class _TooLargeError(Exception):
    """The body has more bytes than a request may have."""


class _ClientGoneError(Exception):
    """The client closed the connection before its body ended."""


async def _next_chunk(receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise _ClientGoneError
    return message.get("body", b""), message.get("more_body", False)


async def _drain(receive: Receive) -> None:
    """Read and forget the rest of a body, within bounds of size and time."""
    size, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while more and size <= _DRAIN_BYTES:
                chunk, more = await _next_chunk(receive)
                size += len(chunk)


_JSON_TYPES: Set[str] = {"application/json"}
_PATCH_TYPES: Set[str] = {"application/merge-patch+json"}
_NOT_JSON = Problem(
    status=HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    kind="unsupported-media-type",
    title="Unsupported media type",
    detail="Send the body as JSON, in UTF-8, with Content-Type: application/json.",
    headers={"Accept": "application/json"},
)


def _is_json(headers: Headers, types: Set[str]) -> bool:
    """Whether the body, if there is one, is said to be JSON. A Content-Type without a body counts as well: the forms of
    foreign web pages, which may send nothing else without asking, always have one."""
    given = headers.get("content-type")
    if given is None:
        return headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    mail = Mail()  # its header has the same form, and the library reads its parameters
    mail["Content-Type"] = given
    return mail.get_content_type() in types and mail.get_content_charset("utf-8") in ("utf-8", "utf8")


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once, then whatever comes after it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def _host_name(host: str) -> str:
    """The host without its port, in the form in which two are compared."""
    name = host.strip().lower()
    if name.startswith("["):
        return name.partition("]")[0] + "]"
    return name.partition(":")[0].rstrip(".")
