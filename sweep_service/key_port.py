"""The door to API keys, and to the list of who has changed what: a part of
:class:`sweep_service.ports.SweepStore`, whose laws hold here.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from sweep_service.domain.audit import AuditRecord
from sweep_service.domain.keys import Actor, ApiKey, StoredKey


class KeyStore(Protocol):
    """API keys, and records of changes.

    Laws, for every implementation:

    - a key is never forgotten: a revoked one stays, and its id is not given again;
    - of the keys that are not revoked no two have one name, and once there is an admin key among them there always is
      one, however many callers try to change that at once;
    - every change that was made leaves one record, in the transaction of the change; what changed nothing leaves none;
    - records have seq 1, 2, 3, … without gaps, in the order in which they become visible: who goes on after the last
      one that it got misses none.
    """

    def add_key(self, key: ApiKey, *, digest: str, by: Actor) -> ApiKey:
        """Store a new key with the digest of its secret (audit: KEY_CREATE), and return it.

        Raises:
            KeyNameTakenError.
            ValueError: there is a key of that id, or it has been used or revoked before it was made.
        """
        ...

    def find_key(self, key_id: str) -> StoredKey | None:
        """Revoked or not. None: there is none."""
        ...

    def list_keys(self, *, limit: int = 1000) -> Sequence[ApiKey]:
        """Those that are not revoked, then the revoked ones; each by id, the newest first."""
        ...

    def revoke_key(self, key_id: str, *, by: Actor) -> ApiKey:
        """Let it open nothing from now on (audit: KEY_REVOKE). One that is revoked stays as it is.

        Raises:
            KeyNotFoundError.
            LastAdminKeyError: it is the only admin key that is not revoked.
        """
        ...

    def note_use(self, key_id: str, at: datetime) -> None:
        """It was used then. Written at most once a minute, and nothing where there is no such key."""
        ...

    def list_audit(self, *, after: int = 0, limit: int = 50) -> Sequence[AuditRecord]:
        """By seq, only those above ``after``."""
        ...
