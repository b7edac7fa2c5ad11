"""The lines of attempts in SQL: chunks of them, written under the sweep's lock and read in pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select

from sweep_service.domain.logs import HEAD_BYTES, KeptLine, LogLine, LogLines, LogStream
from sweep_service.storage.log_chunks import LogChunk, drop_before, new_chunks
from sweep_service.storage.tables import attempts, log_chunks, trials

_COLUMNS = tuple(f.name for f in fields(LogChunk))


def append(connection: Connection, sweep_id: str, batches: Sequence[LogLines]) -> None:
    """Store what is new of them, and drop what is too much then. The sweep's row is locked."""
    newest = select(func.max(log_chunks.c.last_seq)).where(log_chunks.c.sweep_id == sweep_id)
    last_seq = connection.execute(newest).scalar_one() or 0
    for batch in batches:
        end_line, end_byte = _end_of(connection, batch.attempt_id)
        chunks = new_chunks(batch, sweep_id=sweep_id, end_line=end_line, end_byte=end_byte, last_seq=last_seq)
        if not chunks:
            continue
        last_seq = chunks[-1].last_seq
        connection.execute(insert(log_chunks), [_row_of(chunk) for chunk in chunks])
        surplus = (
            (log_chunks.c.attempt_id == batch.attempt_id)
            & (log_chunks.c.first_byte >= HEAD_BYTES)
            & (log_chunks.c.first_byte + log_chunks.c.num_bytes <= drop_before(chunks[-1].end_byte))
        )
        if drop_before(chunks[-1].end_byte) > HEAD_BYTES:
            connection.execute(delete(log_chunks).where(surplus))


def read(connection: Connection, is_asked: ColumnElement[bool], *, after: int, limit: int) -> list[KeptLine]:
    """The next lines by seq of the chunks that the condition asks for."""
    is_new = is_asked & (log_chunks.c.last_seq > after)
    up_to = _last_chunk_needed(connection, is_new, after=after, limit=limit)
    earlier = log_chunks.alias("earlier")
    end_before = (
        select(earlier.c.first_line + earlier.c.num_lines)
        .where(earlier.c.attempt_id == log_chunks.c.attempt_id, earlier.c.first_byte < log_chunks.c.first_byte)
        .order_by(earlier.c.first_byte.desc())
        .limit(1)
        .scalar_subquery()
    )
    query = (
        select(
            log_chunks,
            func.coalesce(end_before, 0).label("end_before"),
            trials.c.number.label("trial_number"),
            attempts.c.number.label("attempt"),
        )
        .join(trials, trials.c.id == log_chunks.c.trial_id)
        .join(attempts, attempts.c.id == log_chunks.c.attempt_id)
        .where(is_new, log_chunks.c.last_seq <= up_to)
        .order_by(log_chunks.c.last_seq)
    )
    found = (
        line
        for row in connection.execute(query)
        for line in _chunk_of(row).kept_lines(
            end_before=row.end_before, trial_number=row.trial_number, attempt=row.attempt, after=after
        )
    )
    return list(islice(found, limit))


def _last_chunk_needed(connection: Connection, is_new: ColumnElement[bool], *, after: int, limit: int) -> int:
    """The last seq of the chunk that fills the page: chunks are large, and no more of them are fetched."""
    places = (
        select(log_chunks.c.last_seq, log_chunks.c.num_lines).where(is_new).order_by(log_chunks.c.last_seq).limit(limit)
    )
    last, num_lines = 0, 0
    for place in connection.execute(places):
        last = place.last_seq
        num_lines += min(place.num_lines, last - after)  # of the first one, some may have been read before
        if num_lines >= limit:
            break
    return last


def _end_of(connection: Connection, attempt_id: str) -> tuple[int, int]:
    """The line and the byte at which the attempt's stored output ends."""
    query = (
        select(log_chunks.c.first_line, log_chunks.c.num_lines, log_chunks.c.first_byte, log_chunks.c.num_bytes)
        .where(log_chunks.c.attempt_id == attempt_id)
        .order_by(log_chunks.c.first_byte.desc())
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    return (0, 0) if row is None else (row.first_line + row.num_lines, row.first_byte + row.num_bytes)


def _row_of(chunk: LogChunk) -> dict[str, Any]:
    lines = [[line.at.isoformat(), str(line.stream), line.level, line.text] for line in chunk.lines]
    return {name: getattr(chunk, name) for name in _COLUMNS} | {"lines": lines}


def _chunk_of(row: Row[Any]) -> LogChunk:
    values: dict[str, Any] = {name: row._mapping[name] for name in _COLUMNS}
    values["lines"] = tuple(
        LogLine(at=datetime.fromisoformat(at), stream=LogStream(stream), level=level, text=text)
        for at, stream, level, text in values["lines"]
    )
    return LogChunk(**values)
