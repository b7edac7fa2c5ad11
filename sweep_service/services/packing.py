"""The packs of a generation: who is in them, and how many trials one takes, by what has been learnt so far.

A pack of a structure that no pack has trained yet begins with one trial. Its worker finds out whether trials of that
structure can be trained together, and how many at once are worth it; from then on packs of it are filled at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from sweep_service.domain.packing import ALONE, not_fused_because, structure_of
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.trial import Trial
from sweep_service.services.losses import LostPack
from trainables.catalog import Trainable

MOST_OFFERED = 256  # lanes that a pack may find to be worth it


@dataclass(kw_only=True)
class Pack:
    """The trials that one worker trains."""

    key: str  # in its generation
    structure: str
    trial_ids: list[str]  # those that have ended among them
    attempts: dict[str, str] = field(default_factory=dict)  # trial id -> the attempt that this pack makes
    parted: dict[str, str] = field(default_factory=dict)  # the same of those that have left it before its end
    handed_out: set[str] = field(default_factory=set)  # trials that its worker has been told of
    node: str = ""  # where it runs, once it does
    gives_way: bool = False  # there are more packs than may run at once: its trials go on in others
    must_move: bool = False  # its node is about to leave the cluster: likewise
    lost: LostPack | None = None  # once it is over, and some of its trials are not

    @property
    def lets_go(self) -> bool:
        """Whether its trials are to leave it at their next report, to go on elsewhere."""
        return self.gives_way or self.must_move

    def part(self, trial_id: str) -> None:
        """The trial leaves the pack, which goes on; what it has said may still be on its way."""
        self.trial_ids.remove(trial_id)
        if trial_id in self.attempts:
            self.parted[trial_id] = self.attempts.pop(trial_id)


class Packing:
    """How many trials a pack may train at once."""

    def __init__(self, *, spec: SweepSpec, trainable: Trainable, most_at_once: int) -> None:
        """``most_at_once``: trials of the sweep that may run at once, whatever there is to run them on."""
        self._trainable = trainable
        self.amend(spec, most_at_once=most_at_once)
        self._places: dict[str, int] = {}  # by structure, as far as a worker has found out
        self._most_company: dict[str, int] = {}  # by trial that has failed in company: lanes of a pack of its
        self._structures: dict[str, str] = {}  # by trial

    def amend(self, spec: SweepSpec, *, most_at_once: int) -> None:
        """Go on under another spec. What workers have found out stays."""
        self._spec = spec
        self._offer = min(MOST_OFFERED, -(-most_at_once // spec.resources.parallel))

    def structure(self, trial: Trial) -> str:
        """Found out once a trial: whoever fills a pack looks at all that wait."""
        if trial.id not in self._structures:
            self._structures[trial.id] = structure_of(trial, self._trainable)
        return self._structures[trial.id]

    def is_settled(self, structure: str) -> bool:
        """Whether it is known how many trials of it a pack takes."""
        return structure in self._places

    def places(self, structure: str, trials: Iterable[Trial]) -> int:
        """Lanes of a pack of that structure with those trials in it; as long as it is not settled, the most there can
        be.
        """
        trials = list(trials)
        lanes = self._spec.resources.lanes
        wanted = self._places.get(structure, self._offer if lanes == "auto" else lanes)
        if any(not_fused_because(trial.params, self._spec.resources) for trial in trials):
            return ALONE
        return min([wanted, *(self.most_company(trial.id, wanted) for trial in trials)])

    def settle(self, structure: str, places: int) -> None:
        """A worker has found out, or run out of memory: so many at once, and never more."""
        self._places[structure] = min(places, self._places.get(structure, places))

    def most_company(self, trial_id: str, places: int) -> int:
        """Lanes of a pack that the trial may be in, of so many."""
        return self._most_company.get(trial_id, places)

    def limit_company(self, trial_id: str, num_lanes: int) -> None:
        """Its pack has died, or failed in a step: whose fault it was will show in packs of at most so many lanes."""
        self._most_company[trial_id] = max(ALONE, num_lanes)


def together(places: int) -> str:
    """What is said of so many lanes being worth it."""
    if places == ALONE:
        return "Trials are trained one by one: together they would take as long."
    return f"Up to {places} trials are trained together in a pack."
