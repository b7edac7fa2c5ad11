"""Where checkpoints lie: each in a folder or in a bucket, as its name says."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.checkpoint_port import CheckpointFiles

if TYPE_CHECKING:
    from trainables.checkpoint import Checkpoint


@cache
def checkpoint_files() -> CheckpointFiles:
    """This process's. Nothing is asked of a bucket before a name in one comes."""
    return _FilesByName()


class _FilesByName:
    """Implements :class:`sweep_service.checkpoint_port.CheckpointFiles`. Names of both kinds may come: a sweep that
    rests while its service moves to a bucket has checkpoints in a folder still.
    """

    def __init__(self) -> None:
        self._folder: CheckpointFiles = FolderFiles()

    @cached_property
    def _bucket(self) -> CheckpointFiles:
        from sweep_service.checkpoint_files.bucket import BucketFiles  # boto3 takes a moment, and most need it not

        return BucketFiles()

    def _of(self, name: str) -> CheckpointFiles:
        return self._bucket if name.startswith("s3://") else self._folder

    def save(self, checkpoint: Checkpoint, name: str) -> None:
        self._of(name).save(checkpoint, name)

    def load(self, name: str) -> Checkpoint:
        return self._of(name).load(name)

    def is_missing(self, name: str) -> bool:
        return self._of(name).is_missing(name)

    def remove(self, name: str) -> None:
        self._of(name).remove(name)

    def remove_folder(self, name: str) -> None:
        self._of(name).remove_folder(name)

    def folders(self, name: str) -> Sequence[str]:
        return self._of(name).folders(name)

    def write_text(self, text: str, name: str) -> None:
        self._of(name).write_text(text, name)

    def read_text(self, name: str) -> str:
        return self._of(name).read_text(name)
