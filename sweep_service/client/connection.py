"""The way to a service: requests that may be repeated, pages, and answers that are what they should be."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType, UnionType
from typing import Any, Self, TypeAlias

import httpx

from sweep_service.client.errors import ERROR_OF_STATUS, ApiError, Document, UnauthorizedError, UnreachableError
from sweep_service.domain.hosts import is_loopback
from sweep_service.domain.keys import EXAMPLE, parse_key, without_keys

Shape: TypeAlias = Mapping[str, type | UnionType]  # of an answer: its keys, and what each must be

KEY_HEADER = "Idempotency-Key"
ATTEMPTS = 3  # of what may be repeated without harm
BACKOFF_SECONDS = 0.2  # doubles
PAGE_SIZE = 500
KEEPALIVE_SECONDS = 2.0  # many servers close what is idle for 5 s, and a request that crosses that is lost
MOST_PATIENCE_SECONDS = 30.0  # that a service may ask for
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class UnencryptedKeyWarning(UserWarning):
    """A key goes over the network as it is."""


class Connection:
    """Base of SweepClient."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        timeout: float = 30.0,
        *,
        key: str | None = None,
        allow_http: bool = False,
        sleep: Callable[[float], None] = time.sleep,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Raises ValueError for what is no address, or no key. A key that would go to another machine unencrypted
        causes a warning, unless ``allow_http``: a private network may be meant.
        """
        self.base_url = base_url.rstrip("/")
        self._sleep = sleep
        url = _checked_address(self.base_url)
        given = None if key is None or not key.strip() else parse_key(key.strip())
        if key is not None and key.strip() and given is None:
            raise ValueError(f"What is given as key is none; one looks like {EXAMPLE}")
        self._has_key = given is not None
        if self._has_key and not allow_http and goes_unencrypted(self.base_url):
            warnings.warn(f"The key goes to {url.host} unencrypted; use https.", UnencryptedKeyWarning, stacklevel=2)
        # A proxy of the environment cannot reach this machine's loopback.
        self._http = httpx.Client(
            base_url=self.base_url,
            timeout=timeout,
            trust_env=not is_loopback(url.host),
            headers={} if given is None else {"Authorization": f"Bearer {given.text}"},
            transport=transport,
            limits=httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS),
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

    def _pages(
        self, path: str, key: str, limit: int | None, wish: Mapping[str, Any] | None = None
    ) -> Iterator[Document]:
        shape: Shape = {key: list, "next_page_token": str | None}
        token: str | None = None
        left = limit
        while left is None or left > 0:
            params = {**(wish or {}), "page_size": PAGE_SIZE if left is None else min(left, PAGE_SIZE)}
            page = self._call("GET", path, shape, params=params if token is None else {**params, "page_token": token})
            yield from page[key]
            token = page["next_page_token"]
            if token is None:
                return
            left = None if left is None else left - len(page[key])

    def _read_on(self, path: str, key: str, after: int, wish: Mapping[str, Any] | None = None) -> Iterator[Document]:
        """Of what grows while it is read, all that is there now above the seq ``after``."""
        shape: Shape = {key: list, "next_after": int, "has_more": bool}
        more = True
        while more:
            page = self._call("GET", path, shape, params={**(wish or {}), "after": after, "page_size": PAGE_SIZE})
            yield from page[key]
            after, more = page["next_after"], page["has_more"]

    def _call(self, method: str, path: str, shape: Shape, **options: Any) -> Document:
        return self._document(self._send(method, f"/api/v1{path}", **options), shape)

    def _document(self, response: httpx.Response, shape: Shape) -> Document:
        try:
            document = response.json()
        except ValueError:
            document = None
        if not isinstance(document, dict) or (response.is_success and not _has_shape(document, shape)):
            what = (
                f"{self.base_url} answered {response.status_code}, but not what was asked; is that the sweep service?"
            )
            document = {"title": "Unexpected answer", "status": response.status_code, "detail": what}
        elif response.is_success:
            return document
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise UnauthorizedError.of(self.base_url, document, has_key=self._has_key)
        raise ERROR_OF_STATUS.get(response.status_code, ApiError)(response.status_code, document)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        may_repeat = method == "GET" or KEY_HEADER in options.get("headers", {})
        for attempt in range(ATTEMPTS):
            is_last = attempt == ATTEMPTS - 1
            pause = BACKOFF_SECONDS * 2**attempt
            try:
                response = self._http.request(method, path, **options)
            except httpx.RequestError as error:
                if is_last or not may_repeat:
                    raise self._unreachable(method, path, error) from error
            else:
                wait = asked_wait(response)
                if wait is None or is_last:
                    return response
                pause = wait  # whatever it was: it has not been done
            self._sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    def _unreachable(self, method: str, path: str, error: httpx.RequestError) -> UnreachableError:
        cause = f"{type(error).__name__}: {error}"
        if method == "GET" or isinstance(error, _NEVER_SENT):
            return UnreachableError(self.base_url, cause)
        way_out = "It may have been done; look with `sweep show`."
        if path.endswith("/sweeps"):
            way_out = "It may have been queued; look with `sweep list` before sending it again."
        return UnreachableError(self.base_url, cause, way_out=way_out, may_have_happened=True)


def _has_shape(document: Document, shape: Shape) -> bool:
    return all(key in document and isinstance(document[key], kind) for key, kind in shape.items())


def goes_unencrypted(base_url: str) -> bool:
    """Whether somebody on the way to that address can read a key."""
    url = httpx.URL(base_url)
    return url.scheme == "http" and not is_loopback(url.host)


def asked_wait(response: httpx.Response) -> float | None:
    """How long to wait before the same is sent again, where the service has had too many requests; None: it is of no
    use to wait.
    """
    if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
        return None
    text = response.headers.get("retry-after", "")
    seconds = float(text) if text.isascii() and text.isdecimal() else 1.0
    return seconds if seconds <= MOST_PATIENCE_SECONDS else None


def _checked_address(base_url: str) -> httpx.URL:
    """Raises ValueError, which repeats no password and no key."""
    if without_keys(base_url) != base_url:
        raise ValueError("An address holds no key; give it by --key or SWEEP_KEY")
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{base_url!r} is no address of a service: {error}") from None
    if url.userinfo:
        raise ValueError("An address holds neither user nor password; give a key by --key or SWEEP_KEY")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"{base_url!r} is no address of a service; one looks like http://127.0.0.1:8000")
    return url
