"""What users ask of a sweep while it runs, and what the service's limits leave it: looked up, and carried out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from sweep_service.domain.limits import PackLimit
from sweep_service.domain.states import CONDUCTED, SweepState
from sweep_service.domain.trial import Standing, Sweep
from sweep_service.ports import SweepStore
from sweep_service.services.generation import Generation
from sweep_service.services.limits import allowance_of, limits_of


class Wishes:
    """Those about one sweep. Every method may be called from any thread, and raises what the store raises; a call that
    failed is made again and does then what is left of it.
    """

    def __init__(
        self, *, store: SweepStore, sweep_id: str, limits: Sequence[PackLimit], end_workers: Callable[[], None]
    ) -> None:
        """``limits``: all that the service has."""
        self._store = store
        self._sweep_id = sweep_id
        self._limits = limits
        self._end_workers = end_workers
        self._generation: Generation | None = None
        self._is_limited = False
        self._obeyed = SweepState.RUNNING  # what a user has asked for and got
        self._standing: Standing | None = None  # when it was looked at last
        self._has_news = threading.Event()

    def open(self, generation: Generation, sweep: Sweep) -> None:
        """From here on there is something that can do as users wish."""
        self._is_limited = bool(limits_of(sweep.project, sweep.spec.labels, self._limits))
        self._generation = generation

    def close(self) -> None:
        """Nothing can any more."""
        self._generation = None

    def asked(self) -> SweepState:
        """Where users want the sweep."""
        return self._store.get_standing(self._sweep_id).state

    def look(self) -> None:
        """Carry out what has been asked for since."""
        standing = self._store.get_standing(self._sweep_id)
        if standing != self._standing:
            self._standing = standing
            self._has_news.set()
        generation = self._generation
        try:
            # First: what is to be tried again is among what a stop cancels.
            if generation is not None and generation.revision != standing.revision:
                generation.amend(self._store.get_sweep(self._sweep_id))
        finally:  # whatever comes of that, a cancel must get through
            self.obey(standing.state)
        self.look_at_limits()

    def look_at_limits(self) -> None:
        """Let as many packs run as the limits leave to this sweep among those that run now."""
        generation = self._generation
        if self._is_limited and generation is not None:
            generation.allow(allowance_of(self._sweep_id, self._store.list_demands(CONDUCTED), self._limits))

    def obey(self, asked: SweepState) -> None:
        """Do what a user has asked for, again and again until it is done: the store may fail in the middle of it."""
        generation = self._generation
        if generation is None or asked is self._obeyed:
            return
        if asked is SweepState.PAUSING:
            generation.pause()
        elif asked is SweepState.STOPPING:
            generation.stop()
        elif asked is SweepState.CANCELLING:
            generation.expect_cancel()
            self._end_workers()  # before anything that needs the store
            generation.cancel()
            self._end_workers()  # those that came up in between
        self._obeyed = asked

    def tell_news(self) -> None:
        """Whoever waits is to look again."""
        self._has_news.set()

    def await_news(self, seconds: float) -> None:
        """Wait until users want something else, or something else has happened; at the longest that."""
        self._has_news.wait(seconds)
        self._has_news.clear()
