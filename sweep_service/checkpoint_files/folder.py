"""Checkpoints in a folder that all nodes share."""

from __future__ import annotations

import errno
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sweep_service.domain.errors import CheckpointsUnavailableError

if TYPE_CHECKING:
    from trainables.checkpoint import Checkpoint

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class FolderFiles:
    """Implements :class:`sweep_service.checkpoint_port.CheckpointFiles`; names are absolute paths."""

    def save(self, checkpoint: Checkpoint, name: str) -> None:
        with _room_for(name):
            checkpoint.save(Path(name))

    def load(self, name: str) -> Checkpoint:
        from trainables.checkpoint import Checkpoint

        return Checkpoint.load(Path(name))

    def is_missing(self, name: str) -> bool:
        return not Path(name).exists()

    def remove(self, name: str) -> None:
        Path(name).unlink(missing_ok=True)

    def remove_folder(self, name: str) -> None:
        shutil.rmtree(name, ignore_errors=True)

    def folders(self, name: str) -> Sequence[str]:
        try:
            return [entry.name for entry in Path(name).iterdir() if entry.is_dir()]
        except FileNotFoundError:
            return []

    def write_text(self, text: str, name: str) -> None:
        path = Path(name)
        new = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        with _room_for(name):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                new.write_text(text)
                new.replace(path)
            finally:
                new.unlink(missing_ok=True)

    def read_text(self, name: str) -> str:
        return Path(name).read_text()


@contextmanager
def _room_for(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        fact = f"there is no room for a checkpoint in {Path(name).parent}: {error.strerror}"
        raise CheckpointsUnavailableError(fact) from error
