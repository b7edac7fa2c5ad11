"""What the controller of the packs asks and tells, answered by a generation without ever raising.

Ray Tune takes an exception of its search algorithm for its own end. So a store that does not answer means *wait*, and
what cannot be waited for is kept as the ``fault`` with which the conductor ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from sweep_service.domain.errors import StoreUnavailableError
from sweep_service.domain.resources import Resources
from sweep_service.domain.trial import Cluster
from sweep_service.services.generation import Generation, Pause

logger = logging.getLogger(__name__)

WORKER_DIED = "Its worker process died."


class PackSupply:
    """The packs of one generation.

    The controller calls from one thread; :meth:`explain` and :meth:`fail` may be called from any. ``on_over`` hears of
    each pack that is over, and whether it was lost, before its trials may go on elsewhere; ``on_fault`` of the first
    fault.
    """

    def __init__(
        self, generation: Generation, *, on_over: Callable[[str, bool], None], on_fault: Callable[[], None]
    ) -> None:
        self._generation = generation
        self._on_over = on_over
        self._on_fault = on_fault
        self._over: dict[str, bool] = {}  # packs that are over and not settled with the store yet: whether lost
        self._explanations: dict[str, str] = {}  # what workers said went wrong, by pack
        self._is_waiting_for_store = False
        self.fault: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether to end now, whatever still waits for a place on a node."""
        return self.fault is not None or self._generation.is_over

    def next_pack(self, key: str) -> Pause | None:
        """See :meth:`Generation.next_pack`; DONE too where there is a fault."""
        self._settle()
        pause: Pause | None = Pause.WAIT
        if not self._over:
            with self._patience():
                pause = self._generation.next_pack(key)
        return pause if self.fault is None else Pause.DONE

    def pack_over(self, key: str, *, lost: bool) -> None:
        """The pack's worker has ended, or died. Settled with the store now, or as soon as it answers."""
        self._on_over(key, lost)
        self._over[key] = lost
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
            self.pack_over(key, lost=True)
        return bool(keys)

    def _settle(self) -> None:
        for key, lost in list(self._over.items()):
            with self._patience():
                message = self._explanations.get(key, WORKER_DIED)
                self._generation.pack_over(key, lost=lost, message=message)
                del self._over[key]
                self._explanations.pop(key, None)

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

    def end(self, workers: Mapping[str, Any]) -> None:
        """End the processes of these workers, in whatever they are doing: of each as long as it trains the pack by
        whose key it stands here, for it may have gone on to another one, of another sweep.
        """
        ...

    def cluster(self) -> Cluster:
        """The nodes as they are now. Raises ClusterLostError."""
        ...
