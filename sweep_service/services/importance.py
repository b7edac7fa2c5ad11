"""Which parameters mattered: what the search says, asked so that its faults harm nobody."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from sweep_service.domain.states import SweepState
from sweep_service.domain.trial import Sweep, Trial

logger = logging.getLogger(__name__)

# (sweep, trials) -> the share of each searched parameter, or None where they say too little
WeighParameters = Callable[[Sweep, Sequence[Trial]], Mapping[str, float] | None]


def importance_of(weigh: WeighParameters, sweep: Sweep, trials: Sequence[Trial]) -> Mapping[str, float] | None:
    """The shares of the parameters of a sweep that ends with results. None: they are unknown; no sweep ends otherwise,
    or later, for that.
    """
    if sweep.state not in (SweepState.COMPLETED, SweepState.STOPPED):
        return None
    try:
        return weigh(sweep, trials)
    except Exception:  # of a model of the results, which may be of any kind
        logger.exception("The importance of the parameters of %s cannot be told.", sweep.id)
        return None
