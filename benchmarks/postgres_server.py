"""A PostgreSQL server of our own on this machine, for benchmarks and tests."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url

_START_SECONDS = 60
_STOP_SECONDS = 30


class NoServerError(Exception):
    """It cannot be started; the message says why."""


class PostgresServer:
    """A server with its data in that folder, on a free port of loopback, which it keeps over stops and starts.

    ``settings`` go before PostgreSQL's defaults, with which it keeps what it has said it has.

    Raises:
        NoServerError: also when it is started.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._identity = _identity()
        self._settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None
        if self._identity:
            os.chown(folder, self._identity["user"], self._identity["group"])
        initdb = [_program("initdb"), "--pgdata", self._data, "--username=sweep", "--auth=trust", "--encoding=UTF8"]
        command = [*initdb, "--no-sync", "--locale=C.UTF-8"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder, **self._identity)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]

    @property
    def url(self) -> URL:
        return make_url(f"postgresql+psycopg://sweep@127.0.0.1:{self._port}/postgres")

    @property
    def pid(self) -> int:
        """Of the process that all others of the server belong to."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def start(self) -> None:
        """Returns when it answers."""
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        # It must not outlive a benchmark or a test run that was killed.
        dies_with_us = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
        log = self._folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*dies_with_us, _program("postgres"), "-D", self._data, "-p", str(self._port), *options],
                stdout=output, stderr=output, cwd=self._folder, **self._identity,
            )  # fmt: skip
        _await_ready(self._process, self._port, log)

    def stop(self) -> None:
        """At once, as a machine that loses its power: without a checkpoint, and every connection is cut."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(_STOP_SECONDS)
            self._process = None

    @property
    def _data(self) -> Path:
        return self._folder / "data"


@contextmanager
def running_server(folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[URL]:
    """A server for the time of the block; what it has stored stays in the folder. Raises NoServerError."""
    server = PostgresServer(folder, settings)
    try:
        server.start()
        yield server.url
    finally:
        server.stop()


def _await_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    command = [_program("pg_isready"), "--host=127.0.0.1", f"--port={port}", "--timeout=1"]
    for _ in range(_START_SECONDS * 10):
        if server.poll() is not None:
            raise NoServerError(f"PostgreSQL ended at once:\n{log.read_text()}")
        if subprocess.run(command, capture_output=True).returncode == 0:
            return
        try:
            server.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    raise NoServerError(f"PostgreSQL did not start within {_START_SECONDS} s:\n{log.read_text()}")


def _program(name: str) -> str:
    newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, newest_first), os.environ.get("PATH", "")]))
    if found is None:
        raise NoServerError(
            f"{name} of PostgreSQL's server is neither on PATH nor under /usr/lib/postgresql. Install it (Debian: "
            "apt-get install postgresql)."
        )
    return found


def _identity() -> dict[str, Any]:
    """Arguments for Popen: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
