"""Which parameters mattered: what the search says, asked so that its faults harm nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from sweep_service.domain.states import SweepState
from sweep_service.domain.trial import Sweep, Trial

logger = logging.getLogger(__name__)

# (sweep, trials) -> the share of each searched parameter, or None where they say too little
WeighParameters = Callable[[Sweep, Sequence[Trial]], Mapping[str, float] | None]


class Importance:
    """The shares of the parameters of one sweep, weighed once: its end is tried again and again while the tracking
    server is away, and its trials are the same each time.
    """

    def __init__(self, weigh: WeighParameters) -> None:
        self._weigh = weigh
        self._shares: Mapping[str, float] | None = None
        self._is_weighed = False

    def of(self, sweep: Sweep, trials: Sequence[Trial]) -> Mapping[str, float] | None:
        """None: the sweep ends without results, or they are unknown; no sweep ends otherwise, or later, for that."""
        if sweep.state not in (SweepState.COMPLETED, SweepState.STOPPED):
            return None
        if not self._is_weighed:
            self._is_weighed = True
            try:
                self._shares = self._weigh(sweep, trials)
            except Exception:  # of a model of the results, which may be of any kind
                logger.exception("The importance of the parameters of %s cannot be told.", sweep.id)
        return self._shares
