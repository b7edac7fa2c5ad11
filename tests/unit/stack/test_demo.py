"""The demo's sweep over an API that dies, and a user who has seen enough."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sweep_service.demo import demo_spec, end_earlier_sweeps, run_sweep
from sweep_service.launcher import Stack
from sweep_service.settings import Settings
from sweep_service.supervisor import EndRequestedError, EndSignals

SWEEP_ID = "swp_01JD0000000000000000000000"


class MortalApi:
    """An API that dies when it has been asked for the sweep, until somebody tends it; the sweep has ended then."""

    def __init__(self) -> None:
        self.lives = 0
        self.sweeps: list[dict[str, str]] = []
        self.cancelled: list[str] = []
        self.port = 0
        self._server: HTTPServer | None = None
        self._lock = threading.Lock()  # it dies in a thread of its own
        self.tend()

    def tend(self) -> None:
        with self._lock:
            if self._server is not None:
                return
            self.lives += 1
            server = self._server = HTTPServer(("127.0.0.1", self.port), self._handler())
            self.port = server.server_port
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def die(self) -> None:
        with self._lock:
            if self._server is not None:
                self._server.shutdown()
                self._server.server_close()
                self._server = None

    def _handler(api) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                if self.path.endswith("/cancel"):
                    api.cancelled.append(self.path.split("/")[-2])
                self._answer({"id": SWEEP_ID, "state": "queued"})

            def do_GET(self) -> None:
                if "/trials" in self.path:
                    self._answer({"trials": [{}, {}], "next_page_token": None})
                elif "/sweeps?" in self.path:
                    self._answer({"sweeps": api.sweeps, "next_page_token": None})
                elif api.lives > 1:
                    self._answer({"id": SWEEP_ID, "state": "completed"})
                else:
                    self._answer({"id": SWEEP_ID, "state": "running"})
                    threading.Thread(target=api.die).start()

            def _answer(self, document: Any) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(document).encode())

            def log_message(self, *_: object) -> None:
                """Nothing."""

        return Handler


@pytest.fixture
def api() -> Iterator[MortalApi]:
    running = MortalApi()
    yield running
    running.die()


def stack_of(api: MortalApi, signals: EndSignals) -> Stack:
    url = f"http://127.0.0.1:{api.port}"
    return Stack(api_url=url, mlflow_url="", settings=Settings(home=Path()), supervisor=api, signals=signals)


@pytest.mark.timeout(120)
def test_an_api_that_dies_during_the_demo_comes_back(api: MortalApi) -> None:
    sweep, num_trials = run_sweep(stack_of(api, EndSignals()))
    assert (sweep["state"], num_trials, api.lives) == ("completed", 2, 2)


def test_what_an_interrupted_demo_left_behind_is_cancelled_and_nothing_else(api: MortalApi) -> None:
    name = demo_spec()["name"]
    api.sweeps = [
        {"id": "swp_1", "name": name, "state": "running"},
        {"id": "swp_2", "name": name, "state": "completed"},
        {"id": "swp_3", "name": "another", "state": "running"},
        {"id": "swp_4", "name": name, "state": "queued"},
    ]
    end_earlier_sweeps(stack_of(api, EndSignals()))
    assert api.cancelled == ["swp_1", "swp_4"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_watching_of_the_demo(api: MortalApi, number: signal.Signals) -> None:
    with EndSignals() as signals:
        signal.raise_signal(number)
        with pytest.raises(EndRequestedError) as ended:
            run_sweep(stack_of(api, signals))
    assert ended.value.exit_code == 128 + number


def test_a_stack_is_tended_for_as_long_as_one_rests(api: MortalApi) -> None:
    api.die()
    began = time.monotonic()
    stack_of(api, EndSignals()).rest(0.05)
    assert time.monotonic() - began >= 0.05
    assert api.lives == 2
