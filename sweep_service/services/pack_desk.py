"""Where a conductor answers the workers of its packs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from sweep_service.domain.errors import PackOverError, StoreUnavailableError
from sweep_service.domain.trial import Lease
from sweep_service.logs import log_context
from sweep_service.ports import SweepStore
from sweep_service.services.generation import Generation
from sweep_service.services.packs import Departure, LaneLines, LaneMessage, LaneOrder, PackOrder
from sweep_service.services.supply import PackSupply
from sweep_service.services.wishes import Wishes
from sweep_service.services.workers import Workers

logger = logging.getLogger(__name__)

RETRY_S = 0.5  # between tries of a pack's call while the store does not answer

_T = TypeVar("_T")


class PackDesk:
    """Called from as many threads as there are packs. Every call but :meth:`log` and :meth:`explain` waits for the
    store, at the longest until the conductor is ``over``: what a worker has trained is worth that.

    Each of them raises what ``raise_if_lost`` raises, and PackOverError where the pack has been given up.
    """

    def __init__(
        self,
        *,
        name: str,
        store: SweepStore,
        lease: Lease,
        workers: Workers,
        wishes: Wishes,
        over: threading.Event,
        raise_if_lost: Callable[[], None],
    ) -> None:
        self._name = name
        self._store = store
        self._lease = lease
        self._workers = workers
        self._wishes = wishes
        self._over = over
        self._raise_if_lost = raise_if_lost
        self._generation: Generation | None = None
        self._supply: PackSupply | None = None

    def open(self, generation: Generation, supply: PackSupply) -> None:
        """From here on packs may call."""
        self._generation, self._supply = generation, supply

    def close(self) -> None:
        """Whatever packs have to say now comes too late."""
        self._generation = None

    def begin(self, pack: str, node: str, worker: Any) -> PackOrder:
        """A pack's worker is up; the answer is what it trains.

        Raises:
            PackOverError: also where its node leaves the cluster. A pack that ends with an error loses its place, which
                Tune would else give to one pack after the other until the node is gone.
        """
        self._workers.add(pack, worker)
        has_lanes = False
        try:
            if self._workers.is_leaving(pack, worker):
                raise PackOverError("Its node leaves the cluster.")
            order = self._patiently(lambda generation: self._begin(generation, pack, node), pack=pack)
            has_lanes = bool(order.lanes)
            return order
        finally:
            if not has_lanes:
                self._workers.free(pack)

    def _begin(self, generation: Generation, pack: str, node: str) -> PackOrder:
        """Others may have begun packs since this one was set aside."""
        self._wishes.look_at_limits()
        return generation.begin(pack, node=node)

    def report(self, pack: str, messages: Sequence[LaneMessage]) -> Mapping[str, Departure]:
        """What the lanes of a pack say; the answer names those that are to leave it."""
        return self._patiently(lambda generation: generation.report(pack, messages), pack=pack)

    def settle(self, pack: str, places: int, reason: str) -> None:
        """What a pack's worker has found out of how many trials to train at once; of 1, why not more."""
        self._patiently(lambda generation: generation.settle(pack, places, reason), pack=pack)

    def refill(self, pack: str, free: int) -> Sequence[LaneOrder]:
        """Trials for free places of a pack."""
        return self._patiently(lambda generation: generation.refill(pack, free), pack=pack)

    def split(self, pack: str, places: int, message: str, *, is_of_all: bool) -> None:
        """A pack ends because it has too many lanes; its trials go on in packs of at most so many."""
        self._patiently(lambda generation: generation.split(pack, places, message, is_of_all=is_of_all), pack=pack)

    def log(self, pack: str, said: Sequence[LaneLines]) -> bool:
        """What the lanes' code has said. False: it is not stored, send it again; nobody waits for the store for it."""
        try:
            if self._generation is not None:
                with self._log_context(pack=pack):
                    self._generation.log(pack, said)
        except StoreUnavailableError:
            return False
        return True

    def note(self, trial_id: str, message: str) -> None:
        """What a worker has to say of a trial beside its results."""
        self._patiently(lambda _: self._store.add_notice(self._lease, message, trial_id=trial_id), trial_id=trial_id)

    def warn(self, message: str) -> None:
        """What a worker has to say of the sweep. Once, however many say it."""
        self._patiently(lambda generation: generation.tell(message))

    def explain(self, pack: str, message: str) -> None:
        """Why a pack's worker is about to end without a result."""
        with self._log_context(pack=pack):
            logger.warning("%s: the worker of pack %s ends: %s", self._name, pack, message)
            if self._supply is not None:
                self._supply.explain(pack, message)

    def _patiently(self, call: Callable[[Generation], _T], **known: str) -> _T:
        """``known``: what the call is about, for the log."""
        with self._log_context(**known):
            while True:
                self._raise_if_lost()
                generation = self._generation
                if generation is None:
                    raise PackOverError("The sweep has failed.")
                try:
                    return call(generation)
                except StoreUnavailableError:
                    if self._over.wait(RETRY_S):
                        raise

    def _log_context(self, **known: str) -> AbstractContextManager[None]:
        """The thread is a caller's, of any pack."""
        return log_context(sweep_id=self._lease.sweep_id, generation=self._lease.generation, **known)
