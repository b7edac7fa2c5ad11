"""The door to where checkpoints lie: a folder that all nodes share, or a bucket of an object store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trainables.checkpoint import Checkpoint


class CheckpointFiles(Protocol):
    """Files under names that mean the same on every node: absolute paths, or ``s3://bucket/key``; their parts are
    joined by ``/``. Folders need not be made, and are gone with their last file, or may stay empty.

    Every method may raise:
    - CheckpointsUnavailableError: there is no room, or nothing answers; the same call may do later;
    - OSError: it is refused; of files that are not there, FileNotFoundError.
    """

    def save(self, checkpoint: Checkpoint, name: str) -> None:
        """Write it: a reader finds the whole file or none, whatever dies meanwhile.

        Raises:
            TypeError: the checkpoint holds what could not be read again.
        """
        ...

    def load(self, name: str) -> Checkpoint:
        """Read one; runs no code from the file.

        Raises:
            CheckpointError: the file is damaged, is something else, or holds more than plain data.
        """
        ...

    def is_missing(self, name: str) -> bool:
        """Whether it is known at once that there is no file of that name, as seen from this node. A bucket is not
        asked, for its answer may take a minute: whoever reads the file finds out.
        """
        ...

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is no error."""
        ...

    def remove_folder(self, name: str) -> None:
        """Remove all files in and below it. Files that cannot be removed are no error."""
        ...

    def folders(self, name: str) -> Sequence[str]:
        """The last parts of the names of the folders in it, none where it is not there."""
        ...

    def write_text(self, text: str, name: str) -> None:
        """Write a small file as :meth:`save` does."""
        ...

    def read_text(self, name: str) -> str:
        """Read a small file."""
        ...
