"""What trials' code has said, as the API shows it."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from sweep_service.domain.logs import KeptLine, LogStream
from sweep_service.services.pages import Page


class LogLineView(BaseModel):
    """A line that a trial's code has printed or logged."""

    seq: int = Field(description="Rises in the order of arrival; has gaps: a sweep's trials share the numbers.")
    trial_id: str
    trial_number: int
    attempt: int = Field(description="The attempt's number within the trial.")
    at: datetime
    stream: LogStream = Field(description="`log`: Python's logging.")
    level: str = Field(description="Of a logged line, such as WARNING; empty for a printed one.")
    text: str = Field(description="Without its line end; of a line that is too long, the beginning.")
    left_out: int = Field(description="Lines of the attempt right before this one that are not kept.")

    @classmethod
    def of(cls, kept: KeptLine) -> LogLineView:
        return cls(
            seq=kept.seq,
            trial_id=kept.trial_id,
            trial_number=kept.trial_number,
            attempt=kept.attempt,
            at=kept.line.at,
            stream=kept.line.stream,
            level=kept.line.level,
            text=kept.line.text,
            left_out=kept.left_out,
        )


class LogPage(BaseModel):
    """Lines in the order of their arrival. Of an attempt that says very much, the beginning and the end are kept."""

    lines: list[LogLineView]
    next_after: int = Field(description="What to ask for next as `after`; more may have been said by then.")
    has_more: bool = Field(description="Whether more had been said already.")

    @classmethod
    def of(cls, page: Page[KeptLine], *, after: int) -> LogPage:
        return cls(
            lines=[LogLineView.of(kept) for kept in page.items],
            next_after=page.items[-1].seq if page.items else after,
            has_more=page.has_more,
        )
