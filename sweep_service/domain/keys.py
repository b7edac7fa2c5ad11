"""API keys: who may use the service, for what, and what a key looks like. The only place that makes or reads one.

The text of a key is ``swk_``, the 26 characters of its id's ULID, ``_`` and 43 characters of ``A-Z a-z 0-9 _ -``, which
are the secret: 256 random bits. It begins like no other text, so that it is found where it should not be.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from sweep_service.domain.ids import IdPrefix, new_id

_PREFIX = "swk"
_SECRET_BYTES = 32
_KEY = re.compile(r"swk_(?P<ulid>[0-7][0-9A-HJKMNP-TV-Z]{25})_(?P<secret>[A-Za-z0-9_-]{43})", re.ASCII)
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
NAME_RULE = "must be 1 to 64 characters of a-z, 0-9, '.', '_' and '-', and begin with a letter or a digit"

EXAMPLE = "swk_01J9Z3NDEKTSV4RRFFQ69G5FAV_…"
"""What a key looks like, for messages."""


class KeyRole(StrEnum):
    """What a key is for; each covers those before it."""

    VIEWER = "viewer"  # looks
    SUBMITTER = "submitter"  # submits sweeps, changes and ends them
    ADMIN = "admin"  # makes and revokes keys, and reads who has done what

    def covers(self, needed: KeyRole) -> bool:
        """Whether a key of this role may do what that role is needed for."""
        order = tuple(KeyRole)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, kw_only=True)
class Actor:
    """Who asks for a change."""

    name: str  # of the key
    key_id: str | None  # None: no key was given

    @property
    def is_known(self) -> bool:
        return self.key_id is not None


ANONYMOUS = Actor(name="anonymous", key_id=None)
"""Whoever gives no key, where none is needed."""

SETUP = Actor(name="setup", key_id=None)
"""The process that makes the first key; it has the database itself."""

_RESERVED = frozenset({ANONYMOUS.name, SETUP.name})


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key as anybody may see it: nothing in it lets one in."""

    id: str
    name: str  # of two keys that are not revoked, each has its own
    role: KeyRole
    created_at: datetime
    created_by: str  # name of the key that made it
    last_used_at: datetime | None = None  # to the minute
    revoked_at: datetime | None = None

    @property
    def actor(self) -> Actor:
        """Its holder."""
        return Actor(name=self.name, key_id=self.id)


@dataclass(frozen=True, kw_only=True)
class StoredKey:
    """A key with what its secret is compared with."""

    key: ApiKey
    digest: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class KeyText:
    """What the holder of a key shows."""

    id: str  # of the key
    secret: str = field(repr=False)

    @property
    def text(self) -> str:
        return f"{_PREFIX}_{self.id.removeprefix(f'{IdPrefix.KEY}_')}_{self.secret}"

    @property
    def digest(self) -> str:
        """All that is stored of the secret. A fast hash is right here: slow ones make up for passwords that can be
        guessed, and nobody guesses 256 random bits, whatever a guess costs. It is computed for every request.
        """
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def opens(self, stored: StoredKey) -> bool:
        """Whether it is that key; how long that takes does not tell how much of it is right."""
        return self.id == stored.key.id and hmac.compare_digest(self.digest, stored.digest)


def new_key_text(*, now: datetime) -> KeyText:
    """A key that nobody else has."""
    return KeyText(id=new_id(IdPrefix.KEY, now=now), secret=secrets.token_urlsafe(_SECRET_BYTES))


def parse_key(text: str) -> KeyText | None:
    """None: the text is no key. Says nothing of whether there is that key."""
    found = _KEY.fullmatch(text)
    return None if found is None else KeyText(id=f"{IdPrefix.KEY}_{found['ulid']}", secret=found["secret"])


def without_keys(text: str) -> str:
    """The text with the secret of every key in it taken out. People put keys where they do not belong, such as the
    address, and what they get to read, or a log, must not hold them.
    """
    return _KEY.sub(lambda found: f"{_PREFIX}_{found['ulid']}_…", text)


def name_fault(name: str) -> str | None:
    """What is wrong with a name for a key, if anything is."""
    if not _NAME.fullmatch(name):
        return NAME_RULE
    if name in _RESERVED:
        return f"{name!r} means somebody else: take another name"
    return None
