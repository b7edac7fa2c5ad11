"""For every test: a real PostgreSQL server, databases on it, and which process of a test run does what."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is loaded: with a thread a core, the two processes of a test run get in each other's way. A search by a
# Gaussian process took three times the CPU time, and more than that in time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a shell runs in the background ignores interrupts, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import settings
from postgres_server import FORGETFUL, new_database
from sqlalchemy.engine import URL, make_url
from xdist.scheduler import LoadScopeScheduling

from benchmarks.postgres_server import NoServerError, running_server

# By default an example that takes 0.2 s fails its test, and on a machine that is busy any of them may.
settings.register_profile("whatever the machine does", deadline=None)
settings.load_profile("whatever the machine does")

END_TO_END = "tests/e2e/"
OWN_STACKS = "tests/e2e/own_stacks/"


class OneStackScheduling(LoadScopeScheduling):
    """A file's tests go to one process; those that share a stack all go to the same, so that one stack is enough."""

    def _split_scope(self, nodeid: str) -> str:
        return END_TO_END if _shares_a_stack(nodeid) else nodeid.partition("::")[0]


def _shares_a_stack(nodeid: str) -> bool:
    return nodeid.startswith(END_TO_END) and not nodeid.startswith(OWN_STACKS)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneStackScheduling:
    return OneStackScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: whoever is through with the rest would have to wait for it."""
    items.sort(key=lambda item: (not _shares_a_stack(item.nodeid), not item.nodeid.startswith(OWN_STACKS)))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[URL]:
    """The URL of a PostgreSQL server, one for the whole session, on which tests may make databases."""
    given = os.environ.get("SWEEP_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    folder = Path(tempfile.mkdtemp(prefix="sweep-postgres-"))
    try:
        with running_server(folder, FORGETFUL) as url:
            yield url
    except NoServerError as error:
        pytest.fail(f"{error} Or set SWEEP_TEST_POSTGRES_URL to a server on which the tests may make databases.")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: URL) -> Iterator[str]:
    """The URL of a new, empty database, which goes away after the test."""
    with new_database(postgres_server) as url:
        yield url
