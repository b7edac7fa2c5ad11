"""The one question whether sweeps can be served, for all who want to know it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from api.readiness import REMEMBERED_SECONDS, Readiness
from sweep_service.domain.errors import StoreUnavailableError


class Asked:
    """Stands for the service: counts the questions, and is up or down."""

    def __init__(self, clock: Clock, *, seconds: float = 0.0) -> None:
        self.times = 0
        self.is_up = True
        self._clock = clock
        self._seconds = seconds  # that an answer takes

    def check_ready(self) -> None:
        self.times += 1
        self._clock.now += self._seconds
        if not self.is_up:
            raise StoreUnavailableError("gone")


class Clock:
    """Of the test's own."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def of(asked: Any, clock: Clock) -> Readiness:
    return Readiness(asked, timer=clock)


def test_the_store_is_asked_anew_when_its_answer_is_a_second_old() -> None:
    clock = Clock()
    asked = Asked(clock)

    async def check() -> None:
        readiness = of(asked, clock)
        for _ in range(100):
            await readiness.check()
        assert asked.times == 1
        clock.now += REMEMBERED_SECONDS
        asked.is_up = False
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await readiness.check()
        assert asked.times == 2

    asyncio.run(check())


def test_a_store_that_was_down_is_asked_again_no_sooner_and_may_be_up_then() -> None:
    clock = Clock()
    asked = Asked(clock, seconds=5.0)  # as long as a connection is waited for
    asked.is_up = False

    async def check() -> None:
        readiness = of(asked, clock)
        for _ in range(100):
            with pytest.raises(StoreUnavailableError):
                await readiness.check()
        assert asked.times == 1
        clock.now += REMEMBERED_SECONDS
        asked.is_up = True
        await readiness.check()
        assert asked.times == 2

    asyncio.run(check())


def test_those_who_ask_at_once_share_a_question_also_when_the_first_goes_away() -> None:
    clock = Clock()
    asked = Asked(clock)

    async def check() -> None:
        readiness = of(asked, clock)
        first, *others = [asyncio.create_task(readiness.check()) for _ in range(50)]
        await asyncio.sleep(0)  # each has begun
        first.cancel()
        await asyncio.gather(*others)
        assert first.cancelled()
        assert asked.times == 1

    asyncio.run(check())
