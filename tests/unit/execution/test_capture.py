"""What a worker catches of all that the code in it says."""
# ruff: noqa: T201

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from store_values import START, FakeClock

from sweep_service.domain.logs import MAX_LINE_CHARS, LogStream
from sweep_service.execution.capture import Capture

OUT, ERR, LOG = LogStream.STDOUT, LogStream.STDERR, LogStream.LOG


@contextlib.contextmanager
def bare_root() -> Iterator[logging.Logger]:
    """The root logger without the handlers of whoever runs the tests."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    root.setLevel(logging.WARNING)
    try:
        yield root
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def capture(*lanes: str, **options: Any) -> Capture:
    return Capture(lanes or ("a",), clock=FakeClock(), **options)


def said(capture: Capture, lane: str = "a") -> list[tuple[LogStream, str, str]]:
    """What a lane has said: stream, level and text of each line."""
    return [
        (line.stream, line.level, line.text)
        for lane_lines in capture.unsent()
        if lane_lines.trial_id == lane
        for line in lane_lines.lines
    ]


def texts(capture: Capture) -> list[str]:
    return [text for _, _, text in said(capture)]


def test_what_is_said_when_a_lane_has_ended_is_not_of_that_lane() -> None:
    caught = capture("a", "b")
    caught.say(OUT, "of both")
    caught.close(["a"])
    caught.say(OUT, "of those that are left")
    caught.say(LOG, "of nobody any more", lane="a")
    assert said(caught, "a") == [(OUT, "", "of both")], "it has not arrived yet"
    caught.forget(caught.unsent())
    caught.say(OUT, "at last")
    caught.close(["a"])
    assert said(caught, "a") == []
    assert said(caught, "b") == [(OUT, "", "at last")]


def test_prints_are_lines_and_are_still_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with capture() as caught:
        print("one", 2)
        print("to err", file=sys.stderr)
        sys.stdout.write("a\nb\n")
        sys.stdout.writelines(["c\n", "d\n"])
    print("after")
    assert said(caught) == [
        (OUT, "", "one 2"), (ERR, "", "to err"), (OUT, "", "a"), (OUT, "", "b"), (OUT, "", "c"), (OUT, "", "d"),
    ]  # fmt: skip
    assert capsys.readouterr() == ("one 2\na\nb\nc\nd\nafter\n", "to err\n")
    (lane_lines,) = caught.unsent()
    assert (lane_lines.first, lane_lines.lines[0].at) == (0, START)


def test_logged_lines_have_their_level_and_pass_from_info_on() -> None:
    logger = logging.getLogger("own.problem")
    with bare_root() as root:
        with capture() as caught:
            logger.debug("too small")
            logger.info("read %d rows", 3)
            logger.warning("odd")
        logger.error("after")
        assert (root.handlers, root.level) == ([], logging.WARNING)
    assert said(caught) == [(LOG, "INFO", "own.problem: read 3 rows"), (LOG, "WARNING", "own.problem: odd")]


def test_logged_lines_reach_the_workers_own_log_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    with bare_root(), capture() as caught:
        logging.getLogger("own").warning("odd")
    assert capsys.readouterr().err == "odd\n"
    assert texts(caught) == ["own: odd"]


def test_code_that_sets_up_logging_for_itself_is_caught_once() -> None:
    with bare_root(), capture() as caught:
        logging.basicConfig(format="mine: %(message)s")
        logging.warning("no force")
        logging.basicConfig(force=True, format="mine: %(message)s")
        logging.warning("with force")
    assert said(caught) == [(LOG, "WARNING", "root: no force"), (ERR, "", "mine: with force")]


def test_a_logged_exception_is_all_of_its_lines() -> None:
    with capture() as caught:
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            logging.getLogger("own").exception("it failed")
    lines = said(caught)
    assert {(stream, level) for stream, level, _ in lines} == {(LOG, "ERROR")}
    assert [lines[0][2], lines[1][2]] == ["own: it failed", "Traceback (most recent call last):"]
    assert [lines[-2][2], lines[-1][2]] == ["ValueError: first", "second"]


def test_an_exception_that_leaves_is_said_and_goes_on() -> None:
    caught = capture()

    def fail() -> None:
        with caught:
            print("before", end="")
            raise RuntimeError("no torch")

    with pytest.raises(RuntimeError, match="no torch"):
        fail()
    assert texts(caught)[0] == "before"
    assert said(caught)[-1] == (LOG, "ERROR", "RuntimeError: no torch")


def test_a_message_that_cannot_be_made_costs_that_message_only() -> None:
    class Odd:
        def __str__(self) -> str:
            raise ZeroDivisionError

    with bare_root(), capture() as caught:
        logging.getLogger("own").warning("%s", Odd())
        print("goes on")
    assert texts(caught)[-1] == "goes on"


def test_a_line_without_its_end_waits_for_it_or_for_the_end_of_all() -> None:
    with capture() as caught:
        print("half ", end="")
        assert texts(caught) == []
        print("and half")
        print("rest", end="")
        print("other", end="", file=sys.stderr)
    assert said(caught) == [(OUT, "", "half and half"), (OUT, "", "rest"), (ERR, "", "other")]


def test_of_a_progress_bar_the_last_state_is_a_line() -> None:
    with capture() as caught:
        for percent in range(0, 101, 10):
            sys.stderr.write(f"\r{percent:3}%")
        sys.stderr.write("\n")
        sys.stderr.write("dos\r\n")
        sys.stderr.write("dos")
        sys.stderr.write("\r")
        sys.stderr.write("\n")
    assert texts(caught) == ["100%", "dos", "dos"]


def test_of_a_very_long_line_the_beginning_is_told_however_it_was_written() -> None:
    with capture() as caught:
        print("x" * 10_000)
        for _ in range(10_000):
            sys.stdout.write("y")
        sys.stdout.write("\n" + "z" * MAX_LINE_CHARS + "\n")
        sys.stdout.write("w" * 10_000 + "\rover\n")
    first, second, third, fourth = texts(caught)
    kept = MAX_LINE_CHARS - 50
    assert first == "x" * kept + f" … and {10_000 - kept} more characters"
    assert second == "y" * kept + first[kept:]
    assert (third, fourth) == ("z" * MAX_LINE_CHARS, "over")


def test_lines_of_several_threads_do_not_mix() -> None:
    gate = threading.Barrier(4)

    def talk(name: str) -> None:
        gate.wait(60)
        for number in range(50):
            print(name, end=" ")
            print(number)

    with capture() as caught:
        threads = [threading.Thread(target=talk, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = texts(caught)
    for name in "abcd":
        assert [line for line in lines if line.startswith(name)] == [f"{name} {number}" for number in range(50)]
    assert len(lines) == 200


def test_what_code_redirects_for_itself_stays_its_own() -> None:
    own = io.StringIO()
    with capture() as caught:
        with contextlib.redirect_stdout(own):
            print("mine")
        print("everybody's")
    assert texts(caught) == ["everybody's"]
    assert own.getvalue() == "mine\n"


def test_a_handler_that_outlives_its_trial_says_nothing_in_the_next_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with capture() as first:
        held = logging.StreamHandler()
    with capture() as second:
        held.emit(logging.makeLogRecord({"msg": "late"}))
    assert texts(first) == texts(second) == []
    assert capsys.readouterr().err == "late\n"


def test_a_forked_child_is_heard_by_the_real_stream_alone() -> None:
    with capture() as caught:
        child = os.fork()
        if child == 0:
            code = 9
            try:
                print("of a child")
                code = len(caught.unsent())
            finally:
                os._exit(code)
        print("of the parent")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert texts(caught) == ["of the parent"]


def test_every_lane_of_a_pack_says_what_nobody_can_tell_apart() -> None:
    with capture("a", "b") as caught:
        print("both")
        caught.say(LOG, "only one", level="ERROR", lane="b")
    assert said(caught, "a") == [(OUT, "", "both")]
    assert said(caught, "b") == [(OUT, "", "both"), (LOG, "ERROR", "only one")]


def test_what_waits_is_bounded_and_the_oldest_goes() -> None:
    with capture(max_unsent_bytes=1000) as caught:
        for number in range(1000):
            print(f"{number:09}")
    (lane_lines,) = caught.unsent()
    assert lane_lines.first == 900
    assert [int(line.text) for line in lane_lines.lines] == list(range(900, 1000))


def test_what_has_arrived_is_forgotten_and_what_came_meanwhile_is_not() -> None:
    with capture(max_unsent_bytes=100) as caught:
        print("a")
        print("b")
        sent = caught.unsent()
        print("c")
        caught.forget(sent)
        assert [(lines.first, texts(caught)) for lines in caught.unsent()] == [(2, ["c"])]
        sent = caught.unsent()
        for number in range(100):  # what was sent has been dropped meanwhile
            print(f"{number:09}")
        caught.forget(sent)
        (left,) = caught.unsent()
        assert (left.first, left.lines[-1].text) == (93, "000000099")
