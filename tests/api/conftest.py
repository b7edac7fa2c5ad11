"""Servers for the tests of the API, the client and the command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from harness import TOY, Service, serve
from key_house import Guarded, guarding, memory_store
from typer.testing import CliRunner

from api.app import create_app
from sweep_service.cli import app
from sweep_service.ports import SweepStore
from sweep_service.settings import Settings
from sweep_service.storage.memory import MemorySweepStore
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import open_sql_store


@pytest.fixture(scope="session", params=["memory", "sqlite"])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server for the whole session, over each store. Tests share it, and look only at what they have made."""
    store: SweepStore
    if request.param == "memory":
        store = MemorySweepStore()
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('store') / 'sweeps.db'}"
        migrate(url)
        store = open_sql_store(url)
    store.publish_catalog([TOY])
    with serve(create_app(Settings(home=Path("unused")), store), store) as running:
        yield running


@pytest.fixture
def own_service() -> Iterator[Service]:
    """A server of the test's own, over an empty store in memory."""
    store = MemorySweepStore()
    store.publish_catalog([TOY])
    with serve(create_app(Settings(home=Path("unused")), store), store) as running:
        yield running


@pytest.fixture
def sweep(service: Service) -> Callable[..., Result]:
    """Runs the command with those arguments against the server."""

    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(app, [*arguments, "--url", service.url], **options)

    return run


@pytest.fixture(scope="module", params=["memory", "sqlite"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    store: SweepStore = memory_store()
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('keys') / 'sweeps.db'}"
        migrate(url)
        store = open_sql_store(url)
        store.publish_catalog([TOY])
    with guarding(store) as running:
        yield running
