"""What a pack's code prints and logs, caught line by line while it trains, and kept until it has been stored.

Everything still goes where it went before: Ray keeps the output of its workers as well. Caught is what passes through
``sys.stdout``, ``sys.stderr`` and Python's logging, from whatever thread; what a C library writes past Python is not.
Nobody can tell which lane a text is from, so it belongs to every lane of the pack, unless who says it knows better.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Any, Self, TextIO, cast

from sweep_service.domain.logs import MAX_LINE_CHARS, LogLine, LogStream, clipped
from sweep_service.ports import Clock
from sweep_service.services.packs import LaneLines

MAX_UNSENT_BYTES = 256_000  # of a lane; when more has to wait the oldest lines go


class Capture:
    """From entering to leaving, what this process says are lines of these lanes. To be entered once."""

    def __init__(self, lanes: Sequence[str], *, clock: Clock, max_unsent_bytes: int = MAX_UNSENT_BYTES) -> None:
        self._clock = clock
        self._max_unsent_bytes = max_unsent_bytes
        self._buffers: dict[str, _LineBuffer] = {}
        self._closed: set[str] = set()  # of those, the lanes that have ended
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._handlers: list[logging.Handler] = []
        self.add(lanes)

    def add(self, lanes: Sequence[str]) -> None:
        """From here on, what is said is said of these lanes as well."""
        with self._lock:
            self._buffers |= {lane: _LineBuffer(self._max_unsent_bytes) for lane in lanes}

    def close(self, lanes: Collection[str]) -> None:
        """These have ended: what is said from here on is not theirs. What they have said waits until it has arrived."""
        with self._lock:
            self._closed |= self._buffers.keys() & set(lanes)
            self._drop_closed()

    def __enter__(self) -> Self:
        root = logging.getLogger()
        self._streams, self._level = (sys.stdout, sys.stderr), root.level
        self._handlers = [_SayingHandler(self.say)]
        if not root.handlers:  # else ours would end the habit that warnings go to standard error then
            self._handlers.append(logging.StreamHandler(sys.stderr))
        for handler in self._handlers:
            root.addHandler(handler)
        root.setLevel(min(root.level, logging.INFO))
        self._tees = (
            _Tee(sys.stdout, lambda line: self.say(LogStream.STDOUT, line)),
            _Tee(sys.stderr, lambda line: self.say(LogStream.STDERR, line)),
        )
        sys.stdout, sys.stderr = (cast("TextIO", tee) for tee in self._tees)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        root = logging.getLogger()
        sys.stdout, sys.stderr = self._streams
        for tee in self._tees:
            tee.close_lines()
        for handler in self._handlers:
            root.removeHandler(handler)
        root.setLevel(self._level)
        if isinstance(error, Exception):
            self.say(LogStream.LOG, "".join(traceback.format_exception(error)), level="ERROR")

    def say(self, stream: LogStream, text: str, *, level: str = "", lane: str | None = None) -> None:
        """Add the lines of a text, to all open lanes unless one is given."""
        if os.getpid() != self._pid:  # a forked child: its lines would be seen by nobody, and the lock may be held
            return
        now = self._clock.now()
        lines = [
            LogLine(at=now, stream=stream, level=level, text=clipped(line)) for line in text.rstrip("\n").split("\n")
        ]
        with self._lock:
            for key, buffer in self._buffers.items():
                if key not in self._closed and lane in {None, key}:
                    buffer.extend(lines)

    def unsent(self) -> list[LaneLines]:
        """What each lane has said and :meth:`forget` has not been called for."""
        with self._lock:
            return [
                LaneLines(trial_id=lane, first=buffer.first, lines=tuple(buffer.lines))
                for lane, buffer in self._buffers.items()
                if buffer.lines
            ]

    def forget(self, said: Collection[LaneLines]) -> None:
        """These have arrived."""
        with self._lock:
            for lane_lines in said:
                if buffer := self._buffers.get(lane_lines.trial_id):
                    buffer.drop_to(lane_lines.first + len(lane_lines.lines))
            self._drop_closed()

    def _drop_closed(self) -> None:
        for lane in [lane for lane in self._closed if not self._buffers[lane].lines]:
            self._closed.remove(lane)
            del self._buffers[lane]


class _LineBuffer:
    """The last lines of a lane. ``first`` is how many came before those that are in it."""

    def __init__(self, max_bytes: int) -> None:
        self.lines: deque[LogLine] = deque()
        self.first = 0
        self._max_bytes = max_bytes
        self._num_bytes = 0

    def extend(self, lines: Sequence[LogLine]) -> None:
        self.lines.extend(lines)
        self._num_bytes += sum(line.num_bytes for line in lines)
        while self._num_bytes > self._max_bytes:
            self._drop()

    def drop_to(self, number: int) -> None:
        while self.lines and self.first < number:
            self._drop()

    def _drop(self) -> None:
        self._num_bytes -= self.lines.popleft().num_bytes
        self.first += 1


class _Tee:
    """A stream that passes everything on and tells each whole line, too.

    Of a line that is drawn again and again (a progress bar) what was drawn last is told. A thread's unfinished line
    waits for its end; however long it grows, no more is held of it than would be told.
    """

    def __init__(self, stream: TextIO, tell: Callable[[str], None]) -> None:
        self._stream = stream
        self._tell = tell
        # By thread, for lines of several at once must not mix: what is held, and how many characters are not.
        self._unfinished: dict[int, tuple[str, int]] = {}
        self._is_open = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        written = self._stream.write(text)
        if self._is_open:
            self._take(text)
        return written

    def writelines(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.write(line)

    def close_lines(self) -> None:
        """Tell what is unfinished. From here on text is only passed on: a handler may hold this stream for longer."""
        self._is_open = False
        for begun, skipped in list(self._unfinished.values()):
            self._tell(_as_drawn(begun, skipped))
        self._unfinished.clear()

    def _take(self, text: str) -> None:
        thread = threading.get_ident()
        begun, skipped = self._unfinished.pop(thread, ("", 0))
        *lines, rest = (begun + text).split("\n")
        for line in lines:
            self._tell(_as_drawn(line, skipped))
            skipped = 0
        drawn_over = rest.rstrip("\r").rfind("\r") + 1
        if drawn_over:
            rest, skipped = rest[drawn_over:], 0
        if rest:
            self._unfinished[thread] = (rest[:MAX_LINE_CHARS], skipped + max(0, len(rest) - MAX_LINE_CHARS))


class _SayingHandler(logging.Handler):
    def __init__(self, say: Callable[..., None]) -> None:
        super().__init__()
        self._say = say
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:  # noqa: BLE001 - of whatever the message is made of
            self.handleError(record)
        else:
            self._say(LogStream.LOG, text, level=record.levelname)


def _as_drawn(line: str, skipped: int) -> str:
    """A line as a terminal shows it in the end: what comes after a carriage return is drawn over the rest."""
    return clipped(line.rstrip("\r").rpartition("\r")[2], more=skipped)
