"""The lines of a process's log: as text, as JSON, and where they are written."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sweep_service.logs import MAX_LOG_BYTES, JsonLines, carried, conductor_log, configure_logging, log_context
from sweep_service.settings import Settings


def line(message: object = "said", *args: object, exc_info: Any = None, **extra: object) -> dict[str, Any]:
    """What is written of a record: one line, of JSON that every reader takes."""
    record = logging.LogRecord("sweep_service.some", logging.WARNING, "some.py", 7, message, args, exc_info)
    record.created = datetime(2026, 11, 30, 9, 5, 1, 250_000, tzinfo=UTC).timestamp()
    vars(record).update(extra)
    written = JsonLines("dispatcher").format(record)
    assert len(written.splitlines()) == 1
    assert written.isascii()

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(written, parse_constant=refuse)


class Unspeakable:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_a_line_tells_when_how_urgent_by_whom_and_what() -> None:
    assert line("%s of %d", "one", 2) == {
        "time": "2026-11-30T09:05:01.250+00:00",
        "level": "WARNING",
        "logger": "sweep_service.some",
        "message": "one of 2",
        "process": "dispatcher",
        "pid": os.getpid(),
    }


def test_what_has_several_lines_is_written_on_one() -> None:
    assert line("first\nsecond\r\n\u2028third\x00 é")["message"] == "first\nsecond\r\n\u2028third\x00 é"
    assert line("half a character: \ud800")["message"] == "half a character: \ud800"


def test_an_exception_goes_with_its_line() -> None:
    try:
        raise ZeroDivisionError("of what\nit has done")
    except ZeroDivisionError:
        told = line("it failed", exc_info=sys.exc_info())
    assert told["message"] == "it failed"
    assert told["exception"].startswith("Traceback (most recent call last):\n")
    assert told["exception"].endswith("ZeroDivisionError: of what\nit has done")


def test_a_line_tells_what_is_known_where_it_is_written() -> None:
    with log_context(sweep_id="swp_1", generation=2, pack=None):
        with log_context(trial_id="trl_1", generation=3):
            inside = line()
        outside = line()
    assert (inside["sweep_id"], inside["trial_id"], inside["generation"]) == ("swp_1", "trl_1", 3)
    assert (outside["sweep_id"], outside["generation"]) == ("swp_1", 2)
    assert not {"trial_id", "pack"} & set(outside)
    assert "sweep_id" not in line()


def test_what_is_known_is_forgotten_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), log_context(sweep_id="swp_1"):
        raise ZeroDivisionError
    assert "sweep_id" not in line()


def test_what_a_call_adds_is_told_before_what_is_known_around_it_and_never_in_place_of_a_lines_own() -> None:
    with log_context(sweep_id="swp_1", pack="pack-1"):
        told = line(level="mine", sweep_id="another", num=3)
    assert (told["level"], told["sweep_id"], told["pack"], told["num"]) == ("WARNING", "another", "pack-1", 3)


def test_what_is_no_json_is_told_as_well_as_it_can_be() -> None:
    itself: list[Any] = []
    itself.append(itself)
    strange = {"path": Path("x"), "nan": float("nan"), "keys": {(1, 2): 3}, "itself": itself, "nothing": None}
    told = line(**strange, silent=Unspeakable())
    assert told["path"] == repr(Path("x"))
    assert (told["nan"], told["keys"], told["itself"], told["nothing"]) == ("nan", "{(1, 2): 3}", "[[...]]", None)
    assert told["silent"] == "<Unspeakable>"
    assert told["message"] == "said"


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_does_not_know_is_told_as_text(number: float) -> None:
    assert line(loss=number)["loss"] == repr(number)


def test_a_message_that_its_arguments_do_not_fit_is_told_with_the_fault() -> None:
    told = line("%d of them", "many")
    assert told["message"].startswith("%d of them (cannot be written: TypeError")
    assert (told["level"], told["process"]) == ("WARNING", "dispatcher")
    assert line(Unspeakable())["message"].startswith("<Unspeakable> (cannot be written: ZeroDivisionError")


def test_a_dictionary_for_a_message_is_told_by_its_names() -> None:
    told = line({"message": "said", "num": 3})
    assert (told["message"], told["num"]) == ("said", 3)


def test_another_thread_knows_only_what_is_carried_to_it() -> None:
    def known() -> str | None:
        return line().get("sweep_id")

    with ThreadPoolExecutor(max_workers=1) as threads, log_context(sweep_id="swp_1"):
        plain, carrying = threads.submit(known), threads.submit(carried(known))
        later = threads.submit(known)
    assert (plain.result(), carrying.result(), later.result()) == (None, "swp_1", None)


def test_what_is_carried_may_run_in_several_threads_at_once() -> None:
    both = threading.Barrier(2)

    def known() -> str | None:
        both.wait(60)
        return line().get("sweep_id")

    with log_context(sweep_id="swp_1"):
        work = carried(known)
    with ThreadPoolExecutor(max_workers=2) as threads:
        assert [found.result() for found in [threads.submit(work), threads.submit(work)]] == ["swp_1", "swp_1"]


@contextmanager
def root_logger() -> Iterator[logging.Logger]:
    """As it was, after the test."""
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    handlers, level = root.handlers[:], root.level
    try:
        yield root
    finally:
        for handler in set(root.handlers) - set(handlers):
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        sys.excepthook, threading.excepthook = hooks


def written_by_conductor(settings: Settings) -> None:
    with root_logger():
        configure_logging(settings, "conductor", handler=conductor_log(settings))
        logging.getLogger("sweep_service.some").warning("said")


def test_the_text_of_a_conductors_line_is_as_it_always_was(tmp_path: Path) -> None:
    written_by_conductor(Settings(home=tmp_path))
    date, time, *rest = (tmp_path / "logs" / "conductors.log").read_text().split()
    assert datetime.fromisoformat(f"{date} {time}")
    assert rest == [str(os.getpid()), "WARNING", "sweep_service.some:", "said"]


@pytest.mark.parametrize(("process", "rest"), [("api", "WARNING some said"), ("dispatcher", "WARNING some: said")])
def test_the_text_of_a_process_that_logs_to_its_output_is_as_it_always_was(process: str, rest: str) -> None:
    done = run_logging(process, "logging.getLogger('some').warning('said')")
    assert done.stderr.split(maxsplit=2)[2].strip() == rest
    assert done.stdout == ""


def test_the_log_may_be_another_file_which_is_put_aside_when_it_is_long(tmp_path: Path) -> None:
    log = tmp_path / "far" / "away.log"
    settings = Settings(home=tmp_path, log_file=log, log_format="json")
    written_by_conductor(settings)
    assert json.loads(log.read_text())["process"] == "conductor"
    os.truncate(log, MAX_LOG_BYTES)
    written_by_conductor(settings)
    assert not log.with_name("away.log.1").exists(), "it is not too long yet"
    written_by_conductor(settings)
    assert log.with_name("away.log.1").stat().st_size > MAX_LOG_BYTES
    assert len(log.read_text().splitlines()) == 1
    assert not (tmp_path / "logs").exists()


def test_what_is_no_regular_file_is_written_to_as_it_is(tmp_path: Path) -> None:
    """As the output of a container's first process, which is a pipe behind a link."""
    reader, writer = os.pipe()
    try:
        written_by_conductor(Settings(home=tmp_path, log_file=Path(f"/proc/{os.getpid()}/fd/{writer}")))
        assert os.read(reader, 1000).decode().endswith("sweep_service.some: said\n")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_link_is_never_put_aside_however_long_the_file_behind_it_is(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    os.truncate(tmp_path / "target", MAX_LOG_BYTES + 1)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "target")
    written_by_conductor(Settings(home=tmp_path, log_file=link))
    assert link.is_symlink()
    assert (tmp_path / "target").stat().st_size > MAX_LOG_BYTES + 1
    assert {path.name for path in tmp_path.iterdir()} == {"target", "link"}


def run_logging(process: str, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A process that is set up as that one is."""
    lines = (
        "import logging, threading, warnings",
        "from sweep_service.logs import configure_logging",
        "from sweep_service.settings import Settings",
        f"configure_logging(Settings(), {process!r})",
        code,
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=False, timeout=60)


def test_whatever_a_process_has_to_say_is_json_its_end_by_an_error_too() -> None:
    code = (
        "logging.getLogger('some').info('said')\n"
        "logging.getLogger('some').debug('not said')\n"
        "warnings.warn('look out')\n"
        "thread = threading.Thread(target=lambda: 1 / 0, name='worker')\n"
        "thread.start(); thread.join()\n"
        "raise OSError('it is over')"
    )
    done = run_logging("dispatcher", code, SWEEP_LOG_FORMAT="json")
    said, warned, of_thread, over = (json.loads(line) for line in done.stderr.splitlines())
    assert (said["message"], said["level"], said["process"]) == ("said", "INFO", "dispatcher")
    assert "look out" in warned["message"]
    assert (of_thread["level"], over["level"]) == ("CRITICAL", "CRITICAL")
    assert "worker" in of_thread["message"]
    assert "ZeroDivisionError" in of_thread["exception"]
    assert over["exception"].endswith("OSError: it is over")
    assert done.returncode == 1


def test_the_format_is_text_or_json_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEP_LOG_FORMAT", "xml")
    with pytest.raises(ValueError, match="log_format"):
        Settings()
