"""The body of POST /api/v1/sweeps: clean JSON, in UTF-8, of at most a megabyte, and called that."""

from __future__ import annotations

import json
import socket
from typing import Any

import httpx
import pytest
from harness import SPEC, Service, pointers, problem

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("value", [None, [], "text", 3, True], ids=repr)
def test_a_document_that_is_no_object_is_refused(service: Service, value: Any) -> None:
    before = service.num_sweeps()
    answer = problem(service.http.post("/api/v1/sweeps", content=json.dumps(value), headers=JSON), 422)
    assert answer["errors"][0]["code"] == "not_an_object"
    assert service.num_sweeps() == before


def _spec_text(**replacements: str) -> bytes:
    """SPEC as JSON with a raw piece of text in place of a field's value."""
    text = json.dumps({**SPEC, **dict.fromkeys(replacements, "@")})
    for key, raw in replacements.items():
        text = text.replace(f'"{key}": "@"', f'"{key}": {raw}')
    return text.encode()


BAD_BODIES = {
    "nothing": (b"", "invalid_json"),
    "white space": (b"  \n", "invalid_json"),
    "not JSON": (b"name: small", "invalid_json"),
    "cut off": (json.dumps(SPEC).encode()[:-3], "invalid_json"),
    "two documents": (b"{} {}", "invalid_json"),
    "not UTF-8": (b'{"name": "\xff\xfe"}', "invalid_json"),
    "UTF-16": (json.dumps(SPEC).encode("utf-16"), "invalid_json"),
    "raw control character": (_spec_text(name='"a\nb"'), "invalid_json"),
    "NaN": (_spec_text(budget='{"trials": NaN}'), "invalid_number"),
    "Infinity": (_spec_text(budget='{"trials": -Infinity}'), "invalid_number"),
    "overflowing number": (_spec_text(budget='{"trials": 1e999}'), "invalid_number"),
    "number of ten thousand digits": (_spec_text(budget='{"trials": ' + "9" * 10_000 + "}"), "invalid_number"),
    "a key twice": (_spec_text(budget='{"trials": 1, "trials": 2}'), "duplicate_key"),
    "deeper than any spec": (b'{"a":' * 60 + b"1" + b"}" * 60, "too_deep"),
    "nesting bomb of lists": (b"[" * 400_000, "too_deep"),
    "nesting bomb of objects": (b'{"a":' * 150_000, "too_deep"),
    "half a surrogate pair": (_spec_text(name='"\\ud800"'), "invalid_text"),
    "half a surrogate pair in a key": (_spec_text(params='{"\\udfff": 1}'), "invalid_text"),
    "NUL": (_spec_text(name='"a\\u0000b"'), "invalid_text"),
    "NUL in a label": (_spec_text(labels='{"team": "\\u0000"}'), "invalid_text"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_a_body_that_is_no_clean_json_is_refused_and_nothing_is_queued(service: Service, case: str) -> None:
    body, code = BAD_BODIES[case]
    before = service.num_sweeps()
    answer = problem(service.http.post("/api/v1/sweeps", content=body, headers=JSON), 400)
    assert {item["code"] for item in answer["errors"]} == {code}
    assert service.num_sweeps() == before


def test_a_number_without_end_is_refused_in_a_persons_words(service: Service) -> None:
    body = _spec_text(budget='{"trials": ' + "9" * 10_000 + "}")
    detail = problem(service.http.post("/api/v1/sweeps", content=body, headers=JSON), 400)["detail"]
    assert "99999… has 10000 digits" in detail
    assert "sys." not in detail


def test_a_repeated_key_is_pointed_at_wherever_it_is(service: Service) -> None:
    body = b'{"space": {"alpha": {"low": 1, "low": 2}}, "params": [{"a": 1}, {"b": 1, "b": 1}]}'
    answer = problem(service.http.post("/api/v1/sweeps", content=body, headers=JSON), 400)
    assert pointers(answer) == {"/space/alpha/low", "/params/1/b"}


def test_text_of_every_script_goes_in_and_comes_out_unchanged(service: Service) -> None:
    name = "Größe 大 😀 𐍈"
    for body in (json.dumps({**SPEC, "name": name}), json.dumps({**SPEC, "name": name}, ensure_ascii=False)):
        response = service.http.post("/api/v1/sweeps", content=body.encode(), headers=JSON)
        assert response.status_code == 201
        assert response.json()["name"] == name
        assert service.http.get(response.headers["location"]).json()["name"] == name


def test_a_body_of_ten_megabytes_is_refused_and_nothing_is_queued(service: Service) -> None:
    before = service.num_sweeps()
    body = json.dumps({**SPEC, "name": "x" * 10_000_000}).encode()
    answer = problem(service.http.post("/api/v1/sweeps", content=body, headers=JSON), 413)
    assert "1000000 bytes" in answer["detail"]
    assert service.num_sweeps() == before


def test_a_body_of_unknown_length_is_counted_while_it_comes(service: Service) -> None:
    before = service.num_sweeps()
    response = service.http.post(
        "/api/v1/sweeps", content=(b'{"a": "' + b"x" * 100_000 for _ in range(100)), headers=JSON
    )
    assert "content-length" not in response.request.headers
    problem(response, 413)
    assert service.num_sweeps() == before


def test_a_body_of_unknown_length_within_the_limit_is_taken(service: Service) -> None:
    text = json.dumps(SPEC).encode()
    response = service.http.post(
        "/api/v1/sweeps", content=(text[i : i + 7] for i in range(0, len(text), 7)), headers=JSON
    )
    assert response.status_code == 201


@pytest.mark.parametrize("size", [999_999, 1_000_000, 1_000_001])
def test_the_limit_of_a_body_is_exact(service: Service, size: int) -> None:
    text = json.dumps(SPEC)
    body = text + " " * (size - len(text))
    response = service.http.post("/api/v1/sweeps", content=body.encode(), headers=JSON)
    assert response.status_code == (201 if size <= 1_000_000 else 413)


def first_answer_to(service: Service, more_head: str, body: bytes) -> bytes:
    """The status line of the answer to a request that says that ten megabytes follow."""
    address = httpx.URL(service.url)
    head = (
        f"POST /api/v1/sweeps HTTP/1.1\r\nHost: {address.host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: 10000000\r\n{more_head}\r\n"
    )
    with socket.create_connection((address.host, address.port or 80), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        return connection.recv(100).partition(b"\r\n")[0]


def test_a_client_that_waits_for_permission_to_send_too_much_is_refused_before_it_sends(service: Service) -> None:
    assert first_answer_to(service, "Expect: 100-continue\r\n", b"").startswith(b"HTTP/1.1 413 ")


def test_a_client_that_sends_all_of_too_much_before_it_reads_still_gets_the_answer(service: Service) -> None:
    """A server that closed the connection early would break it under the sender instead."""
    assert first_answer_to(service, "", b" " * 10_000_000).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded",
        "application/yaml",
        "application/json; charset=latin-1",
        'application/json; profile="x"; charset=latin-1',
        "application/json, text/plain",
        "",
    ],
)
def test_a_body_that_is_not_said_to_be_json_is_refused(service: Service, content_type: str) -> None:
    before = service.num_sweeps()
    body = json.dumps(SPEC).encode()
    problem(service.http.post("/api/v1/sweeps", content=body, headers={"Content-Type": content_type}), 415)
    assert service.num_sweeps() == before


def test_a_body_without_any_content_type_is_refused(service: Service) -> None:
    before = service.num_sweeps()
    problem(service.http.post("/api/v1/sweeps", content=json.dumps(SPEC).encode()), 415)
    assert service.num_sweeps() == before


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON; charset=UTF-8",
        'application/json;charset="utf-8"',
        'application/json; profile="x"; charset=utf-8',
        'application/json; profile="a; charset=latin-1"',
        "application/json;",
    ],
)
def test_json_in_utf8_is_taken_however_it_is_spelt(service: Service, content_type: str) -> None:
    body = json.dumps(SPEC).encode()
    response = service.http.post("/api/v1/sweeps", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 201
