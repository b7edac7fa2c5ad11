"""Events as the API shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from sweep_service.domain.events import Event, EventKind


class EventView(BaseModel):
    """One thing that happened to a sweep."""

    seq: int = Field(description="1, 2, 3, … within the sweep, without gaps.")
    kind: EventKind
    trial_id: str | None
    message: str
    data: dict[str, Any]
    at: datetime

    @classmethod
    def of(cls, event: Event) -> EventView:
        return cls(
            seq=event.seq,
            kind=event.kind,
            trial_id=event.trial_id,
            message=event.message,
            data=dict(event.data),
            at=event.at,
        )


class EventPage(BaseModel):
    """Events of a sweep, by seq."""

    events: list[EventView]
    next_after: int = Field(description="What to ask for next as `after`; more may have happened by then.")
    has_more: bool = Field(description="Whether more had happened already.")
