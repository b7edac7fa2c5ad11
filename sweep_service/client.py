"""The Python client of the REST API.

ClientError
├── UnreachableError        no answer came from there
├── WaitTimeoutError        the sweep has not ended in time
└── ApiError                the service said no; carries its problem document
    ├── InvalidRequestError     400, 413, 415, 422: what was sent is wrong
    ├── MissingError            404
    ├── ConflictError           409: not possible in the sweep's state; ``allowed`` says what is
    └── UnavailableError        503: try again later
"""

from __future__ import annotations

import ipaddress
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType, UnionType
from typing import Any, Self, TypeAlias
from urllib.parse import quote

import httpx

Document: TypeAlias = dict[str, Any]
_Shape: TypeAlias = Mapping[str, type | UnionType]  # of an answer: its keys, and what each must be

_SWEEP: _Shape = {"id": str, "state": str}
_BEST: _Shape = {"best": dict | None, "reason": str | None}
_EVENTS: _Shape = {"events": list, "next_after": int, "has_more": bool}
_PREVIEW: _Shape = {"spec": dict, "fusion": dict, "samples": list}
_POINTS: _Shape = {"points": list, "next_after": int, "has_more": bool}
_PROBLEM: _Shape = {"type": str, "status": int}
_TRAINABLES: _Shape = {"trainables": list}

ENDED_STATES = frozenset({"completed", "stopped", "cancelled", "failed"})
_KEY_HEADER = "Idempotency-Key"
_ATTEMPTS = 3  # of what may be repeated without harm
_BACKOFF_SECONDS = 0.2  # doubles
_PAGE_SIZE = 500
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_IS_IT_UP = "Is the service up? `sweep up` starts one here."


class ClientError(Exception):
    """Root of the tree."""


class UnreachableError(ClientError):
    """No answer came from the service's address, or none that can be read. ``may_have_happened``: what was asked for
    was sent, and may have been done.
    """

    def __init__(self, base_url: str, cause: str, *, way_out: str = _IS_IT_UP, may_have_happened: bool = False) -> None:
        self.base_url = base_url
        self.may_have_happened = may_have_happened
        super().__init__(f"No answer from {base_url} ({cause}). {way_out}")


class WaitTimeoutError(ClientError):
    """The sweep has not ended in time. ``sweep`` is how it stood last."""

    def __init__(self, sweep: Document, timeout: float) -> None:
        self.sweep = sweep
        super().__init__(f"Sweep {sweep.get('id')} is {sweep.get('state')} after {timeout:g} s; it goes on.")


class ApiError(ClientError):
    """The service said no. The message has the detail and a line for every fault."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = dict(problem)
        lines = [str(problem.get("detail") or problem.get("title") or f"HTTP {status}")]
        lines += [f"  {_place(item)}: {item.get('detail', '')}" for item in self.errors]
        super().__init__("\n".join(lines))

    @property
    def errors(self) -> list[Mapping[str, str]]:
        """Each fault with its ``pointer``, ``code`` and ``detail``."""
        found = self.problem.get("errors")
        return [item for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


class InvalidRequestError(ApiError):
    """What was sent is wrong."""


class MissingError(ApiError):
    """There is no such thing."""


class ConflictError(ApiError):
    """Not possible in the sweep's state."""

    @property
    def allowed(self) -> list[str]:
        """What is possible instead."""
        return list(self.problem.get("allowed", []))


class UnavailableError(ApiError):
    """The service cannot answer for now."""


_ERRORS: Mapping[int, type[ApiError]] = {
    400: InvalidRequestError,
    404: MissingError,
    409: ConflictError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    503: UnavailableError,
}


class SweepClient:
    """Talks to one service. Sweeps, trials and events are dictionaries, as the API documents them.

    Every method raises UnreachableError or ApiError. What only reads is tried three times before UnreachableError, and
    so is submitting, under a key by which the service knows a repetition; what else writes is tried once, since a lost
    answer does not mean that nothing happened.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        timeout: float = 30.0,
        *,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._sleep = sleep
        try:
            url = httpx.URL(self.base_url)
            if url.scheme not in ("http", "https") or not url.host:
                raise ValueError(f"{base_url!r} is no address of a service; one looks like http://127.0.0.1:8000")
        except httpx.InvalidURL as error:
            raise ValueError(f"{base_url!r} is no address of a service: {error}") from None
        # A proxy of the environment cannot reach this machine's loopback.
        self._http = httpx.Client(
            base_url=self.base_url, timeout=timeout, trust_env=not _is_loopback(url.host), transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, spec: Mapping[str, Any], *, key: str | None = None) -> Document:
        """Queue a sweep; once, however often the same spec is submitted under the same ``key`` (a fresh one for each
        call if none is given). Raises InvalidRequestError, whose ``errors`` point at every wrong field.
        """
        headers = {_KEY_HEADER: key or uuid.uuid4().hex}
        return self._call("POST", "/sweeps", _SWEEP, json=dict(spec), headers=headers)

    def preview(self, spec: Mapping[str, Any]) -> Document:
        """Check a spec as ``submit`` does, and queue nothing: the spec with its defaults, and what would come of it."""
        return self._call("POST", "/sweeps?validate_only=true", _PREVIEW, json=dict(spec))

    def get(self, sweep_id: str) -> Document:
        """The sweep with its progress and, once it has ended, its results."""
        return self._call("GET", _sweep_path(sweep_id), _SWEEP)

    def list(
        self,
        *,
        limit: int | None = None,
        states: Iterable[str] = (),
        labels: Iterable[str] = (),
        project: str | None = None,
    ) -> list[Document]:
        """Summaries of the sweeps, newest first; all of them without a limit. Only those in one of the states, with
        all of the labels (each as ``key:value``) and of that project, where such are given.
        """
        wish: dict[str, Any] = {"state": [*states], "label": [*labels]}
        if project is not None:
            wish["project"] = project
        return list(self._pages("/sweeps", "sweeps", limit, wish))

    def trials(self, sweep_id: str, *, limit: int | None = None) -> list[Document]:
        """The sweep's trials, by number; all of them without a limit."""
        return list(self._pages(f"{_sweep_path(sweep_id)}/trials", "trials", limit))

    def best(self, sweep_id: str) -> Document:
        """``{"best": trial or None, "reason": why there is none}``."""
        return self._call("GET", f"{_sweep_path(sweep_id)}/best", _BEST)

    def report(self, sweep_id: str) -> str:
        """The sweep as a page of HTML that needs nothing else; of one that still runs, how it stands."""
        response = self._send("GET", f"/api/v1{_sweep_path(sweep_id)}/report")
        if not response.is_success or not response.headers.get("content-type", "").startswith("text/html"):
            self._document(response, _PROBLEM)
        return response.text

    def events(self, sweep_id: str, *, after: int = 0) -> list[Document]:
        """All that has happened to the sweep, by seq, above ``after``."""
        events: list[Document] = []
        more = True
        while more:
            params = {"after": after, "page_size": _PAGE_SIZE}
            page = self._call("GET", f"{_sweep_path(sweep_id)}/events", _EVENTS, params=params)
            events += page["events"]
            after, more = page["next_after"], page["has_more"]
        return events

    def follow(self, sweep_id: str, *, after: int = 0) -> Iterator[Document]:
        """The sweep's events as they happen, by seq, above ``after``; ends with the sweep. A connection that breaks is
        made again, and no event is missed nor comes twice.

        Raises:
            MissingError: there is no such sweep, or it has been deleted meanwhile.
        """
        failures = 0
        path = f"/api/v1{_sweep_path(sweep_id)}/events"
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            try:
                with self._http.stream("GET", path, headers=headers) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    if response.status_code != httpx.codes.OK:
                        response.read()
                        self._document(response, _PROBLEM)
                    for event in _events_of(response.iter_lines()):
                        after, failures = event["seq"], 0
                        yield event
            except httpx.RequestError as error:
                failures += 1
                if failures == _ATTEMPTS:
                    raise self._unreachable("GET", path, error) from error
            self._sleep(_BACKOFF_SECONDS * 2**failures)

    def trial(self, trial_id: str) -> Document:
        """The trial with every attempt at it."""
        return self._call("GET", _trial_path(trial_id), _SWEEP)

    def metrics(self, trial_id: str, *, keys: Iterable[str] = (), after: int = 0) -> list[Document]:
        """What the trial has reported so far, in order, above the seq ``after``: of each report its ``seq``, ``step``
        and ``metrics``, only those of the keys where such are given.
        """
        points: list[Document] = []
        wanted, more = [*keys], True
        while more:
            params = {"after": after, "page_size": _PAGE_SIZE, "key": wanted}
            page = self._call("GET", f"{_trial_path(trial_id)}/metrics", _POINTS, params=params)
            points += page["points"]
            after, more = page["next_after"], page["has_more"]
        return points

    def stop(self, sweep_id: str) -> Document:
        """Running trials finish, no new ones start. Raises ConflictError."""
        return self._call("POST", f"{_sweep_path(sweep_id)}/stop", _SWEEP)

    def cancel(self, sweep_id: str) -> Document:
        """Kill what runs. Raises ConflictError."""
        return self._call("POST", f"{_sweep_path(sweep_id)}/cancel", _SWEEP)

    def delete(self, sweep_id: str) -> None:
        """Forget a sweep that has ended; its MLflow runs and checkpoints stay. Raises ConflictError."""
        response = self._send("DELETE", f"/api/v1{_sweep_path(sweep_id)}")
        if response.status_code != httpx.codes.NO_CONTENT:
            self._document(response, _PROBLEM)

    def trainables(self) -> list[Document]:
        """What can be trained."""
        return self._call("GET", "/trainables", _TRAINABLES)["trainables"]

    def wait(
        self,
        sweep_id: str,
        *,
        timeout: float | None = None,
        poll: float = 0.5,
        patience: float = 30.0,
        on_update: Callable[[Document], None] | None = None,
    ) -> Document:
        """Look every ``poll`` seconds until the sweep has ended; returns how it ended.

        ``on_update`` gets the sweep after every look. A service that is away, or fails, for up to ``patience`` seconds
        after it has answered once is waited for.

        Raises:
            WaitTimeoutError: it has not ended within ``timeout`` seconds.
        """
        began = answered = time.monotonic()
        sweep: Document | None = None
        while True:
            try:
                sweep = self.get(sweep_id)
                answered = time.monotonic()
            except (UnreachableError, ApiError) as error:
                may_pass = not isinstance(error, ApiError) or error.status >= 500
                if sweep is None or not may_pass or time.monotonic() - answered > patience:
                    raise
            else:
                if on_update is not None:
                    on_update(sweep)
                if sweep["state"] in ENDED_STATES:
                    return sweep
            if timeout is not None and time.monotonic() - began + poll > timeout:
                raise WaitTimeoutError(sweep, timeout)
            self._sleep(poll)

    def _pages(
        self, path: str, key: str, limit: int | None, wish: Mapping[str, Any] | None = None
    ) -> Iterator[Document]:
        shape: _Shape = {key: list, "next_page_token": str | None}
        token: str | None = None
        left = limit
        while left is None or left > 0:
            params = {**(wish or {}), "page_size": _PAGE_SIZE if left is None else min(left, _PAGE_SIZE)}
            page = self._call("GET", path, shape, params=params if token is None else {**params, "page_token": token})
            yield from page[key]
            token = page["next_page_token"]
            if token is None:
                return
            left = None if left is None else left - len(page[key])

    def _call(self, method: str, path: str, shape: _Shape, **options: Any) -> Document:
        return self._document(self._send(method, f"/api/v1{path}", **options), shape)

    def _document(self, response: httpx.Response, shape: _Shape) -> Document:
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict) or (response.is_success and not _has_shape(document, shape)):
            status = response.status_code
            what = f"{self.base_url} answered {status}, but not what was asked; is that the sweep service?"
            document = {"title": "Unexpected answer", "status": response.status_code, "detail": what}
        elif response.is_success:
            return document
        raise _ERRORS.get(response.status_code, ApiError)(response.status_code, document)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        may_repeat = method == "GET" or _KEY_HEADER in options.get("headers", {})
        attempts = _ATTEMPTS if may_repeat else 1
        for attempt in range(attempts):
            try:
                return self._http.request(method, path, **options)
            except httpx.RequestError as error:
                if attempt == attempts - 1:
                    raise self._unreachable(method, path, error) from error
            self._sleep(_BACKOFF_SECONDS * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, method: str, path: str, error: httpx.RequestError) -> UnreachableError:
        cause = f"{type(error).__name__}: {error}"
        if method == "GET" or isinstance(error, _NEVER_SENT):
            return UnreachableError(self.base_url, cause)
        way_out = "It may have been done; look with `sweep show`."
        if path.endswith("/sweeps"):
            way_out = "It may have been queued; look with `sweep list` before sending it again."
        return UnreachableError(self.base_url, cause, way_out=way_out, may_have_happened=True)


def _has_shape(document: Document, shape: _Shape) -> bool:
    return all(key in document and isinstance(document[key], kind) for key, kind in shape.items())


def _events_of(lines: Iterable[str]) -> Iterator[Document]:
    """The events of a stream. One that was cut off before its empty line does not count."""
    data = ""
    for line in lines:
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
        elif not line and data:
            yield json.loads(data)
            data = ""


def _trial_path(trial_id: str) -> str:
    return f"/trials/{quote(trial_id, safe='', errors='surrogatepass')}"


def _sweep_path(sweep_id: str) -> str:
    # Bytes of a terminal that are no text come as half surrogate pairs, which must not pass for a fault of ours.
    return f"/sweeps/{quote(sweep_id, safe='', errors='surrogatepass')}"


def _place(item: Mapping[str, str]) -> str:
    """Where a fault is."""
    return f"?{item['parameter']}" if item.get("parameter") else item.get("pointer") or "/"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
