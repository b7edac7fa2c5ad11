"""What the controller of the packs asks and tells, answered by a generation without ever raising.

Ray Tune takes an exception of its search algorithm for its own end. So a store that does not answer means *wait*, and
what cannot be waited for is kept as the ``fault`` with which the conductor ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, Protocol

from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.resources import Resources
from sweep_service.domain.trial import Cluster
from sweep_service.services.generation import Generation, Pause
from sweep_service.services.losses import Loss

logger = logging.getLogger(__name__)


class PackSupply:
    """The packs of one generation.

    The controller calls from one thread; :meth:`explain` and :meth:`fail` may be called from any. ``on_over`` hears of
    each pack that is over, and whether it was lost; of a lost one it is to find out why, and its trials go on elsewhere
    once that is done. ``on_fault`` hears of the first fault.
    """

    def __init__(
        self,
        generation: Generation,
        *,
        on_over: Callable[[str, bool], Future[Loss] | None],
        on_fault: Callable[[], None],
    ) -> None:
        self._generation = generation
        self._on_over = on_over
        self._on_fault = on_fault
        # Packs that are over and not settled with the store yet; of those that were lost, why.
        self._over: dict[str, Future[Loss] | None] = {}
        self._explanations: dict[str, str] = {}  # what workers said went wrong, by pack
        self._is_waiting_for_store = False
        self.fault: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether to end now, whatever still waits for a place on a node."""
        return self.fault is not None or self._generation.is_over

    def next_pack(self, key: str) -> Pause | None:
        """See :meth:`Generation.next_pack`; DONE too where there is a fault."""
        pause: Pause | None = Pause.WAIT
        if self._settle():
            with self._patience():
                pause = self._generation.next_pack(key)
        return pause if self.fault is None else Pause.DONE

    def pack_over(self, key: str, *, lost: bool) -> None:
        """The pack's worker has ended, or died. Settled with the store now, or as soon as it answers and as it is known
        why.
        """
        self._over[key] = self._on_over(key, lost)
        self._settle()

    def explain(self, key: str, message: str) -> None:
        """What a worker says of its end, before it comes."""
        self._explanations[key] = message

    def fail(self, fault: Exception) -> None:
        """End: nothing of this generation can go on."""
        if self.fault is None:
            self.fault = fault
            self._on_fault()

    def lose_open_packs(self, message: str) -> bool:
        """The controller itself has ended, and the workers with it. False: no pack was open."""
        keys = self._generation.open_packs
        for key in keys:
            self._explanations.setdefault(key, message)
            if key not in self._over:
                self._over[key] = self._on_over(key, True)
        wait([finding for finding in self._over.values() if finding is not None])
        self._settle()
        return bool(keys)

    def _settle(self) -> bool:
        """False: there are packs that the store has refused to settle."""
        known = {key: finding for key, finding in self._over.items() if finding is None or finding.done()}
        for key, finding in known.items():
            with self._patience():
                loss = finding.result() if finding is not None else None
                self._generation.pack_over(key, loss=loss, message=self._explanations.get(key, ""))
                del self._over[key]
                self._explanations.pop(key, None)
        return not known.keys() & self._over.keys()

    @contextmanager
    def _patience(self) -> Iterator[None]:
        """What the store refuses for now is passed over, to be done later; any other error is the fault."""
        try:
            yield
        except StoreUnavailableError as error:
            if not self._is_waiting_for_store:
                logger.warning("The store does not answer; no pack starts until it does. %s", error)
            self._is_waiting_for_store = True
        except Exception as error:  # noqa: BLE001 - raised by the conductor, once the controller has wound up
            self.fail(error)
        else:
            self._is_waiting_for_store = False


class PackRunner(Protocol):
    """Where packs run."""

    def run(self, supply: PackSupply, resources: Resources) -> None:
        """Run the packs of the supply until it is done, or over. May raise anything; its workers may then live on."""
        ...

    def why_lost(self, pack: str, worker: Any) -> Loss:
        """Why the pack that this worker began was lost, by what is known of the worker and its node. Its process is
        ended as by :meth:`end`: only its place may be gone. May take some seconds.
        """
        ...

    def end(self, workers: Mapping[str, Any]) -> None:
        """End the processes of these workers, in whatever they are doing: of each as long as it trains the pack by
        whose key it stands here, for it may have gone on to another one, of another sweep.
        """
        ...

    def leaving(self, workers: Mapping[str, Any]) -> Collection[str]:
        """Which of these packs are on a node that has been told to leave the cluster, and has a little time for it.
        Raises ClusterLostError.
        """
        ...

    def cluster(self) -> Cluster:
        """The nodes as they are now. Raises ClusterLostError."""
        ...
