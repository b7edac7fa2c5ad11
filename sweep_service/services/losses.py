"""What follows for trials whose pack was lost: whose fault it was, as far as it is known, and who tries again.

``retries`` bounds a trial's own failures. What a cluster takes away is bounded too, or a sweep on nodes that come and
go faster than a checkpoint is written would never end; but so generously that it is no trial's fate by bad luck.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

# Packs that a trial may lose in a row by no fault of its own. Where nodes live for an hour, one which takes ten minutes
# from checkpoint to checkpoint loses three in a row once in 300 times, and twenty never.
MOST_TAKEN = 20


class Loss(StrEnum):
    """Why a pack was lost, by what is known of its worker and its node."""

    WORKER = "worker"  # its process died by itself, or gave up, on a node that lives
    MEMORY = "memory"  # its process was killed, for its node ran low on memory
    NODE = "node"  # its node is gone
    PLACE = "place"  # taken from it while its process went on, or before its trials had begun

    @property
    def may_be_own_making(self) -> bool:
        """Whether its trials can have been the reason."""
        return self in (Loss.WORKER, Loss.MEMORY)

    def told(self, node: str, explanation: str) -> str:
        """What is said of the attempts that end with it. ``explanation``: what a worker or the controller has said, if
        anything; as a node goes, symptoms alone.
        """
        if self is Loss.NODE:
            return f"The node {node} is gone."
        if self is Loss.MEMORY:
            return f"Its worker was killed, because the node {node} ran low on memory."
        return explanation or _UNEXPLAINED[self]


_UNEXPLAINED = {Loss.WORKER: "Its worker process died.", Loss.PLACE: "Its place on a node was taken from it."}


@dataclass(frozen=True, kw_only=True)
class LostPack:
    """A pack that was lost."""

    loss: Loss
    num_lanes: int  # trials in it that had not ended
    is_trying: bool  # it was to find out how many trials of its structure a pack takes
    message: str

    @property
    def is_own_making(self) -> bool:
        """Whether it was the trial in it. In company nobody knows whose fault it was; nor where the worker was trying
        out how many trials can be trained at once, which may have been too many.
        """
        return self.loss.may_be_own_making and self.num_lanes == 1 and not self.is_trying

    @property
    def most_company(self) -> int | None:
        """Lanes of the packs that its trials go on in: half as many, so that what kills its worker is alone in the end.
        None: as many as before.
        """
        return self.num_lanes // 2 if self.loss.may_be_own_making and self.num_lanes > 1 else None


@dataclass
class _Tally:
    """Packs lost in a row."""

    own: int = 0  # by the trial's own making
    taken: int = 0


class Losses:
    """The packs that each trial of a generation has lost since its last checkpoint."""

    def __init__(self, *, retries: int) -> None:
        self._retries = retries
        self._tallies: dict[str, _Tally] = {}

    def why_over(self, trial_id: str, lost: LostPack) -> str:
        """Why a trial that loses this pack too is not tried again; empty: it is."""
        tally = self._with(trial_id, lost)
        if tally.own > self._retries:
            return f"Its workers died {tally.own} times (retries: {self._retries}). {lost.message}".strip()
        if tally.taken > MOST_TAKEN:
            return (
                f"Nodes, or places on them, were taken from it {tally.taken} times in a row, without a new checkpoint "
                f"in between. {lost.message}"
            ).strip()
        return ""

    def add(self, trial_id: str, lost: LostPack) -> None:
        """The trial has lost that pack, and is tried again."""
        self._tallies[trial_id] = self._with(trial_id, lost)

    def forget(self, trial_ids: Collection[str]) -> None:
        """These have got further: a new checkpoint, or their end."""
        for trial_id in trial_ids:
            self._tallies.pop(trial_id, None)

    def _with(self, trial_id: str, lost: LostPack) -> _Tally:
        tally = self._tallies.get(trial_id, _Tally())
        return _Tally(own=tally.own + lost.is_own_making, taken=tally.taken + (not lost.loss.may_be_own_making))
