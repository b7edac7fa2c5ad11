"""What the lines of a process's log look like, and what each tells of the sweep, the trial or the request it is about.

With ``log_format`` text a line is as it always was. With json each is one object on one line: ``time`` (ISO 8601, in
UTC), ``level``, ``logger``, ``message``, ``process`` (see Process), ``pid``, ``exception`` where there is one, and
whatever :func:`log_context` has made known where the line was written.
"""

from __future__ import annotations

import functools
import json
import logging
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType, TracebackType
from typing import Any, Literal, ParamSpec, TypeVar

from pythonjsonlogger.json import JsonFormatter

from sweep_service.domain.keys import without_keys
from sweep_service.settings import Settings

Process = Literal["api", "dispatcher", "conductor", "node", "setup"]

MAX_LOG_BYTES = 20_000_000
_TEXT: Mapping[Process, str] = {
    "api": "%(asctime)s %(levelname)s %(name)s %(message)s",
    "dispatcher": "%(asctime)s %(levelname)s %(name)s: %(message)s",
    "node": "%(asctime)s %(levelname)s %(name)s: %(message)s",
    "setup": "%(asctime)s %(levelname)s %(name)s: %(message)s",
    "conductor": "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s",  # several of them write to one file
}

_P = ParamSpec("_P")
_T = TypeVar("_T")

_known: ContextVar[Mapping[str, Any]] = ContextVar("known", default=MappingProxyType({}))


@contextmanager
def log_context(**known: Any) -> Iterator[None]:
    """Every line that is logged inside, by whatever code, tells this too; None: it is not known."""
    told = {name: value for name, value in known.items() if value is not None}
    token = _known.set({**_known.get(), **told})
    try:
        yield
    finally:
        _known.reset(token)


def carried(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """The same for another thread to do, whose lines are to tell what is known here: a thread knows nothing of it by
    itself.
    """
    known = _known.get()

    @functools.wraps(work)
    def work_elsewhere(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with log_context(**known):
            return work(*args, **kwargs)

    return work_elsewhere


def configure_logging(settings: Settings, process: Process, *, handler: logging.Handler | None = None) -> None:
    """Have this process log as the settings say: to stderr, or only through that handler, whatever others have set up
    before.
    """
    is_json = settings.log_format == "json"
    chosen = handler or logging.StreamHandler()
    chosen.setFormatter(WithoutKeys(JsonLines(process) if is_json else logging.Formatter(_TEXT[process])))
    logging.basicConfig(level=settings.log_level, handlers=[chosen], force=handler is not None)
    if is_json:
        logging.captureWarnings(True)
        sys.excepthook, threading.excepthook = _log_crash, _log_crash_of_thread


def conductor_log(settings: Settings) -> logging.Handler:
    """One log for all conductors of the machine, beside those of the other processes; Ray's own hold much else.

    A regular file that has become too long is put aside first. What is no regular file (the output of a container's
    first process, say) is written to as it is.
    """
    path = settings.conductor_log
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        found = path.lstat()  # of the path itself: a link is somebody else's way of putting logs where they belong
        if stat.S_ISREG(found.st_mode) and found.st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))  # a conductor that still writes goes on in there
    return logging.FileHandler(path)


class WithoutKeys(logging.Formatter):
    """Writes what another one does, but no API key, wherever somebody has put one."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self._formatter = formatter

    def format(self, record: logging.LogRecord) -> str:
        return without_keys(self._formatter.format(record))


class JsonLines(JsonFormatter):
    """One line of JSON for each record, whatever is in it."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        try:
            return super().format(record)
        except Exception as error:  # noqa: BLE001  # arguments that do not fit the message, or cannot even be shown
            return self._line(self._basics(record, f"{_shown(record.msg)} (cannot be written: {error!r})"))

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        extra: dict[str, Any] = {}
        super().add_fields(extra, record, message_dict)
        exception = extra.pop("exc_info", None)
        stack = extra.pop("stack_info", None)
        basics = self._basics(record, str(extra.pop("message", "")))
        log_data |= basics | {**_known.get(), **extra} | basics
        if exception:
            log_data["exception"] = exception
        if stack:
            log_data["stack"] = stack

    def jsonify_log_record(self, log_data: dict[str, Any]) -> str:
        try:
            return self._line(log_data)
        except (TypeError, ValueError, RecursionError):  # a NaN, a key that is no text, a list that contains itself
            return self._line({name: _shown(value) for name, value in log_data.items()})

    def _basics(self, record: logging.LogRecord, message: str) -> dict[str, Any]:
        return {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": message,
            "process": self._process,
            "pid": record.process,
        }

    def _line(self, log_data: Mapping[str, Any]) -> str:
        return json.dumps(log_data, default=_shown, allow_nan=False)  # in ASCII: whatever the file's encoding is


def _shown(value: Any) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  # whatever it is, the rest of the line can be told
        return f"<{type(value).__name__}>"


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In place of a traceback of many lines."""
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(__name__).critical("The process ends by an error.", exc_info=(kind, error, trace))


def _log_crash_of_thread(crash: threading.ExceptHookArgs) -> None:
    if crash.exc_value is not None and not issubclass(crash.exc_type, SystemExit):
        error = (crash.exc_type, crash.exc_value, crash.exc_traceback)
        name = crash.thread.name if crash.thread is not None else "gone"
        logging.getLogger(__name__).critical("The thread %r ends by an error.", name, exc_info=error)
