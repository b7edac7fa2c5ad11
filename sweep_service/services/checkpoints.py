"""The folders of a sweep's checkpoints: ``<root>/<sweep>/<trial>/<attempt>/step-….pt``.

An attempt writes to its own folder alone, so that a worker which was given up and trains on overwrites nothing. What
nobody will go on from is removed as soon as the store says so; a file that cannot be removed is no reason to fail.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence

from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.domain.errors import CheckpointsUnavailableError
from sweep_service.logs import carried

logger = logging.getLogger(__name__)


class Removals:
    """Does one thing after another in a thread of its own: an object store that does not answer takes a minute for
    each file, and whoever asks for a removal has packs and users waiting.
    """

    def __init__(self) -> None:
        self._due: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._left = 0
        self._changed = threading.Condition()
        self.is_closed = False

    def __call__(self, removal: Callable[[], None]) -> None:
        """Have it done some time. It looks at ``is_closed`` before it removes what it has found out to be due."""
        with self._changed:
            if self.is_closed:
                return
            self._left += 1
            if self._left == 1:
                # For this and what comes meanwhile. A daemon: no process waits with its end for an object store.
                threading.Thread(target=carried(self._work), name="removals", daemon=True).start()
            self._due.put(removal)

    def close(self, within_s: float) -> None:
        """Wait so long for what is due, and forget what is left of it."""
        until = time.monotonic() + within_s
        with self._changed:
            self._changed.wait_for(lambda: not self._left, timeout=max(0.0, until - time.monotonic()))
            self.is_closed = True

    def _work(self) -> None:
        while True:
            removal = self._due.get()
            try:
                if not self.is_closed:
                    removal()
            except Exception:
                logger.exception("Checkpoints that nobody needs could not be removed.")
            with self._changed:
                self._left -= 1
                self._changed.notify_all()
                if not self._left:
                    return


class CheckpointFolders:
    """Those of one sweep. Removals are done by ``removals``."""

    def __init__(self, files: CheckpointFiles, root: str, sweep_id: str, removals: Removals) -> None:
        self._files = files
        self._folder = f"{root}/{sweep_id}"
        self._removals = removals

    def of_attempt(self, trial_id: str, attempt_id: str) -> str:
        """Where that attempt writes."""
        return f"{self._folder}/{trial_id}/{attempt_id}"

    def is_missing(self, checkpoint: str) -> bool:
        """Whether it is known at once that the file is gone."""
        return self._files.is_missing(checkpoint)

    def drop_trial(self, trial_id: str) -> None:
        """Remove what a trial has written."""
        self._removals(lambda: self._files.remove_folder(f"{self._folder}/{trial_id}"))

    def drop_earlier_attempts(self, trial_id: str, *, than: str) -> None:
        """Remove what earlier attempts have written, once ``than`` has a checkpoint of its own.

        Not later ones: a conductor that was overtaken may come to this when its successor's attempts have begun. Ids
        sort by the time of their making.
        """
        folder = f"{self._folder}/{trial_id}"
        self._removals(lambda: self._remove_from(folder, lambda attempt_id: attempt_id < than))

    def drop_other_trials(self, *, keep: Collection[str]) -> None:
        """Remove everything but those trials'."""
        if keep:
            self._removals(lambda: self._remove_from(self._folder, lambda trial_id: trial_id not in keep))
        else:
            self._removals(lambda: self._files.remove_folder(self._folder))

    def _remove_from(self, folder: str, is_due: Callable[[str], bool]) -> None:
        due = [name for name in self._names_in(folder) if is_due(name)]
        for name in due:
            if self._removals.is_closed:  # the sweep may be open again by now, and these be wanted
                return
            self._files.remove_folder(f"{folder}/{name}")

    def _names_in(self, folder: str) -> Sequence[str]:
        try:
            return self._files.folders(folder)
        except (CheckpointsUnavailableError, OSError):
            return ()
