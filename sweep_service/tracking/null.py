"""The tracker for where nobody looks: every call is accepted, nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sweep_service.domain.trial import Report, Sweep, Trial


class NullTracker:
    """Implements :class:`sweep_service.tracker_port.Tracker`; refs are the ids themselves. Never raises."""

    def open_sweep(self, sweep: Sweep) -> str:
        return sweep.id

    def open_trial(self, sweep: Sweep, sweep_ref: str, trial: Trial) -> str:
        return trial.id

    def log_reports(self, refs: Mapping[str, str], reports: Sequence[Report]) -> None: ...

    def close_trial(self, ref: str, trial: Trial) -> None: ...

    def close_sweep(
        self, ref: str, sweep: Sweep, trials: Sequence[Trial], curves: Mapping[str, Sequence[Report]]
    ) -> None: ...

    def log_model(self, ref: str, sweep: Sweep, trial: Trial, checkpoint: str) -> None: ...

    def register_model(self, ref: str, sweep: Sweep, trial: Trial, name: str) -> None: ...
