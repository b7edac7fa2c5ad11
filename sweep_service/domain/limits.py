"""What sweeps ask of the cluster, and how many of their packs the service lets run at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from sweep_service.domain.resources import Resources
from sweep_service.domain.space import Strict
from sweep_service.domain.states import SweepReason, SweepState


@dataclass(frozen=True, kw_only=True)
class Demand:
    """A sweep that has not ended, as those see it who share out the cluster."""

    id: str
    project: str
    labels: Mapping[str, str]
    priority: int
    state: SweepState
    reason: SweepReason | None
    message: str
    resources: Resources
    num_packs: int  # that run now

    @property
    def wanted(self) -> int:
        """Packs that it would run if it could. One that is to end starts nothing new; but a trial of one that stops may
        have lost its pack, and is trained to its end.
        """
        if self.state is SweepState.STOPPING:
            return min(max(self.num_packs, 1), self.resources.parallel)
        if self.state in (SweepState.PAUSING, SweepState.CANCELLING):
            return self.num_packs
        return self.resources.parallel


class PackLimit(Strict):
    """How many packs may run at once, over all sweeps with that label, or of that project."""

    label: Annotated[str, StringConstraints(pattern=r"^[^:]+:[^:]+$")] | None = Field(
        default=None, description="KEY:VALUE, such as team:ads."
    )
    project: Annotated[str, StringConstraints(min_length=1)] | None = None
    packs: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.label is None) == (self.project is None):
            raise ValueError("name either a label, such as team:ads, or a project")
        return self

    def applies_to(self, project: str, labels: Mapping[str, str]) -> bool:
        """Whether it counts the packs of a sweep with these."""
        if self.label is None:
            return self.project == project
        key, _, value = self.label.partition(":")
        return labels.get(key) == value

    @property
    def told(self) -> str:
        """What a sweep hears that would run more packs if there were no such limit."""
        packs = "1 pack" if self.packs == 1 else f"{self.packs} packs"
        whose = f"the project {self.project}" if self.label is None else f"the label {self.label}"
        return f"Held back by the limit of {packs} at once for {whose}."
