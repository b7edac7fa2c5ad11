"""How much memory a family of processes takes at its peak.

The sum over its processes of the proportional set size (PSS): pages that several of them share, such as libraries and
Ray's object store, count once in all. Where the system does not tell it, the unshared pages alone (USS).
"""

from __future__ import annotations

import contextlib
import threading
from types import TracebackType
from typing import Self

import psutil

from benchmarks.sweep_throughput_processes import Family

INTERVAL_S = 2.0  # a look at all processes takes tens of milliseconds, which they lack
MEGABYTE = 1e6


class PeakMemory:
    """Looks twice a second, in a thread, for the time of the block."""

    def __init__(self, family: Family, interval_s: float = INTERVAL_S) -> None:
        self.peak_mb = 0.0
        self._family = family
        self._interval_s = interval_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.peak_mb = max(self.peak_mb, memory_mb(self._family))
            if self._over.wait(self._interval_s):
                return


def memory_mb(family: Family) -> float:
    """What it takes now, in 10⁶ bytes."""
    total = 0
    for process in family.members():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended meanwhile
            info = process.memory_full_info()
            total += getattr(info, "pss", info.uss)
    return total / MEGABYTE
