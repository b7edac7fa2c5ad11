"""What a generation is to do with its trials, by what users have asked for and by whether its process is to end."""

from __future__ import annotations

from dataclasses import dataclass

from sweep_service.domain.states import SweepState

_GOING_ON = (SweepState.RUNNING, SweepState.STOPPING)  # what has started is trained on


@dataclass(kw_only=True)
class Course:
    """One wish may overtake another, and the end of the process comes on top of any."""

    winding_up: SweepState = SweepState.RUNNING  # PAUSING, STOPPING or CANCELLING once a user has asked for it
    is_leaving: bool = False  # this process is to end

    @property
    def makes_trials(self) -> bool:
        """Whether new ones may be asked for."""
        return self.winding_up is SweepState.RUNNING and not self.is_leaving

    @property
    def trains_on(self) -> bool:
        """Whether trials may start, and those that run go on."""
        return self.winding_up in _GOING_ON and not self.is_leaving

    @property
    def lets_rest(self) -> bool:
        """Whether what runs is to leave its pack with a checkpoint, and nothing is to start."""
        return self.is_paused or self.hands_over

    @property
    def is_paused(self) -> bool:
        return self.winding_up is SweepState.PAUSING

    @property
    def is_stopped(self) -> bool:
        return self.winding_up is SweepState.STOPPING

    @property
    def is_cancelled(self) -> bool:
        return self.winding_up is SweepState.CANCELLING

    @property
    def hands_over(self) -> bool:
        """Whether the next generation is to go on with what runs."""
        return self.is_leaving and self.winding_up in _GOING_ON
