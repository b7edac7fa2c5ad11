"""The folders of a sweep's checkpoints: ``<root>/<sweep>/<trial>/<attempt>/step-….pt``.

An attempt writes to its own folder alone, so that a worker which was given up and trains on overwrites nothing. What
nobody will go on from is removed as soon as the store says so; a file that cannot be removed is no reason to fail.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.domain.errors import CheckpointsUnavailableError


class CheckpointFolders:
    """Those of one sweep."""

    def __init__(self, files: CheckpointFiles, root: str, sweep_id: str) -> None:
        self._files = files
        self._folder = f"{root}/{sweep_id}"

    def of_attempt(self, trial_id: str, attempt_id: str) -> str:
        """Where that attempt writes."""
        return f"{self._folder}/{trial_id}/{attempt_id}"

    def is_there(self, checkpoint: str) -> bool:
        """Whether the file still exists, as seen from this node. If that cannot be told for now, it is taken to be
        there: the worker that is to go on from it has the time to find out.
        """
        try:
            return self._files.exists(checkpoint)
        except (CheckpointsUnavailableError, OSError):
            return True

    def drop_trial(self, trial_id: str) -> None:
        """Remove what a trial has written."""
        self._files.remove_folder(f"{self._folder}/{trial_id}")

    def drop_earlier_attempts(self, trial_id: str, *, than: str) -> None:
        """Remove what earlier attempts have written, once ``than`` has a checkpoint of its own.

        Not later ones: a conductor that was overtaken may come to this when its successor's attempts have begun. Ids
        sort by the time of their making.
        """
        folder = f"{self._folder}/{trial_id}"
        for name in self._folders(folder):
            if name < than:
                self._files.remove_folder(f"{folder}/{name}")

    def drop_other_trials(self, *, keep: Collection[str]) -> None:
        """Remove everything but those trials'."""
        if not keep:
            self._files.remove_folder(self._folder)
        for name in self._folders(self._folder):
            if name not in keep:
                self._files.remove_folder(f"{self._folder}/{name}")

    def _folders(self, folder: str) -> Sequence[str]:
        try:
            return self._files.folders(folder)
        except (CheckpointsUnavailableError, OSError):
            return ()
