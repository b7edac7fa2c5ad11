"""Sweeps and trials over REST, as Python calls."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from sweep_service.client.connection import ATTEMPTS, BACKOFF_SECONDS, KEY_HEADER, Connection, Shape, asked_wait
from sweep_service.client.errors import ApiError, Document, LimitedError, UnreachableError, WaitTimeoutError

_SWEEP: Shape = {"id": str, "state": str}
_BEST: Shape = {"best": dict | None, "reason": str | None, "front": list | None}
_PREVIEW: Shape = {"spec": dict, "trials": dict, "fusion": dict, "samples": list}
_KEY: Shape = {"id": str, "name": str, "role": str}
_NEW_KEY: Shape = {**_KEY, "key": str}
_OWN_KEY: Shape = {"name": str, "role": str}
_KEYS: Shape = {"keys": list}
_PROBLEM: Shape = {"type": str, "status": int}
_TRAINABLES: Shape = {"trainables": list}

_FOLLOW_SECONDS = 1.0  # a worker sends lines as often
ENDED_STATES = frozenset({"completed", "stopped", "cancelled", "failed"})


class SweepClient(Connection):
    """Talks to one service. Sweeps, trials and events are dictionaries, as the API documents them.

    Where the service requires a key, ``key`` is its text. What it has too many requests to answer is sent again after
    the time that it asks for.

    Every method raises UnreachableError or ApiError. What only reads is tried three times before UnreachableError, and
    so is submitting, under a key by which the service knows a repetition; what else writes is tried once, since a lost
    answer does not mean that nothing happened.
    """

    def submit(self, spec: Mapping[str, Any], *, key: str | None = None) -> Document:
        """Queue a sweep; once, however often the same spec is submitted under the same ``key`` (a fresh one for each
        call if none is given). Raises InvalidRequestError, whose ``errors`` point at every wrong field.
        """
        headers = {KEY_HEADER: key or uuid.uuid4().hex}
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
        """``{"best": trial or None, "reason": why there is none, "front": trials}``; the front is None where the sweep
        has a single objective, else each of its trials has its ``values`` by metric.
        """
        return self._call("GET", f"{_sweep_path(sweep_id)}/best", _BEST)

    def report(self, sweep_id: str) -> str:
        """The sweep as a page of HTML that needs nothing else; of one that still runs, how it stands."""
        response = self._send("GET", f"/api/v1{_sweep_path(sweep_id)}/report")
        if not response.is_success or not response.headers.get("content-type", "").startswith("text/html"):
            self._document(response, _PROBLEM)
        return response.text

    def events(self, sweep_id: str, *, after: int = 0) -> list[Document]:
        """All that has happened to the sweep, by seq, above ``after``."""
        return list(self._read_on(f"{_sweep_path(sweep_id)}/events", "events", after))

    def follow(self, sweep_id: str, *, after: int = 0) -> Iterator[Document]:
        """The sweep's events as they happen, by seq, above ``after``; ends with the sweep. A connection that breaks is
        made again, and no event is missed nor comes twice.

        Raises:
            MissingError: there is no such sweep, or it has been deleted meanwhile.
        """
        failures = 0
        pause: float | None
        path = f"/api/v1{_sweep_path(sweep_id)}/events"
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
            pause = None
            try:
                with self._http.stream("GET", path, headers=headers) as response:
                    if response.status_code == httpx.codes.NO_CONTENT:
                        return
                    pause = asked_wait(response) if failures < ATTEMPTS - 1 else None
                    if pause is None and response.status_code != httpx.codes.OK:
                        response.read()
                        self._document(response, _PROBLEM)
                    failures += pause is not None
                    for event in _events_of(response.iter_lines()):
                        after, failures = event["seq"], 0
                        yield event
            except httpx.RequestError as error:
                failures += 1
                if failures == ATTEMPTS:
                    raise self._unreachable("GET", path, error) from error
            self._sleep(BACKOFF_SECONDS * 2**failures if pause is None else pause)

    def trial(self, trial_id: str) -> Document:
        """The trial with every attempt at it."""
        return self._call("GET", _trial_path(trial_id), _SWEEP)

    def metrics(self, trial_id: str, *, keys: Iterable[str] = (), after: int = 0) -> list[Document]:
        """What the trial has reported so far, in order, above the seq ``after``: of each report its ``seq``, ``step``
        and ``metrics``, only those of the keys where such are given.
        """
        return list(self._read_on(f"{_trial_path(trial_id)}/metrics", "points", after, {"key": [*keys]}))

    def trial_logs(self, trial_id: str, *, after: int = 0, follow: bool = False) -> Iterator[Document]:
        """The lines that the trial's code has printed and logged, in every attempt, by seq, above ``after``: each with
        its ``attempt``, ``at``, ``stream``, ``level`` and ``text``. With ``follow``, until the trial has ended.
        """
        return self._logs(_trial_path(trial_id), after, follow=follow)

    def sweep_logs(self, sweep_id: str, *, after: int = 0, follow: bool = False) -> Iterator[Document]:
        """The same of all trials of the sweep, as the lines came in."""
        return self._logs(_sweep_path(sweep_id), after, follow=follow)

    def _logs(self, path: str, after: int, *, follow: bool) -> Iterator[Document]:
        while True:
            # First: all that was said until the end is then among the lines.
            is_over = not follow or self._call("GET", path, _SWEEP).get("ended_at") is not None
            for line in self._read_on(f"{path}/logs", "lines", after):
                after = line["seq"]
                yield line
            if is_over:
                return
            self._sleep(_FOLLOW_SECONDS)

    def pause(self, sweep_id: str) -> Document:
        """No new trials start, running ones rest at their next report. Raises ConflictError."""
        return self._call("POST", f"{_sweep_path(sweep_id)}/pause", _SWEEP)

    def resume(self, sweep_id: str) -> Document:
        """A paused sweep goes on. Raises ConflictError."""
        return self._call("POST", f"{_sweep_path(sweep_id)}/resume", _SWEEP)

    def amend(self, sweep_id: str, patch: Mapping[str, Any]) -> Document:
        """Change its budget, ``resources.parallel`` or ``early_stopping``: what the patch names is set, None removes.
        One that has ended goes on for it. Raises InvalidRequestError, ConflictError.
        """
        return self._call("PATCH", _sweep_path(sweep_id), _SWEEP, json=dict(patch))

    def retry(self, sweep_id: str) -> Document:
        """Its failed trials are tried again, after its end too. Raises ConflictError."""
        return self._call("POST", f"{_sweep_path(sweep_id)}/retry", _SWEEP)

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

    def create_key(self, name: str, role: str) -> Document:
        """Make an API key for a viewer, submitter or admin. Its text is the answer's ``key``, and in no other answer.
        Needs an admin's key. Raises InvalidRequestError; ConflictError: the name is taken.
        """
        return self._call("POST", "/keys", _NEW_KEY, json={"name": name, "role": role})

    def list_keys(self) -> list[Document]:
        """All keys, the revoked ones last. Needs an admin's key."""
        return self._call("GET", "/keys", _KEYS)["keys"]

    def own_key(self) -> Document:
        """Whom the service takes the caller for: ``name`` and ``role``."""
        return self._call("GET", "/keys/me", _OWN_KEY)

    def revoke_key(self, key_id: str) -> Document:
        """Let a key open nothing any more. Needs an admin's key. Raises ConflictError: it is the last admin's."""
        return self._call("POST", f"/keys/{quote(key_id, safe='', errors='surrogatepass')}/revoke", _KEY)

    def audit(self, *, after: int = 0) -> list[Document]:
        """Who has changed what, by seq, above ``after``. Needs an admin's key."""
        return list(self._read_on("/audit", "records", after))

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
                may_pass = not isinstance(error, ApiError) or error.status >= 500 or isinstance(error, LimitedError)
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
