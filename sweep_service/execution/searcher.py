"""Tune asks for packs; a generation gives them."""

from __future__ import annotations

from typing import Any

from ray.tune.search import Searcher

from sweep_service.services.generation import Generation, Pause

# Tune copies and pickles its search algorithm; what it must not copy stays here, by the conductor's name.
_GENERATIONS: dict[str, Generation] = {}


class PackSearcher(Searcher):
    """Hands Tune one pack at a time and tells the generation when a pack is over.

    A generation's errors must not get lost in Tune's loop, which treats an exception of a searcher as its own end:
    the first is kept in ``fault`` and the search declared finished.
    """

    def __init__(self, conductor: str, generation: Generation) -> None:
        super().__init__(metric="lanes", mode="max")
        self._conductor = conductor
        _GENERATIONS[conductor] = generation
        self.faults: list[Exception] = []

    def suggest(self, trial_id: str) -> Any:
        """The configuration of the pack that Tune will call ``trial_id``; None: nothing now; FINISHED: nothing ever."""
        if self.faults:
            return self.FINISHED
        try:
            pause = self._generation.next_pack(trial_id)
        except Exception as error:  # noqa: BLE001 - raised again by the conductor, once Tune has wound up
            self.faults.append(error)
            return self.FINISHED
        if pause is Pause.DONE:
            return self.FINISHED
        return None if pause is Pause.WAIT else {"conductor": self._conductor}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A pack has ended, by an error if its worker died or could not reach the conductor."""
        try:
            self._generation.pack_over(trial_id, lost=error, message="Its worker process died.")
        except Exception as fault:  # noqa: BLE001 - as above
            self.faults.append(fault)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a generation is rebuilt from the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as for save."""

    def close(self) -> None:
        """Let go of the generation."""
        _GENERATIONS.pop(self._conductor, None)

    @property
    def _generation(self) -> Generation:
        return _GENERATIONS[self._conductor]

    def __deepcopy__(self, memo: dict) -> PackSearcher:
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "faults": []}
