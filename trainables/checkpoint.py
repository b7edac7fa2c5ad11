"""All that a lane needs to go on as if it had never stopped."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from trainables.catalog import ParameterValue

FORMAT_VERSION = 3  # 3: what GradNorm knows of stuck tasks; 2: NumPy's and Python's generators

_PLAIN = (type(None), bool, int, float, str)


class CheckpointError(ValueError):
    """The checkpoint cannot be read, or does not belong to the lane that it was given to."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A lane between two steps. Tensors are on the CPU and belong to the checkpoint alone.

    Only tensors, dicts, lists, strings and numbers, as ``plain`` makes them, so that it can be read with
    ``weights_only=True``.
    """

    step: int  # optimiser steps done
    balancer: str
    params: Mapping[str, ParameterValue]  # the lane's
    task_names: Sequence[str]
    model: Mapping[str, Tensor]  # state_dict of the network
    optimizer: Mapping[str, Any]  # state_dict of its AdamW
    balancer_state: Mapping[str, Tensor]  # weights, L(0), the weights' own optimiser
    progress: Mapping[str, Tensor]  # the first step's losses; a report starts new sums, and is where checkpoints come
    rng: Mapping[str, Any]  # the global generators, the lane's own, and the place in the epoch

    def save(self, path: Path) -> None:
        """Write to ``path`` at once: a reader finds the whole file or none, after a power cut too.

        Raises:
            OSError: the file cannot be written. Nothing is left behind then.
            TypeError: it holds what could not be read again.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                self.write(file)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)  # os.replace: atomic on one file system
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def write(self, file: IO[bytes]) -> None:
        """Write to a file that is open.

        Raises:
            OSError: it cannot be written.
            TypeError: the checkpoint holds what could not be read again.
        """
        content = {field.name: getattr(self, field.name) for field in fields(self)}
        _check_plain(content)
        _dump({"format_version": FORMAT_VERSION, **content}, file)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint; runs no code from the file.

        Raises:
            FileNotFoundError: there is none.
            CheckpointError: the file is damaged, is something else, or holds more than plain data.
        """
        return cls._read(Path(path), str(path))

    @classmethod
    def read(cls, file: IO[bytes], name: str) -> Checkpoint:
        """:meth:`load`, from a file that is open for seeking; errors call it by that name."""
        return cls._read(file, name)

    @classmethod
    def _read(cls, source: Path | IO[bytes], name: str) -> Checkpoint:
        try:
            content = torch.load(source, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise CheckpointError(f"{name} cannot be read as a checkpoint: {error}") from error
        version = content.pop("format_version", None) if isinstance(content, dict) else None
        if version is None:
            raise CheckpointError(f"{name} is not a checkpoint")
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{name} has format {version}, which this version, of format {FORMAT_VERSION}, cannot read"
            )
        if set(content) != {field.name for field in fields(cls)}:
            raise CheckpointError(f"{name} is not a checkpoint")
        return cls(**content)


def plain(value: Any) -> Any:
    """The same value out of dicts, lists, numbers, strings and CPU tensors of its own (copied, detached).

    Raises:
        TypeError: something in it is none of these.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        # A StrEnum or a NumPy float is one of these too, but would be refused on reading.
        return value if type(value) in _PLAIN else _base_value(value)
    raise TypeError(f"a checkpoint holds plain data only, not {type(value).__name__}")


def _dump(content: Mapping[str, Any], file: IO[bytes]) -> None:
    """torch's writer, told that a disk is full, still writes an end, and complains of that instead."""
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise


def _check_plain(value: Any) -> None:
    if isinstance(value, Mapping):
        for item in value.values():
            _check_plain(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item)
    elif not (isinstance(value, Tensor) or type(value) in _PLAIN):
        raise TypeError(f"a checkpoint holds plain data only, not {type(value).__name__}")


def _base_value(value: Any) -> bool | int | float | str:
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"a checkpoint holds plain data only, not {type(value).__name__}")


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
