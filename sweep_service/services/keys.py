"""What may be done with API keys: make, list, revoke, and find out whose a text is."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sweep_service.domain.audit import AuditRecord
from sweep_service.domain.errors import Finding, InvalidKeyError
from sweep_service.domain.ids import check_key_id
from sweep_service.domain.keys import Actor, ApiKey, KeyRole, KeyText, StoredKey, name_fault, new_key_text
from sweep_service.domain.spec_shape import json_pointer, suggest
from sweep_service.ports import Clock, SweepStore
from sweep_service.services.pages import Page, page_of

TRUST_SECONDS = 0.5
"""For so long a key is not looked up again: a revoked one opens nothing after it, and whoever asks many times a second
does not make as many queries."""

_USE_INTERVAL = timedelta(minutes=1)  # the store writes no sooner; to ask it would be a write to SQLite's file
_MOST_TRUSTED = 1024  # keys that are remembered
_FIELDS = ("name", "role")


@dataclass(frozen=True, kw_only=True)
class NewKey:
    """A key with its text, which is known here alone and at this moment alone."""

    key: ApiKey
    text: str = field(repr=False)


class KeyService:
    """API keys as their admins see them.

    Any method may raise StoreUnavailableError, after which a change may have been made or not.
    """

    def __init__(self, *, store: SweepStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def create(self, document: Any, *, by: Actor) -> NewKey:
        """Make the key that ``{"name": …, "role": …}`` asks for.

        Raises:
            InvalidKeyError: with everything that is wrong.
            KeyNameTakenError.
        """
        name, role = _checked(document)
        now = self._clock.now()
        text = new_key_text(now=now)
        key = ApiKey(id=text.id, name=name, role=role, created_at=now, created_by=by.name)
        return NewKey(key=self._store.add_key(key, digest=text.digest, by=by), text=text.text)

    def list_keys(self) -> Sequence[ApiKey]:
        """Those that are not revoked, then the revoked ones; each the newest first."""
        return self._store.list_keys()

    def revoke(self, key_id: str, *, by: Actor) -> ApiKey:
        """Let it open nothing from now on; nothing happens if it is so already.

        Raises:
            KeyNotFoundError, LastAdminKeyError.
        """
        check_key_id(key_id)
        return self._store.revoke_key(key_id, by=by)

    def list_audit(self, *, after: int = 0, limit: int = 50) -> Page[AuditRecord]:
        """Who has changed what, by seq, only records above ``after``."""
        return page_of(self._store.list_audit(after=after, limit=limit + 1), limit)


class KeyRing:
    """Finds out whose a key is. Safe to share between threads.

    A key that was found is trusted for TRUST_SECONDS.
    """

    def __init__(self, *, store: SweepStore, clock: Clock, timer: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._timer = timer
        self._lock = threading.Lock()
        self._found: OrderedDict[str, tuple[float, StoredKey | None]] = OrderedDict()  # by id; with when it was found

    def knows(self, text: KeyText) -> bool:
        """Whether it opened something when it was looked up last, however long ago that is. Asks nobody."""
        with self._lock:
            _, stored = self._found.get(text.id, (0.0, None))
        return _opened(text, stored) is not None

    def fresh(self, text: KeyText) -> ApiKey | None:
        """The key, if it has been found within the last TRUST_SECONDS. Asks nobody."""
        with self._lock:
            found_at, stored = self._found.get(text.id, (0.0, None))
        return _opened(text, stored) if self._timer() - found_at < TRUST_SECONDS else None

    def find(self, text: KeyText) -> ApiKey | None:
        """The key whose text that is; None where there is none, or it is revoked. Raises StoreUnavailableError."""
        if key := self.fresh(text):
            return key
        asked_at = self._timer()  # not when the answer came: it tells how things stood before
        stored = self._store.find_key(text.id)
        if stored is None or not text.opens(stored):
            return None  # not remembered: guesses would drive out what is known
        with self._lock:
            self._found[text.id] = (asked_at, stored)
            self._found.move_to_end(text.id)
            if len(self._found) > _MOST_TRUSTED:
                self._found.popitem(last=False)
        return _opened(text, stored)

    def note_use(self, key: ApiKey) -> None:
        """That it was used now, unless it is known to have been used within the last minute."""
        now = self._clock.now()
        if key.last_used_at is None or now - key.last_used_at >= _USE_INTERVAL:
            self._store.note_use(key.id, now)


def _opened(text: KeyText, stored: StoredKey | None) -> ApiKey | None:
    if stored is None or stored.key.revoked_at is not None or not text.opens(stored):
        return None
    return stored.key


def _checked(document: Any) -> tuple[str, KeyRole]:
    """The name and the role that are asked for. Raises InvalidKeyError."""
    if not isinstance(document, Mapping):
        raise InvalidKeyError([Finding(pointer="", code="not_an_object", detail="Must be an object: name and role.")])
    findings = [
        Finding(pointer=json_pointer([key]), code="unknown_key", detail=f"Unknown key {key!r}.{suggest(key, _FIELDS)}")
        for key in document
        if key not in _FIELDS
    ]
    for field_name, faults in (("name", _name_fault), ("role", _role_fault)):
        if field_name not in document:
            fault = ("missing", "This field is required.")
        else:
            fault = faults(document[field_name])
        if fault is not None:
            findings.append(Finding(pointer=json_pointer([field_name]), code=fault[0], detail=fault[1]))
    if findings:
        raise InvalidKeyError(findings)
    return document["name"], KeyRole(document["role"])


def _name_fault(name: Any) -> tuple[str, str] | None:
    if not isinstance(name, str):
        return "string_type", "Must be a text."
    fault = name_fault(name)
    return None if fault is None else ("invalid_name", fault[:1].upper() + fault[1:] + ".")


def _role_fault(role: Any) -> tuple[str, str] | None:
    if isinstance(role, str) and role in tuple(KeyRole):
        return None
    return "unknown_role", f"Must be one of {', '.join(KeyRole)}."
