"""The door to where people look at results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from sweep_service.domain.trial import Report, Sweep, Trial


class Tracker(Protocol):
    """Where people look at results. Every method may be repeated without harm, and may raise

    - TrackingUnavailableError: the server does not answer, or not well; the same call may do later;
    - TrackingRefusedError: the server will not take it; the same call will never do.
    """

    def open_sweep(self, sweep: Sweep) -> str:
        """The sweep's parent run, found by its tag or made."""
        ...

    def open_trial(self, sweep: Sweep, sweep_ref: str, trial: Trial) -> str:
        """The trial's run under the parent, found by its tag or made, with its parameters and tags."""
        ...

    def log_reports(self, refs: Mapping[str, str], reports: Sequence[Report]) -> None:
        """Write the metrics of the reports; ``refs`` maps trial ids to their runs. What is refused is left out: the
        rest must get through.
        """
        ...

    def close_trial(self, ref: str, trial: Trial) -> None:
        """End the trial's run as the trial's state says; only after its last report has been logged."""
        ...

    def close_sweep(
        self, ref: str, sweep: Sweep, trials: Sequence[Trial], curves: Mapping[str, Sequence[Report]]
    ) -> None:
        """Write the sweep's results (leaderboard, methods, verdict, report, plots), and end the parent run as its state
        says.

        ``sweep.state`` is the state that it is about to end in; ``sweep.results`` are complete. ``curves`` has what the
        best trial of each method reported, by the trial's id.
        """
        ...

    def log_model(self, ref: str, sweep: Sweep, trial: Trial, checkpoint: str) -> None:
        """Store the trial's model under the sweep's run, so that it loads wherever this package is installed.

        Raises:
            CheckpointsUnavailableError: the checkpoint cannot be read for now; the same call may do later.
            ModelUnusableError: no model comes out of the checkpoint.
        """
        ...

    def register_model(self, ref: str, sweep: Sweep, trial: Trial, name: str) -> str | None:
        """Make the model that ``log_model`` has stored the newest version of the registered model of that name, and its
        champion; the version. None: models are not registered here.
        """
        ...
