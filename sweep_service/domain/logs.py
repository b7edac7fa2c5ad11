"""What a trial's code prints and logs while it trains, line by line, and how much of it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

MAX_LINE_CHARS = 4000  # of a longer line the beginning is kept, with a word on the rest
HEAD_BYTES = 256_000  # of an attempt's output, kept from its beginning …
TAIL_BYTES = 768_000  # … and to its end, which says why it failed; what lies between is dropped


class LogStream(StrEnum):
    """Where a line was written to."""

    STDOUT = "stdout"
    STDERR = "stderr"
    LOG = "log"  # Python's logging


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """One line, as it was said."""

    at: datetime
    stream: LogStream
    level: str = ""  # of a logged line, such as WARNING
    text: str  # without its line end

    @property
    def num_bytes(self) -> int:
        """What it counts for, its line end included."""
        return len(self.text.encode(errors="replace")) + 1


@dataclass(frozen=True, kw_only=True)
class LogLines:
    """Lines that an attempt has said one after the other."""

    trial_id: str
    attempt_id: str
    first: int  # how many lines the attempt had said before these: tells what comes twice and what never came
    lines: tuple[LogLine, ...]


@dataclass(frozen=True, kw_only=True)
class KeptLine:
    """A line as the store hands it out."""

    seq: int  # rises in the order of storing, over all trials of the sweep
    trial_id: str
    trial_number: int
    attempt: int  # the attempt's number within the trial
    left_out: int  # lines of the attempt right before this one that are not kept
    line: LogLine


def clipped(text: str, *, more: int = 0) -> str:
    """The text, with its end replaced by a word on it where it is too long. ``more``: characters that came after it."""
    if len(text) + more <= MAX_LINE_CHARS:
        return text
    kept = MAX_LINE_CHARS - 50  # with the word on the rest it is not too long any more
    return f"{text[:kept]} … and {len(text) + more - kept} more characters"
