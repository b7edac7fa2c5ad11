"""A sweep's events as they happen, as server-sent events.

A client that only waits costs a coroutine: it holds no thread and no connection to the database. Each looks for itself,
once per interval, by the primary key; so a key has only so many of them at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from http import HTTPStatus

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from api.access import CALLER, Caller
from api.limits import Seats
from api.problems import Problem, ProblemResponse
from api.schemas.events import EventView
from sweep_service.domain.errors import StoreUnavailableError, SweepNotFoundError
from sweep_service.domain.events import Event, EventKind
from sweep_service.domain.states import SweepState
from sweep_service.services.pages import Page
from sweep_service.services.sweeps import SweepService

logger = logging.getLogger(__name__)

MOST_STREAMS = 20
"""That one key may have open at once, in this process. Whoever needs no key may have any number, as of requests: the
machine is their own.
"""

_NOTHING: Page[Event] = Page(items=(), has_more=False)
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no proxy shall collect the events
_TOO_MANY = Problem(
    status=HTTPStatus.TOO_MANY_REQUESTS,
    kind="too-many-streams",
    title="Too many streams",
    detail=f"This key has {MOST_STREAMS} streams of events open, and may have no more. Close one, or try again soon.",
    headers={"Retry-After": "2"},
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a client stands in a sweep's events."""

    sweep_id: str
    after: int  # the last event that it has
    is_over: bool  # the sweep has ended, as far as the client will know when it has all events
    is_at_end: bool  # it has all of them


class NoSuchEventError(Exception):
    """A client says that it has an event which the sweep does not have: it could wait for ever."""


class _NotLetInError(Exception):
    """The client's key opens nothing any more."""


class EventFeed:
    """Follows sweeps for clients, until it is closed."""

    def __init__(self, service: SweepService, *, poll_interval: timedelta, heartbeat: timedelta) -> None:
        self._service = service
        self._poll_seconds = poll_interval.total_seconds()
        self._heartbeat_seconds = heartbeat.total_seconds()
        self._seats = Seats(MOST_STREAMS)
        self._closed = asyncio.Event()

    def close(self) -> None:
        """End every stream at once: their clients come back, to another process, for what they have not got."""
        self._closed.set()

    def open(self, sweep_id: str, *, after: int) -> Place:
        """Where a client begins that has the events up to ``after``.

        Raises:
            SweepNotFoundError, StoreUnavailableError, NoSuchEventError.
        """
        state = self._service.get_state(sweep_id)  # first: all that led to it is then among the events
        found = self._service.list_events(sweep_id, after=max(after - 1, 0), limit=2).items
        if after > 0 and (not found or found[0].seq != after):
            raise NoSuchEventError(sweep_id)
        is_at_end = not any(event.seq > after for event in found)
        return Place(sweep_id=sweep_id, after=after, is_over=state.is_ended, is_at_end=is_at_end)

    def stream(self, place: Place, *, is_let_in: Callable[[], Awaitable[bool]]) -> EventSourceResponse:
        """The answer that follows from that place, or refuses to where the caller's key has too many of them."""
        return _EventStream(self._follow(place, is_let_in=is_let_in), self._seats)

    async def _follow(self, place: Place, *, is_let_in: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
        """Every event after that place, in order and once; ends after the one that ends the sweep, and when the client
        would not be let in any more.
        """
        after, is_over = place.after, place.is_over
        now = asyncio.get_running_loop().time
        spoke_at = now()
        while not self._closed.is_set():
            try:
                page = await self._look(place.sweep_id, after, is_let_in)
            except (SweepNotFoundError, _NotLetInError):  # it was deleted; its key was revoked
                return
            for event in page.items:
                yield _frame(event)
                after, is_over, spoke_at = event.seq, _is_over_after(event, is_over), now()
            if page.has_more:
                continue
            if is_over and page is not _NOTHING:
                return
            if now() - spoke_at >= self._heartbeat_seconds:
                yield KEEPALIVE_COMMENT
                spoke_at = now()
            await self._pause()

    async def _look(self, sweep_id: str, after: int, is_let_in: Callable[[], Awaitable[bool]]) -> Page[Event]:
        try:
            if not await is_let_in():
                raise _NotLetInError
            return await run_in_threadpool(self._service.list_events, sweep_id, after=after, limit=500)
        except StoreUnavailableError as error:
            logger.debug("A stream waits for the store. %s", error)
            return _NOTHING

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._poll_seconds):
                await self._closed.wait()


class _EventStream(EventSourceResponse):
    """Takes a seat when it begins to be sent, not when it is made: what ends it then, if only that the client goes,
    gives the seat back.
    """

    def __init__(self, frames: AsyncIterator[bytes], seats: Seats) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._seats = seats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller: Caller = scope[CALLER]
        key_id = caller.actor.key_id
        if key_id is None:
            await super().__call__(scope, receive, send)
            return
        if not self._seats.take(key_id):
            await ProblemResponse(_TOO_MANY, scope)(scope, receive, send)
            return
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._seats.give_back(key_id)


def _frame(event: Event) -> bytes:
    """Without a name of its own: whoever listens by name would miss the kinds that are yet to come."""
    return format_sse_event(data_str=EventView.of(event).model_dump_json(), id=str(event.seq))


def _is_over_after(event: Event, was: bool) -> bool:
    if event.kind is not EventKind.SWEEP_MOVED:
        return was
    return SweepState(event.data["to"]).is_ended
