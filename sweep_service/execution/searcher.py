"""Tune asks for packs and whether to stop; a supply of packs answers.

Tune copies and pickles its search algorithm and its stopper. What must not be copied stays in this module, by the name
of the conductor.
"""

from __future__ import annotations

from typing import Any

from ray.tune import Stopper
from ray.tune.search import Searcher

from sweep_service.services.generation import Pause
from sweep_service.services.supply import PackSupply

_SUPPLIES: dict[str, PackSupply] = {}


def register(conductor: str, supply: PackSupply) -> None:
    """Let the searcher and the stopper of that name find their supply."""
    _SUPPLIES[conductor] = supply


def forget(conductor: str) -> None:
    """The opposite of :func:`register`."""
    _SUPPLIES.pop(conductor, None)


class PackSearcher(Searcher):
    """Hands Tune one pack at a time, and passes on that a pack is over."""

    def __init__(self, conductor: str) -> None:
        super().__init__(metric="lanes", mode="max")
        self._conductor = conductor

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the pack that Tune will call ``trial_id``; None: nothing now; FINISHED: nothing ever."""
        pause = _SUPPLIES[self._conductor].next_pack(trial_id)
        if pause is Pause.DONE:
            return self.FINISHED
        return None if pause is Pause.WAIT else {"conductor": self._conductor}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A pack has ended; by an error if its worker died, raised, or could not reach the conductor."""
        _SUPPLIES[self._conductor].pack_over(trial_id, lost=error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a generation is rebuilt from the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as for save."""


class PackStopper(Stopper):
    """Ends a Tune run in which packs wait for a place that nobody needs any more: Tune itself would wait for ever."""

    def __init__(self, conductor: str) -> None:
        self._conductor = conductor

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Never one pack: its worker ends by itself, or is killed."""
        return False

    def stop_all(self) -> bool:
        return _SUPPLIES[self._conductor].is_over
