"""The trials that the comparison has made, and what they measured on the test split."""

from __future__ import annotations

from collections.abc import Sequence

from sweep_service.domain.states import TrialEnding, TrialState
from sweep_service.domain.trial import Role, Trial
from sweep_service.domain.verdict import DIVERGED

VERDICT_METRIC = "test/normalized_loss"


def repeats_of(original: Trial | None, trials: Sequence[Trial]) -> list[Trial]:
    """Those of the trials that repeat the original with fresh seeds."""
    return [trial for trial in trials if original and trial.role is Role.CONFIRM and trial.confirms == original.id]


def values_by_seed(repeats: Sequence[Trial], metric: str) -> dict[int, float]:
    """By seed. A repeat that ended in NaN or infinity has a value that says so; one that did not end by itself (worker
    lost, code raised, memory ran out, cancelled) has none.
    """
    values = {t.seed: t.metrics[metric] for t in repeats if t.state is TrialState.COMPLETED and metric in t.metrics}
    return values | {t.seed: DIVERGED for t in repeats if t.ending is TrialEnding.NON_FINITE}
