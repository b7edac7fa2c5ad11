"""Randomness of a lane: seeded explicitly, because a worker process trains one lane after another."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RngState:
    """State of every global generator that :func:`seed_globally` seeds, as tensors, dicts, lists and numbers."""

    cpu: Tensor
    cuda: Sequence[Tensor]  # one a device; empty where there is none
    python: Mapping[str, Any]
    numpy: Mapping[str, Any]

    def of_device(self, device: torch.device) -> Tensor:
        """The state of torch's generator there."""
        return self.cpu if device.type == "cpu" else self.cuda[_number(device)]

    def with_device(self, device: torch.device, state: Tensor) -> RngState:
        """The same, but for torch's generator there."""
        if device.type == "cpu":
            return replace(self, cpu=state)
        own = _number(device)
        return replace(self, cuda=[state if index == own else other for index, other in enumerate(self.cuda)])


def default_device() -> torch.device:
    """The first GPU that this process may see, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_globally(seed: int) -> None:
    """Seed every global generator that a model's code may draw from (Python, NumPy, torch on all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def new_generator(seed: int, stream: int) -> torch.Generator:
    """A generator of its own for one purpose of a lane; streams of one seed are unrelated to each other."""
    # SeedSequence mixes the pair, so that seed 1, stream 0 and seed 0, stream 1 do not meet.
    mixed = np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(mixed >> 1))


def capture_rng() -> RngState:
    """Remember the global generators."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    version, words, gauss = random.getstate()
    return RngState(
        cpu=torch.get_rng_state(),
        cuda=tuple(cuda),
        python={"version": version, "words": torch.tensor(words), "gauss": gauss},
        numpy=_without_arrays(np.random.get_state(legacy=False)),
    )


def restore_rng(state: RngState) -> None:
    """Put the global generators back. States of GPUs that this machine lacks are dropped."""
    torch.set_rng_state(state.cpu.cpu())
    if torch.cuda.is_available():
        for index, device_state in enumerate(state.cuda[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device_state.cpu(), index)
    python = state.python
    words = torch.as_tensor(python["words"]).tolist()  # earlier checkpoints have a list
    random.setstate((python["version"], tuple(words), python["gauss"]))
    np.random.set_state(_with_arrays(state.numpy))


def saved_for(states: Sequence[Tensor], device: torch.device) -> Tensor | None:
    """The generator's state for a lane that goes on on that GPU, out of its checkpoint; None: it was on a CPU.

    A checkpoint has one, of the GPU that the lane was on, whichever that was. Earlier ones have one for every GPU of
    their machine, and do not say which was the lane's: that of the same number, as far as there is one.
    """
    if device.type == "cpu" or not states:
        return None
    return states[min(_number(device), len(states) - 1)]


def _number(device: torch.device) -> int:
    """Of a GPU; without one of its own it is the process's present one."""
    return torch.cuda.current_device() if device.index is None else device.index


def _without_arrays(value: Any) -> Any:
    """NumPy's state with the bytes of its arrays: a checkpoint builds nothing of NumPy's when it is read, and a list of
    hundreds of numbers would take longer to write than a network.
    """
    if isinstance(value, Mapping):
        return {key: _without_arrays(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "bytes": torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8)}
    return value.tolist() if isinstance(value, np.generic) else value


def _with_arrays(value: Any) -> Any:
    """The opposite. Lists, which earlier checkpoints have, NumPy takes as they are."""
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"dtype", "bytes"}:
        return np.frombuffer(value["bytes"].numpy().tobytes(), dtype=value["dtype"])
    return {key: _with_arrays(item) for key, item in value.items()}
