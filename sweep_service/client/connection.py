"""The way to a service: requests that may be repeated, pages, and answers that are what they should be."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType, UnionType
from typing import Any, Self, TypeAlias

import httpx

from sweep_service.client.errors import ERROR_OF_STATUS, ApiError, Document, UnreachableError

Shape: TypeAlias = Mapping[str, type | UnionType]  # of an answer: its keys, and what each must be

KEY_HEADER = "Idempotency-Key"
ATTEMPTS = 3  # of what may be repeated without harm
BACKOFF_SECONDS = 0.2  # doubles
PAGE_SIZE = 500
KEEPALIVE_SECONDS = 2.0  # many servers close what is idle for 5 s, and a request that crosses that is lost
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Connection:
    """Base of SweepClient."""

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
            base_url=self.base_url,
            timeout=timeout,
            trust_env=not _is_loopback(url.host),
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
        raise ERROR_OF_STATUS.get(response.status_code, ApiError)(response.status_code, document)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        may_repeat = method == "GET" or KEY_HEADER in options.get("headers", {})
        attempts = ATTEMPTS if may_repeat else 1
        for attempt in range(attempts):
            try:
                return self._http.request(method, path, **options)
            except httpx.RequestError as error:
                if attempt == attempts - 1:
                    raise self._unreachable(method, path, error) from error
            self._sleep(BACKOFF_SECONDS * 2**attempt)
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
