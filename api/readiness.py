"""Whether sweeps can be served, asked once for all who want to know it at about the same time: whoever asks shows no
key, and a question takes a thread and a connection to the database.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.concurrency import run_in_threadpool

from sweep_service.services.sweeps import SweepService

REMEMBERED_SECONDS = 1.0
"""For so long an answer is given again, also that of a store which could not serve."""


class Readiness:
    """Asks the store at most once at a time, and not again for REMEMBERED_SECONDS after it has answered. For one event
    loop.
    """

    def __init__(self, service: SweepService, *, timer: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._timer = timer
        self._question: asyncio.Task[None] | None = None
        self._answered_at = 0.0

    async def check(self) -> None:
        """Raise StoreUnavailableError or SchemaOutdatedError unless sweeps can be served, or could a moment ago."""
        question = self._question
        if question is None or (question.done() and self._timer() - self._answered_at >= REMEMBERED_SECONDS):
            question = self._question = asyncio.create_task(self._ask())
        await asyncio.wait([question])  # awaited itself, it would be cancelled for all with the first who goes away
        question.result()

    async def _ask(self) -> None:
        try:
            await run_in_threadpool(self._service.check_ready)
        finally:
            self._answered_at = self._timer()  # not when it was asked: a slow store is to have its pause, too
