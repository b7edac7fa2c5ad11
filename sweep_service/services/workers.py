"""The processes that train a conductor's packs: which there are, their end, and why one was lost."""

from __future__ import annotations

import logging
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from sweep_service.domain.errors import ClusterLostError
from sweep_service.logs import carried, log_context
from sweep_service.services.losses import Loss
from sweep_service.services.supply import PackRunner

logger = logging.getLogger(__name__)

_MOST_LOST_AT_ONCE = 32  # packs of which it is found out at the same time why; they may all have been on one node


class Workers:
    """Handles by pack. Every method may be called from any thread."""

    def __init__(self, name: str, runner: PackRunner) -> None:
        """``name``: the conductor's, in the log."""
        self._name = name
        self._runner = runner
        self._handles: dict[str, Any] = {}
        self._finders = ThreadPoolExecutor(max_workers=_MOST_LOST_AT_ONCE, thread_name_prefix="lost")

    def add(self, pack: str, worker: Any) -> None:
        """That process is to train the pack."""
        self._handles[pack] = worker

    def free(self, pack: str) -> None:
        """Its process has nothing to train, and is for others."""
        self._handles.pop(pack, None)

    def pack_over(self, pack: str, lost: bool) -> Future[Loss] | None:
        """If it was lost, find out why, beside the controller: nodes are slow to be known as gone."""
        worker = self._handles.pop(pack, None)
        with log_context(pack=pack):
            return self._finders.submit(carried(self._why_lost), pack, worker) if lost else None

    def _why_lost(self, pack: str, worker: Any | None) -> Loss:
        if worker is None:  # it has not begun
            return Loss.PLACE
        try:
            loss = self._runner.why_lost(pack, worker)
        except Exception:  # nothing speaks against its trials
            logger.exception("%s: why the pack %s was lost cannot be found out.", self._name, pack)
            return Loss.PLACE
        logger.warning("%s: the pack %s was lost: %s.", self._name, pack, loss)
        return loss

    def leaving(self) -> Collection[str]:
        """Packs whose node is about to leave the cluster. Raises ClusterLostError."""
        return self._runner.leaving(dict(self._handles)) if self._handles else ()

    def is_leaving(self, pack: str, worker: Any) -> bool:
        """Whether that worker's node is about to leave the cluster, as far as can be found out now."""
        try:
            return bool(self._runner.leaving({pack: worker}))
        except ClusterLostError:
            return False

    def end(self) -> None:
        """End all of them, where they are."""
        found = {pack: self._handles.pop(pack, None) for pack in list(self._handles)}
        workers = {pack: worker for pack, worker in found.items() if worker is not None}
        if workers:
            try:
                self._runner.end(workers)
            except Exception:
                logger.exception("%s: the workers of %s could not be ended.", self._name, ", ".join(workers))

    def close(self) -> None:
        """End all of them; nothing is found out any more."""
        self.end()
        self._finders.shutdown(wait=False)
