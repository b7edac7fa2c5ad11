"""The folders of a sweep's checkpoints: ``<root>/<sweep>/<trial>/<attempt>/step-….pt``.

An attempt writes to its own folder alone, so that a worker which was given up and trains on overwrites nothing. What
nobody will go on from is removed as soon as the store says so; a file that cannot be removed is no reason to fail.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path


class CheckpointFolders:
    """Those of one sweep."""

    def __init__(self, root: Path, sweep_id: str) -> None:
        self._folder = root / sweep_id

    def of_attempt(self, trial_id: str, attempt_id: str) -> Path:
        """Where that attempt writes; made by its worker."""
        return self._folder / trial_id / attempt_id

    def is_there(self, checkpoint: str) -> bool:
        """Whether the file still exists, as seen from this node."""
        return Path(checkpoint).is_file()

    def drop_trial(self, trial_id: str) -> None:
        """Remove what a trial has written."""
        shutil.rmtree(self._folder / trial_id, ignore_errors=True)

    def drop_earlier_attempts(self, trial_id: str, *, than: str) -> None:
        """Remove what earlier attempts have written, once ``than`` has a checkpoint of its own.

        Not later ones: a conductor that was overtaken may come to this when its successor's attempts have begun. Ids
        sort by the time of their making.
        """
        for folder in _folders(self._folder / trial_id):
            if folder.name < than:
                shutil.rmtree(folder, ignore_errors=True)

    def drop_other_trials(self, *, keep: Collection[str]) -> None:
        """Remove everything but those trials'."""
        for folder in _folders(self._folder):
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            self._folder.rmdir()  # empty


def _folders(parent: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from [entry for entry in parent.iterdir() if entry.is_dir()]
