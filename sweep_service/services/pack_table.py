"""The packs of a generation that are not over: who is in which, and how many there may be."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from sweep_service.domain.errors import PackOverError, StoreUnavailableError
from sweep_service.domain.trial import Trial
from sweep_service.services.packing import Pack, Packing
from sweep_service.services.trial_queue import TrialQueue


class PackTable:
    """Packs by key, the oldest first. Not thread-safe: the generation's lock is held around every call."""

    def __init__(self, *, trials: Mapping[str, Trial], queue: TrialQueue, packing: Packing) -> None:
        """``trials``: every trial by id, as it is at any time."""
        self._trials = trials
        self._queue = queue
        self._packing = packing
        self._packs: dict[str, Pack] = {}

    def __len__(self) -> int:
        return len(self._packs)

    def __iter__(self) -> Iterator[Pack]:
        return iter(self._packs.values())

    def find(self, key: str) -> Pack | None:
        """None: there is none, or it is over."""
        return self._packs.get(key)

    def known(self, key: str) -> Pack:
        """Raises PackOverError: it has been given up."""
        pack = self._packs.get(key)
        if pack is None:
            raise PackOverError(f"The pack {key} has been given up.")
        return pack

    def set_aside(self, key: str, trial_id: str, *, num_idle: int) -> None:
        """A new pack for that trial and those that may be trained with it. ``num_idle`` packs could run besides.

        Raises:
            StoreUnavailableError: there is no such pack then; its trials wait again.
        """
        structure = self._packing.structure(self._trials[trial_id])
        pack = Pack(key=key, structure=structure, trial_ids=[trial_id])
        if self._packing.is_settled(structure):
            try:
                self._queue.fill(pack, places=self.places(pack), num_live=1, num_idle=num_idle)
            except StoreUnavailableError:
                self._queue.put_first(pack.trial_ids)
                raise
        self._packs[key] = pack

    def remove(self, pack: Pack) -> None:
        """It is over."""
        del self._packs[pack.key]

    def live(self, pack: Pack) -> Sequence[Trial]:
        """The pack's trials that have not ended."""
        trials = [self._trials[trial_id] for trial_id in pack.trial_ids]
        return [trial for trial in trials if not trial.state.is_ended]

    def places(self, pack: Pack) -> int:
        """Trials that it may train at once."""
        return self._packing.places(pack.structure, self.live(pack))

    def is_trying(self, pack: Pack) -> bool:
        """Whether its worker finds out how many trials of its structure can be trained at once."""
        return not self._packing.is_settled(pack.structure) and self.places(pack) > 1

    @property
    def trial_ids(self) -> set[str]:
        """Of all that are in a pack, or were when they ended."""
        return {trial_id for pack in self for trial_id in pack.trial_ids}

    @property
    def attempt_ids(self) -> set[str]:
        """Of the attempts that the packs make."""
        return {attempt_id for pack in self for attempt_id in pack.attempts.values()}

    @property
    def is_training(self) -> bool:
        """Whether a trial that has not ended is being trained."""
        return any(trial.id in pack.attempts for pack in self for trial in self.live(pack))

    def put_back(self, pack: Pack) -> None:
        """Nobody will train what was set aside for it."""
        self._queue.put_first(trial.id for trial in self.live(pack))
        pack.trial_ids.clear()

    def put_back_waiting(self) -> None:
        """Packs whose worker is not up yet will find nothing to do."""
        for pack in self:
            if not pack.node:
                self.put_back(pack)

    def put_back_surplus(self, pack: Pack) -> None:
        """Since its trials were set aside, another pack may have found out that fewer can be trained at once."""
        surplus = [trial.id for trial in self.live(pack)[self.places(pack) :] if trial.id not in pack.attempts]
        self._queue.put_first(surplus)
        pack.trial_ids = [trial_id for trial_id in pack.trial_ids if trial_id not in surplus]

    def make_way(self, *, most: int, startable: int) -> None:
        """Of more packs than may run now the newest give way, first those that have not begun: their trials leave them
        at their next report, with a checkpoint, and wait for another. ``startable``: so many of them all may begin.
        """
        for place, pack in enumerate(sorted(self, key=lambda pack: not pack.node)):
            pack.gives_way = place >= (most if pack.node else startable)
            if pack.gives_way and not pack.node:
                self.put_back(pack)

    def move_away(self, keys: Collection[str]) -> None:
        """These are to end, for their nodes leave: their trials leave them as in :meth:`make_way`."""
        for key in keys:
            if pack := self.find(key):
                pack.must_move = True

    def unheld(self) -> Sequence[str]:
        """Trials that somebody must train and nobody knows of: neither in a pack nor in the queue; by number."""
        held = self.trial_ids
        found = [t for t in self._trials.values() if not t.state.is_ended and t.id not in held]
        return [t.id for t in sorted(found, key=lambda t: t.number) if not self._queue.holds(t.id)]
