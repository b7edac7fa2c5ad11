"""How a call to the service can fail.

ClientError
├── UnreachableError        no answer came from there
├── WaitTimeoutError        the sweep has not ended in time
└── ApiError                the service said no; carries its problem document
    ├── InvalidRequestError     400, 413, 415, 422: what was sent is wrong
    ├── UnauthorizedError       401: no key was given, or none that is valid there
    ├── ForbiddenError          403: the key's role is not enough
    ├── MissingError            404
    ├── ConflictError           409: not possible in the sweep's state; ``allowed`` says what is
    ├── LimitedError            429: too many requests, more than waiting could help
    └── UnavailableError        503: try again later
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]
_IS_IT_UP = "Is the service up? `sweep up` starts one here; another address is given by --server or SWEEP_SERVER."


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


class UnauthorizedError(ApiError):
    """No key was given, or none that is valid there."""

    @classmethod
    def of(cls, base_url: str, problem: Mapping[str, Any], *, has_key: bool) -> UnauthorizedError:
        """Says the way out, which the service does not know."""
        fact = f"{base_url} needs a key: give it by --key or SWEEP_KEY."
        if has_key:
            fact = f"{base_url} does not take this key: it has been revoked, or is of another service. "
            fact += "Give another one by --key or SWEEP_KEY."
        return cls(401, {**problem, "detail": fact, "errors": []})


class ForbiddenError(ApiError):
    """The key's role is not enough."""


class LimitedError(ApiError):
    """There were too many requests of that key."""


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


ERROR_OF_STATUS: Mapping[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: UnauthorizedError,
    403: ForbiddenError,
    404: MissingError,
    409: ConflictError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
    429: LimitedError,
    503: UnavailableError,
}


def _place(item: Mapping[str, str]) -> str:
    """Where a fault is."""
    return f"?{item['parameter']}" if item.get("parameter") else item.get("pointer") or "/"
