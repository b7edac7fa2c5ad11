"""Lets nobody in without a key, where keys are required, as plain ASGI: before anything of a body is read."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import ipaddress
import logging
import time
from collections.abc import Callable
from http import HTTPStatus

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.access import AUTHORIZE_PATH, CALLER, NOBODY, PUBLIC_PATHS, Caller, needed_role
from api.limits import TokenBuckets
from api.problems import Problem, ProblemResponse
from sweep_service.domain.errors import SchemaOutdatedError, StoreUnavailableError
from sweep_service.domain.keys import EXAMPLE, ApiKey, KeyRole, KeyText, parse_key
from sweep_service.services.keys import KeyRing

logger = logging.getLogger(__name__)

_REALM = 'realm="sweeps"'


class KeyCheck:
    """Finds out whose key a request shows, and whether it may do what it asks. Who gives a key is judged by it, where
    keys are not required too: what is given and ignored would be taken for obeyed.

    A refusal reads nothing of the body: the server drops what still comes of it, and the connection stays open for it,
    so that a client which sends to the end sees the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        ring: KeyRing,
        is_required: bool,
        rate: float,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._ring = ring
        self._is_required = is_required
        self._strangers = TokenBuckets(rate)
        self._timer = timer
        self._notes: set[asyncio.Task[None]] = set()  # or they could be collected as garbage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._caller(scope)
            _check_role(scope, caller)
        except _RefusedError as refusal:
            await ProblemResponse(refusal.problem, scope)(scope, receive, send)
            return
        scope[CALLER] = caller  # into this one: what the router will add has to be seen by those who count requests
        await self._app(scope, receive, send)

    async def _caller(self, scope: Scope) -> Caller:
        """Raises _RefusedError."""
        given = Headers(scope=scope).getlist("authorization")
        if not given and not self._is_required:
            return NOBODY
        text, is_basic = _read(given)
        # A browser adds Basic by itself to what foreign pages make it send: it may open what only reads, nothing else.
        if text is None or (is_basic and scope["method"] != "GET" and scope["path"] != AUTHORIZE_PATH):
            self._take_strangers_turn(scope)
            raise _RefusedError(_unauthorized(scope))
        key = self._ring.fresh(text)
        if key is None:
            key = await self._find(scope, text)
        return Caller(actor=key.actor, role=key.role, key=text, is_basic=is_basic)

    async def _find(self, scope: Scope, text: KeyText) -> ApiKey:
        """Raises _RefusedError: the same for whatever is no key, was one or never was, so that who guesses learns
        nothing.

        Who guesses is told to wait before the store is asked, however many guesses come at once. Whose key was good a
        moment ago does not wait for those who guess at the same address, which may be that of a proxy.
        """
        if is_stranger := not self._ring.knows(text):
            self._take_strangers_turn(scope)
        try:
            key = await run_in_threadpool(self._ring.find, text)
        except StoreUnavailableError:
            self._strangers.give_back(_address(scope))
            raise _RefusedError(_STORE_UNAVAILABLE) from None
        except SchemaOutdatedError as error:
            raise _RefusedError(_unavailable("schema-outdated", "Database not migrated", str(error))) from None
        if key is None:
            raise _RefusedError(_unauthorized(scope))
        if is_stranger:
            self._strangers.give_back(_address(scope))
        note = asyncio.create_task(self._note_use(key))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)
        return key

    async def _note_use(self, key: ApiKey) -> None:
        """Beside the request, which does not wait for it: to be known for it is worth no delay."""
        with contextlib.suppress(StoreUnavailableError):
            await run_in_threadpool(self._ring.note_use, key)

    def _take_strangers_turn(self, scope: Scope) -> None:
        """Raises _RefusedError: there have been too many without a key that is known, from there."""
        if wait := self._strangers.take(_address(scope), self._timer()):
            raise _RefusedError(too_many(wait))


class KeyLimit:
    """Lets so many requests a second through for each key."""

    def __init__(self, app: ASGIApp, *, rate: float) -> None:
        self._app = app
        self._buckets = KeyBuckets(rate)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller | None = scope.get(CALLER)
        if caller is not None and (problem := self._buckets.fault(caller)):
            await ProblemResponse(problem, scope)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class KeyBuckets:
    """A bucket for each key. Who needs none, on a machine of their own, is not counted."""

    def __init__(self, rate: float, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._buckets = TokenBuckets(rate)
        self._timer = timer

    def fault(self, caller: Caller) -> Problem | None:
        """What is wrong if that caller sends one more now; if nothing is, it is counted."""
        key_id = caller.actor.key_id
        wait = 0 if key_id is None else self._buckets.take(key_id, self._timer())
        return too_many(wait) if wait else None


def too_many(wait: int) -> Problem:
    """Too many requests: the next one comes through in so many seconds."""
    return Problem(
        status=HTTPStatus.TOO_MANY_REQUESTS,
        kind="too-many-requests",
        title="Too many requests",
        detail=f"Nothing was done: there were too many requests. Send it again in {wait} s, and fewer a second.",
        headers={"Retry-After": str(wait)},
    )


class _RefusedError(Exception):
    """The request does not come through."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.kind)
        self.problem = problem


def _check_role(scope: Scope, caller: Caller) -> None:
    """Raises _RefusedError."""
    needed = needed_role(scope["method"], scope["path"])
    if not caller.role.covers(needed):
        raise _RefusedError(forbidden(caller, needed, "This"))


def forbidden(caller: Caller, needed: KeyRole, what: str) -> Problem:
    """The key is good, but not for that."""
    detail = f"{what} needs a key of the role {needed}; that of {caller.actor.name!r} is of the role {caller.role}."
    extra = {"needed": str(needed), "role": str(caller.role)}
    return Problem(status=HTTPStatus.FORBIDDEN, kind="forbidden", title="Not allowed", detail=detail, extra=extra)


def _read(given: list[str]) -> tuple[KeyText | None, bool]:
    """The key that an Authorization header shows, if any; whether it came as a password."""
    if len(given) != 1:
        return None, False
    scheme, _, value = given[0].partition(" ")
    value = value.strip(" ")
    if scheme.lower() == "bearer":
        return parse_key(value), False
    if scheme.lower() != "basic":
        return None, False
    try:
        _, _, password = base64.b64decode(value, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        return None, True
    return parse_key(password), True


def _unauthorized(scope: Scope) -> Problem:
    may_be_basic = scope["method"] == "GET" or scope["path"] == AUTHORIZE_PATH
    # Basic first: Chromium looks at the first one of a line alone, and asks nobody for a Bearer.
    challenge = f'Basic {_REALM}, charset="UTF-8", Bearer {_REALM}' if may_be_basic else f"Bearer {_REALM}"
    return Problem(
        status=HTTPStatus.UNAUTHORIZED,
        kind="unauthorized",
        title="No valid key",
        detail=f"This needs a key that is valid here: send Authorization: Bearer {EXAMPLE}. An admin makes keys.",
        headers={"WWW-Authenticate": challenge},
    )


def _unavailable(kind: str, title: str, detail: str) -> Problem:
    headers = {"Retry-After": "2"}
    return Problem(status=HTTPStatus.SERVICE_UNAVAILABLE, kind=kind, title=title, detail=detail, headers=headers)


_STORE_UNAVAILABLE = _unavailable(
    "store-unavailable",
    "Store unavailable",
    "The database does not answer, and it knows the keys. Nothing was done; try again soon.",
)


def _address(scope: Scope) -> str:
    """What strangers are told apart by: of IPv6, where each has very many addresses, the network."""
    host = (scope.get("client") or ("", 0))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))
