"""How every store keeps lines: in chunks, one or a few for each time that an attempt's lines arrive.

A row for each line takes as long to write, but three times the room (in SQLite 360 bytes instead of 126 for a line of
60 characters). A chunk knows its place among all that its attempt has said, in lines and in bytes; what is missing
between two chunks follows from that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sweep_service.domain.logs import HEAD_BYTES, TAIL_BYTES, KeptLine, LogLine, LogLines

MAX_CHUNK_BYTES = 64_000  # what is dropped is dropped by the chunk


@dataclass(frozen=True, kw_only=True)
class LogChunk:
    """Lines with consecutive seqs of one attempt."""

    sweep_id: str
    trial_id: str
    attempt_id: str
    last_seq: int  # of its last line
    first_line: int  # lines of the attempt before it, kept or not
    first_byte: int  # bytes of the attempt before it
    num_lines: int  # never 0
    num_bytes: int
    lines: tuple[LogLine, ...]

    @property
    def end_line(self) -> int:
        return self.first_line + self.num_lines

    @property
    def end_byte(self) -> int:
        return self.first_byte + self.num_bytes

    @property
    def is_droppable(self) -> bool:
        """Whether it may be dropped once enough has come after it."""
        return self.first_byte >= HEAD_BYTES

    def kept_lines(self, *, end_before: int, trial_number: int, attempt: int, after: int) -> Iterator[KeptLine]:
        """Its lines with a seq above ``after``. ``end_before`` is the end of the kept chunk before it, 0 for none."""
        first_seq = self.last_seq - self.num_lines + 1
        for index, line in enumerate(self.lines):
            if first_seq + index > after:
                yield KeptLine(
                    seq=first_seq + index,
                    trial_id=self.trial_id,
                    trial_number=trial_number,
                    attempt=attempt,
                    left_out=self.first_line - end_before if index == 0 else 0,
                    line=line,
                )


def new_chunks(batch: LogLines, *, sweep_id: str, end_line: int, end_byte: int, last_seq: int) -> list[LogChunk]:
    """Chunks of the lines that are not stored yet, where the attempt's stored ones end at that line and byte."""
    first = max(batch.first, end_line)
    chunks: list[LogChunk] = []
    for lines in _pieces(batch.lines[first - batch.first :]):
        num_bytes = sum(line.num_bytes for line in lines)
        last_seq += len(lines)
        chunks.append(
            LogChunk(
                sweep_id=sweep_id,
                trial_id=batch.trial_id,
                attempt_id=batch.attempt_id,
                last_seq=last_seq,
                first_line=first,
                first_byte=end_byte,
                num_lines=len(lines),
                num_bytes=num_bytes,
                lines=lines,
            )
        )
        first, end_byte = first + len(lines), end_byte + num_bytes
    return chunks


def drop_before(end_byte: int) -> int:
    """Of an attempt with that many bytes, droppable chunks that end at this byte or before it are dropped."""
    return end_byte - TAIL_BYTES


def _pieces(lines: tuple[LogLine, ...]) -> Iterator[tuple[LogLine, ...]]:
    piece: list[LogLine] = []
    size = 0
    for line in lines:
        if piece and size + line.num_bytes > MAX_CHUNK_BYTES:
            yield tuple(piece)
            piece, size = [], 0
        piece.append(line)
        size += line.num_bytes
    if piece:
        yield tuple(piece)
