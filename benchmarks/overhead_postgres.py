"""A PostgreSQL server of the benchmark's own, which keeps what it has said it has: its settings are the defaults,
unlike those of the tests' server.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_UP_WITHIN_S, _DOWN_WITHIN_S = 60.0, 30.0


class NoServerError(Exception):
    """It cannot be started; the message says why."""


@contextmanager
def running_postgres() -> Iterator[str]:
    """The URL of an empty database on a free port of loopback; the server ends, and all is gone, after the block.

    Raises:
        NoServerError.
    """
    identity = _identity()
    folder = Path(tempfile.mkdtemp(prefix="overhead-postgres-"))
    try:
        if identity:
            os.chown(folder, identity["user"], identity["group"])
        data = folder / "data"
        initdb = [_program("initdb"), "--pgdata", str(data), "--username=sweep", "--auth=trust", "--encoding=UTF8"]
        subprocess.run([*initdb, "--locale=C.UTF-8"], check=True, capture_output=True, cwd=folder, **identity)
        yield from _served(folder, data, identity)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _served(folder: Path, data: Path, identity: dict[str, Any]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    # It must not outlive a benchmark that was killed.
    dies_with_us = ["setpriv", "--pdeathsig", "INT"] if shutil.which("setpriv") else []
    argv = [*dies_with_us, _program("postgres"), "-D", str(data), "-p", str(port), *options]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, cwd=folder, **identity)
    try:
        _await_ready(server, port, folder / "server.log")
        yield f"postgresql+psycopg://sweep@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)  # nobody needs the data any more
        server.wait(_DOWN_WITHIN_S)


def _await_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _UP_WITHIN_S
    asks = [_program("pg_isready"), "--host=127.0.0.1", f"--port={port}", "--timeout=1"]
    while subprocess.run(asks, capture_output=True).returncode != 0:
        if server.poll() is not None or time.monotonic() > deadline:
            raise NoServerError(f"PostgreSQL does not start:\n{log.read_text()}")
        time.sleep(0.1)


def _program(name: str) -> str:
    newest_first = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    found = shutil.which(name, path=os.pathsep.join([*map(str, newest_first), os.environ.get("PATH", "")]))
    if found is None:
        raise NoServerError(f"{name} is neither on PATH nor under /usr/lib/postgresql; install PostgreSQL's server.")
    return found


def _identity() -> dict[str, Any]:
    """Arguments for Popen: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
