"""Randomness of a lane: seeded explicitly, because a worker process trains one lane after another."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
        python={"version": version, "words": list(words), "gauss": gauss},
        numpy=_without_arrays(np.random.get_state(legacy=False)),
    )


def restore_rng(state: RngState) -> None:
    """Put the global generators back. States of GPUs that this machine lacks are dropped."""
    torch.set_rng_state(state.cpu.cpu())
    if torch.cuda.is_available():
        for index, device_state in enumerate(state.cuda[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device_state.cpu(), index)
    python = state.python
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    np.random.set_state(dict(state.numpy))


def _without_arrays(value: Any) -> Any:
    """NumPy's state with lists for its arrays, which it takes back as well: a checkpoint builds nothing of NumPy's when
    it is read. Not tensors, since the words of some generators are unsigned 64-bit numbers.
    """
    if isinstance(value, Mapping):
        return {key: _without_arrays(item) for key, item in value.items()}
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
