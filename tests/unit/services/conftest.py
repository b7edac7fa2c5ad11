"""What several modules of tests need."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_fakes import ShakyStore, small_spec
from conductor_house import House
from dispatcher_house import FakeConductors, dispatcher_of
from store_values import FakeClock

from sweep_service.services.dispatcher import Dispatcher


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, small_spec(budget={"trials": 3}, resources={"parallel": 1}))


@pytest.fixture
def store() -> ShakyStore:
    return ShakyStore(FakeClock())


@pytest.fixture
def conductors() -> FakeConductors:
    return FakeConductors()


@pytest.fixture
def dispatcher(store: ShakyStore, conductors: FakeConductors) -> Dispatcher:
    return dispatcher_of(store, conductors)
