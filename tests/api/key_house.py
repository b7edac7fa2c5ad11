"""A service that requires keys, and a key of each role."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from harness import SPEC, TOY, Service, serve

from api.app import create_app
from sweep_service.domain.keys import SETUP, ApiKey, KeyRole, new_key_text
from sweep_service.ports import SweepStore
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore

SECRET = re.compile(r"swk_[0-9A-Z]{26}_[A-Za-z0-9_-]{43}")
NO_SWEEP = "swp_01ARZ3NDEKTSV4RRFFQ69G5FAV"
UNKNOWN = f"swk_01J9Z3NDEKTSV4RRFFQ69G5FAV_{'x' * 43}"


def key_of(store: SweepStore, role: KeyRole, name: str = "") -> str:
    """The text of a new key."""
    now = datetime.now(UTC)
    text = new_key_text(now=now)
    key = ApiKey(id=text.id, name=name or str(role), role=role, created_at=now, created_by="setup")
    store.add_key(key, digest=text.digest, by=SETUP)
    return text.text


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def basic(key: str, user: str = "anybody") -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{key}".encode()).decode()}


class Guarded:
    """A service that requires keys, with a key of each role."""

    def __init__(self, service: Service) -> None:
        self.service, self.store, self.http = service, service.store, service.http
        self.keys = {role: key_of(service.store, role) for role in KeyRole}
        self.viewer, self.submitter, self.admin = (self.keys[role] for role in KeyRole)

    def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> httpx.Response:
        headers = {**(bearer(key) if key else {}), **options.pop("headers", {})}
        return self.http.request(method, path, headers=headers, **options)

    def submit(self, key: str | None = None, **changes: Any) -> str:
        answer = self.ask("POST", "/api/v1/sweeps", key or self.submitter, json={**SPEC, **changes})
        assert answer.status_code == 201, answer.text
        return answer.json()["id"]


@contextmanager
def guarding(store: SweepStore, **settings: Any) -> Iterator[Guarded]:
    values: dict[str, Any] = {"home": Path("unused"), "require_keys": True, "rate_limit": 100_000.0}
    with serve(create_app(Settings(**(values | settings)), store), store) as running:
        yield Guarded(running)


def memory_store() -> MemorySweepStore:
    store = MemorySweepStore()
    store.publish_catalog([TOY])
    return store
