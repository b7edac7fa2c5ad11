"""Readers who page and follow while a sweep of 500 one-step trials runs miss nothing and get nothing twice."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from harness import TOY, Conductor, Service, serve

from api.app import create_app
from sweep_service.domain.states import SweepReason, SweepState
from sweep_service.settings import Settings
from sweep_service.storage.schema import migrate
from sweep_service.storage.sql import open_sql_store

TRIALS = 500
RECONNECT_AFTER = 97  # events
PAUSE_SECONDS = 0.1  # between two passes of a reader: the writer, in the same process, has to get on


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return request.getfixturevalue("postgres_url").replace("postgresql://", "postgresql+psycopg://")
    return f"sqlite:///{tmp_path / 'sweeps.db'}"


@pytest.fixture
def served(database: str) -> Iterator[Service]:
    migrate(database)
    store = open_sql_store(database)
    store.publish_catalog([TOY])
    settings = Settings(home=Path("unused"), event_poll_interval=timedelta(seconds=0.02))
    with serve(create_app(settings, store), store) as service:
        yield service


def write(database: str, sweep_id: str) -> None:
    """The conductor's part, as another process would do it. The first trial reports all the while, a step a trial."""
    conductor = Conductor(open_sql_store(database), sweep_id)
    conductor.move(SweepState.RUNNING)
    steady = conductor.start(conductor.add_trial(alpha=0.0, weight_lr=0.01))
    for number in range(1, TRIALS):
        conductor.report(steady, number, val_loss=1 / number)
        conductor.run(conductor.add_trial(alpha=3 * number / TRIALS, weight_lr=0.01), objective=1 / number)
    conductor.end(steady)
    conductor.move(SweepState.COMPLETED, reason=SweepReason.BUDGET_TRIALS)


def passes_over_trials(url: str, sweep_id: str, is_over: threading.Event) -> list[list[int]]:
    """The numbers that each pass over all pages has seen, of the last one after the last trial had been written."""
    passes = []
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        while True:
            was_over, numbers, token = is_over.is_set(), [], None
            while True:
                params = {"page_size": 97} | ({"page_token": token} if token else {})
                page = http.get(f"/api/v1/sweeps/{sweep_id}/trials", params=params).json()
                numbers += [trial["number"] for trial in page["trials"]]
                token = page["next_page_token"]
                if token is None:
                    break
            passes.append(numbers)
            if was_over:
                return passes
            is_over.wait(PAUSE_SECONDS)


def steps_of_first_trial(url: str, sweep_id: str, is_over: threading.Event) -> list[int]:
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        trials: list[dict[str, str]] = []
        while not trials:
            trials = http.get(f"/api/v1/sweeps/{sweep_id}/trials", params={"page_size": 1}).json()["trials"]
        steps, after = [], 0
        while True:
            was_over = is_over.is_set()
            page = http.get(
                f"/api/v1/trials/{trials[0]['id']}/metrics", params={"after": after, "page_size": 50}
            ).json()
            steps += [point["step"] for point in page["points"]]
            after = page["next_after"]
            if was_over and not page["has_more"]:
                return steps
            is_over.wait(PAUSE_SECONDS)


def followed_seqs(url: str, sweep_id: str) -> list[int]:
    """From a stream that is cut again and again, and taken up after the last event that came."""
    seqs: list[int] = []
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as http:
        while True:
            headers = {"Accept": "text/event-stream", "Last-Event-ID": str(seqs[-1] if seqs else 0)}
            with http.stream("GET", f"/api/v1/sweeps/{sweep_id}/events", headers=headers) as response:
                if response.status_code == httpx.codes.NO_CONTENT:
                    return seqs
                data = (line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: "))
                for _, text in zip(range(RECONNECT_AFTER), data, strict=False):
                    seqs.append(json.loads(text)["seq"])


@pytest.mark.timeout(600)
def test_readers_miss_nothing_and_get_nothing_twice_while_five_hundred_trials_run(
    served: Service, database: str
) -> None:
    sweep_id = served.submit(budget={"trials": TRIALS})["id"]
    is_over = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        passes = pool.submit(passes_over_trials, served.url, sweep_id, is_over)
        steps = pool.submit(steps_of_first_trial, served.url, sweep_id, is_over)
        seqs = pool.submit(followed_seqs, served.url, sweep_id)
        written: Future[None] = pool.submit(write, database, sweep_id)
        try:
            written.result(timeout=400)  # a minute; on a machine that is busy, a multiple of it
        finally:
            is_over.set()
        for numbers in passes.result(timeout=60):
            assert numbers == list(range(len(numbers)))
        assert len(passes.result()[-1]) == TRIALS
        assert len(passes.result()) > 1, "nobody has read while it was written"
        assert steps.result(timeout=60) == list(range(1, TRIALS))
        found = seqs.result(timeout=60)
    assert found == list(range(1, len(found) + 1))
    assert len(found) == len(served.store.list_events(sweep_id, limit=100_000))
    assert len(found) > 4 * TRIALS
