"""A PostgreSQL server of our own for as long as the tests run, and databases on it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import URL, make_url

_START_SECONDS = 60
_STOP_SECONDS = 30
_MISSING = (
    "The tests need PostgreSQL's server programs (initdb, postgres) on PATH or under /usr/lib/postgresql. Install "
    "them (Debian: apt-get install postgresql), or set SWEEP_TEST_POSTGRES_URL to a server on which the tests may "
    "make databases."
)


@contextmanager
def new_database(server: URL) -> Iterator[str]:
    """A new, empty database on that server, dropped at the end."""
    name = f"sweep_test_{uuid.uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


def _execute(server: URL, statement: str) -> None:
    conninfo = server.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(statement.encode())


def _program(name: str) -> str:
    newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    path = os.pathsep.join([*map(str, newest_first), os.environ.get("PATH", "")])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.fail(_MISSING, pytrace=False)
    return found


def _identity() -> dict[str, Any]:
    """Arguments for Popen: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


@contextmanager
def running_server(folder: Path) -> Iterator[URL]:
    """A server with its data in that folder, on a free port of loopback; stopped at the end."""
    identity = _identity()
    if identity:
        os.chown(folder, identity["user"], identity["group"])
    data = folder / "data"
    initdb = [_program("initdb"), "--pgdata", data, "--username=sweep", "--auth=trust", "--encoding=UTF8", "--no-sync"]
    subprocess.run([*initdb, "--locale=C.UTF-8"], check=True, capture_output=True, cwd=folder, **identity)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "fsync": "off",
        "full_page_writes": "off",
        "synchronous_commit": "off",
        "shared_buffers": "32MB",
        "max_connections": "60",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    # A server must not outlive a test run that was killed.
    dies_with_us = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [*dies_with_us, _program("postgres"), "-D", data, "-p", str(port), *options],
            stdout=log, stderr=log, cwd=folder, **identity,
        )  # fmt: skip
    try:
        _await_ready(server, port, folder / "server.log")
        yield make_url(f"postgresql+psycopg://sweep@127.0.0.1:{port}/postgres")
    finally:
        server.send_signal(signal.SIGQUIT)  # without a checkpoint: nobody needs the data any more
        server.wait(_STOP_SECONDS)


def _await_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    command = [_program("pg_isready"), "--host=127.0.0.1", f"--port={port}", "--timeout=1"]
    for _ in range(_START_SECONDS * 10):
        if server.poll() is not None:
            pytest.fail(f"PostgreSQL ended at once:\n{log.read_text()}", pytrace=False)
        if subprocess.run(command, capture_output=True).returncode == 0:
            return
        try:
            server.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail(f"PostgreSQL did not start within {_START_SECONDS} s:\n{log.read_text()}", pytrace=False)
