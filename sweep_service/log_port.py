"""The door to what trials' code has said: a part of :class:`sweep_service.ports.SweepStore`, whose laws hold here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sweep_service.domain.logs import KeptLine, LogLines
from sweep_service.domain.trial import Lease


class LogStore(Protocol):
    """Lines of attempts, in the order in which they said them.

    Laws, for every implementation:

    - lines have a seq that rises in the order of their storing; who goes on after the last one that it got gets none
      twice, and misses none that is kept;
    - of an attempt the first ``HEAD_BYTES`` and the last ``TAIL_BYTES`` are kept, give or take a few kilobytes, and
      each kept line tells how many right before it are not, whether they were dropped here or never came.
    """

    def append_logs(self, lease: Lease, batches: Sequence[LogLines]) -> None:
        """Store lines of attempts of the lease's sweep, whether these have ended or not. Lines that are stored already,
        by their number within the attempt, are left out: a call whose answer was lost may be made again. Text that no
        database can hold is replaced, and lines that are too long are clipped. No event tells of it.

        Raises:
            LeaseLostError.
            NotFoundError: there is no such attempt of that trial in the lease's sweep.
        """
        ...

    def list_trial_logs(self, trial_id: str, *, after: int = 0, limit: int = 50) -> Sequence[KeptLine]:
        """By seq, only those above ``after``. Raises TrialNotFoundError."""
        ...

    def list_sweep_logs(self, sweep_id: str, *, after: int = 0, limit: int = 50) -> Sequence[KeptLine]:
        """Of all its trials, by seq, only those above ``after``. Raises SweepNotFoundError."""
        ...
