"""What the client does when connections break: reads and submissions are repeated, other writes never are."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from sweep_service.client import ApiError, InvalidRequestError, MissingError, SweepClient, UnreachableError

RUNNING = b'{"id": "swp_1", "state": "running"}'
COMPLETED = b'{"id": "swp_1", "state": "completed"}'


@dataclass
class Flaky:
    """A server that closes its first connections without an answer, and then gives the same answer for ever."""

    breaks: int
    answer: bytes = b'{"trainables": []}'
    status: str = "200 OK"
    header: str = "Connection: close"
    requests: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # of each request

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                head = connection.recv(65536).decode()
                self.requests.append(head.partition(" ")[0])
                self.keys.append(head.lower().partition("idempotency-key: ")[2].partition("\r\n")[0])
                if len(self.requests) > self.breaks:
                    head = f"HTTP/1.1 {self.status}\r\nContent-Length: {len(self.answer)}\r\n{self.header}\r\n\r\n"
                    connection.sendall(head.encode() + self.answer)


@contextmanager
def talking_to(
    server: Flaky, *, in_pauses: Callable[[], None] = lambda: None
) -> Iterator[tuple[SweepClient, list[float]]]:
    """A client of that server, and the pauses that it made, in which something may happen."""
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        in_pauses()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=server.serve, args=(listener,), daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with SweepClient(url, timeout=60, sleep=pause) as client:
            yield client, pauses
        listener.shutdown(socket.SHUT_RDWR)


def test_a_read_is_tried_three_times_with_growing_pauses() -> None:
    server = Flaky(breaks=2)
    with talking_to(server) as (client, pauses):
        assert client.trainables() == []
    assert server.requests == ["GET"] * 3
    assert len(pauses) == 2
    assert pauses[0] < pauses[1]


def test_a_read_is_not_tried_for_ever() -> None:
    server = Flaky(breaks=100)
    with talking_to(server) as (client, _), pytest.raises(UnreachableError):
        client.trainables()
    assert server.requests == ["GET"] * 3


@pytest.mark.parametrize(
    "call",
    [lambda c: c.stop("swp_1"), lambda c: c.cancel("swp_1")],
    ids=["stop", "cancel"],
)
def test_a_write_is_tried_once_since_it_may_have_happened(call: Callable[[SweepClient], object]) -> None:
    server = Flaky(breaks=1)
    with talking_to(server) as (client, pauses), pytest.raises(UnreachableError, match="It may have been") as caught:
        call(client)
    assert server.requests == ["POST"]
    assert pauses == []
    assert caught.value.may_have_happened


def test_a_submission_is_repeated_under_the_same_key() -> None:
    server = Flaky(breaks=2, answer=RUNNING, status="201 Created")
    with talking_to(server) as (client, pauses):
        assert client.submit({})["id"] == "swp_1"
        assert client.submit({})["id"] == "swp_1"
    assert server.requests == ["POST"] * 4
    assert len(pauses) == 2
    assert len(set(server.keys[:3])) == 1
    assert server.keys[3] != server.keys[0], "every call is another submission"


def test_a_spec_whose_answer_was_lost_may_have_been_queued_and_one_that_was_never_sent_has_not() -> None:
    with talking_to(Flaky(breaks=100)) as (client, _), pytest.raises(UnreachableError) as lost:
        client.submit({})
    assert "It may have been queued; look with `sweep list` before sending it again." in str(lost.value)
    with SweepClient("http://127.0.0.1:9") as client, pytest.raises(UnreachableError) as never_sent:
        client.submit({})
    assert "queued" not in str(never_sent.value)
    assert not never_sent.value.may_have_happened


def test_an_answer_that_cannot_be_decoded_is_no_answer() -> None:
    server = Flaky(breaks=0, header="Content-Encoding: gzip\r\nConnection: close")
    with talking_to(server) as (client, _), pytest.raises(UnreachableError, match="DecodingError"):
        client.trainables()


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b'{"status": "ok"}',
        b'{"id": 7, "state": {}, "sweeps": 1, "trials": {}, "events": "", "trainables": null}',
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.submit({}),
        lambda c: c.get("swp_1"),
        lambda c: c.list(),
        lambda c: c.trials("swp_1"),
        lambda c: c.best("swp_1"),
        lambda c: c.events("swp_1"),
        lambda c: c.stop("swp_1"),
        lambda c: c.trainables(),
        lambda c: c.wait("swp_1"),
    ],
    ids=["submit", "get", "list", "trials", "best", "events", "stop", "trainables", "wait"],
)
def test_an_object_of_another_service_is_not_taken_for_an_answer(
    call: Callable[[SweepClient], object], answer: bytes
) -> None:
    with (
        talking_to(Flaky(breaks=0, answer=answer)) as (client, _),
        pytest.raises(ApiError, match="is that the sweep service"),
    ):
        call(client)


@pytest.mark.parametrize(
    ("status", "answer"), [("200 OK", b"<html>"), ("502 Bad Gateway", b"oops"), ("200 OK", b"[1]")]
)
def test_an_answer_that_is_not_the_services_is_said_to_be_so(status: str, answer: bytes) -> None:
    with talking_to(Flaky(breaks=0, status=status, answer=answer)) as (client, _):
        with pytest.raises(ApiError, match="is that the sweep service") as caught:
            client.trainables()
        assert caught.value.status == int(status[:3])


@pytest.mark.parametrize(
    "answer", [b"{}", b'{"errors": 3}', b'{"errors": [1, {"pointer": "/a"}]}', b'{"detail": null}']
)
def test_a_refusal_with_parts_missing_is_still_an_error_of_its_kind(answer: bytes) -> None:
    with talking_to(Flaky(breaks=0, status="422 Unprocessable", answer=answer)) as (client, _):
        with pytest.raises(InvalidRequestError) as caught:
            client.trainables()
        assert str(caught.value)


def test_a_service_that_goes_away_while_one_waits_is_waited_for() -> None:
    server = Flaky(breaks=0, answer=RUNNING)
    states: list[str] = []

    def go_away_then_end(sweep: dict[str, str]) -> None:
        states.append(sweep["state"])
        if len(states) == 1:
            server.breaks = len(server.requests) + 5
            server.answer = COMPLETED

    with talking_to(server) as (client, _):
        assert client.wait("swp_1", on_update=go_away_then_end)["state"] == "completed"
    assert states == ["running", "completed"]


def test_a_service_that_stays_away_is_given_up() -> None:
    server = Flaky(breaks=0, answer=RUNNING)

    def go_away(_sweep: dict[str, str]) -> None:
        server.breaks = 10**9

    with talking_to(server) as (client, _), pytest.raises(UnreachableError):
        client.wait("swp_1", patience=0.05, on_update=go_away)


@pytest.mark.parametrize(
    ("status", "answer"),
    [("500 Internal Server Error", b"{}"), ("502 Bad Gateway", b"<html>"), ("503 Service Unavailable", b"{}")],
)
def test_a_service_that_fails_once_while_one_waits_is_asked_again(status: str, answer: bytes) -> None:
    server = Flaky(breaks=0, answer=RUNNING)
    states: list[str] = []

    def fail_then_end(sweep: dict[str, str]) -> None:
        states.append(sweep["state"])
        server.status, server.answer = status, answer

    def end() -> None:
        if len(server.requests) > 1:
            server.status, server.answer = "200 OK", COMPLETED

    with talking_to(server, in_pauses=end) as (client, _):
        assert client.wait("swp_1", on_update=fail_then_end)["state"] == "completed"
    assert states == ["running", "completed"]
    assert len(server.requests) == 3


def test_a_service_that_goes_on_failing_is_given_up() -> None:
    server = Flaky(breaks=0, answer=RUNNING)

    def fail(_sweep: dict[str, str]) -> None:
        server.status = "500 Internal Server Error"

    with talking_to(server) as (client, _), pytest.raises(ApiError) as caught:
        client.wait("swp_1", patience=0.05, on_update=fail)
    assert caught.value.status == 500


def test_a_refusal_while_one_waits_is_not_waited_through() -> None:
    server = Flaky(breaks=0, answer=RUNNING)

    def vanish(_sweep: dict[str, str]) -> None:
        server.status = "404 Not Found"

    with talking_to(server) as (client, _), pytest.raises(MissingError):
        client.wait("swp_1", on_update=vanish)
    assert len(server.requests) == 2
