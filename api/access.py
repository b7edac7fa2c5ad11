"""Who may do what: which requests need no key, and which role the others need. What nobody has thought of needs most.

It is judged by method and path, before the request is routed and before its body is read. The path is the one that the
routes are matched with, letter by letter.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from api.schemas.sweeps import PREFIX
from sweep_service.domain.hosts import is_loopback
from sweep_service.domain.keys import ANONYMOUS, Actor, KeyRole, KeyText
from sweep_service.settings import Settings

PUBLIC_PATHS = ("/healthz", "/readyz")
"""All that is answered without a key: supervisors and load balancers have none."""

AUTHORIZE_PATH = "/internal/authorize"

CALLER = "sweep_service.caller"
"""Key of a request's scope under which its Caller is."""


class OpenToOthersError(Exception):
    """Everybody who reaches this machine could do everything."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"SWEEP_REQUIRE_KEYS is false, and SWEEP_HOST ({host!r}) is not this machine alone: whoever reaches it "
            "could do everything. Remove SWEEP_REQUIRE_KEYS and make keys, or set SWEEP_HOST=127.0.0.1."
        )


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Whose request it is."""

    actor: Actor
    role: KeyRole
    key: KeyText | None = field(default=None, repr=False)  # None: none was given, and none is needed
    is_basic: bool = False  # a browser may have added the key by itself


NOBODY = Caller(actor=ANONYMOUS, role=KeyRole.ADMIN)
"""Whoever gives no key where none is needed: on a machine of their own."""


def are_keys_required(settings: Settings) -> bool:
    """Raises OpenToOthersError if they are not, and others could come."""
    if settings.require_keys is None:
        return not is_loopback(settings.host)
    if not settings.require_keys and not is_loopback(settings.host):
        raise OpenToOthersError(settings.host)
    return settings.require_keys


def needed_role(method: str, path: str) -> KeyRole:
    """The role that a key must cover for that request, HEAD counting as GET."""
    reads = method == "GET"
    if path == f"{PREFIX}/keys/me" and reads:
        return KeyRole.VIEWER
    if _is_under(path, f"{PREFIX}/keys") or _is_under(path, f"{PREFIX}/audit"):
        return KeyRole.ADMIN
    if reads or path == AUTHORIZE_PATH:  # which judges by itself
        return KeyRole.VIEWER
    return KeyRole.SUBMITTER if _is_under(path, f"{PREFIX}/sweeps") else KeyRole.ADMIN


def _is_under(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
