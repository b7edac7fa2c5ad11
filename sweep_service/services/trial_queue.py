"""The trials that wait for a pack, and who gets them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from sweep_service.domain.resources import Resources
from sweep_service.domain.trial import Trial
from sweep_service.services.packing import Pack, Packing


class NewTrials(Protocol):
    """Where trials come from when none waits."""

    def ask(self) -> Sequence[str]:
        """New trials, stored; none: for now there is none to make."""
        ...

    @property
    def num_askable(self) -> int:
        """About how many could be asked for now."""
        ...


class TrialQueue:
    """Trials that exist and need a pack, the next one first. Those that have ended meanwhile are passed over."""

    def __init__(self, *, resources: Resources, packing: Packing, trials: Mapping[str, Trial], new: NewTrials) -> None:
        """``trials``: every trial by id, as it is at any time."""
        self._resources = resources
        self._packing = packing
        self._trials = trials
        self._new = new
        self._waiting: deque[str] = deque()

    def put(self, trial_ids: Iterable[str]) -> None:
        """Last."""
        self._waiting.extend(trial_ids)

    def put_first(self, trial_ids: Iterable[str]) -> None:
        """Before all others, in this order."""
        self._waiting.extendleft(reversed(list(trial_ids)))

    def holds(self, trial_id: str) -> bool:
        """Whether that trial waits."""
        return trial_id in self._waiting

    def clear(self) -> None:
        """Nobody needs a pack any more."""
        self._waiting.clear()

    def take(self) -> str | None:
        """The next one; None: there is none for now."""
        while True:
            while self._waiting:
                trial_id = self._waiting.popleft()
                if not self._trials[trial_id].state.is_ended:
                    return trial_id
            if not self._ask():
                return None

    def fill(self, pack: Pack, *, places: int, num_live: int, num_idle: int) -> None:
        """Give a pack with ``num_live`` trials more of its structure, up to so many places: those that wait, then new
        ones. ``num_idle`` packs that could run besides get their share of what there is, unless a number of lanes is
        asked for.
        """
        wanted = places - num_live
        if self._resources.lanes == "auto" and num_idle > 0:
            available = sum(self._fits(trial_id, pack, places) for trial_id in self._waiting) + self._new.num_askable
            own = 0 if pack.node else num_live  # one that has not begun shares what it has got
            wanted = min(wanted, -(-(available + own) // (1 + num_idle)) - own)
        asks = wanted
        while wanted > 0:
            if found := [trial_id for trial_id in self._waiting if self._fits(trial_id, pack, places)][:wanted]:
                for trial_id in found:
                    self._waiting.remove(trial_id)
                pack.trial_ids += found
                wanted -= len(found)
            elif asks > 0 and (num_new := self._ask()):
                asks -= num_new  # those of another structure count as well: they wait for a pack of theirs
            else:
                return

    def _ask(self) -> int:
        new = self._new.ask()
        self.put(new)
        return len(new)

    def has_others_than(self, structure: str) -> bool:
        """Whether a trial waits that could not be trained in a pack of that structure."""
        waiting = [self._trials[trial_id] for trial_id in self._waiting]
        return any(not trial.state.is_ended and self._packing.structure(trial) != structure for trial in waiting)

    def _fits(self, trial_id: str, pack: Pack, places: int) -> bool:
        trial = self._trials[trial_id]
        is_alike = not trial.state.is_ended and self._packing.structure(trial) == pack.structure
        is_back = trial_id in pack.handed_out  # its worker has let it go, and takes it for gone
        return is_alike and not is_back and self._packing.most_company(trial_id, places) >= places
