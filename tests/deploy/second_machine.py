"""Another machine with a Docker engine, as far as one machine can be two: its own network namespace, and a cable."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FIRST_ADDRESS, SECOND_ADDRESS = "10.99.0.1", "10.99.0.2"
_SPACE, _CABLE = "sweeps-second", ("sweeps-cable-1", "sweeps-cable-2")  # fixed: what a killed test left is replaced
START_S = 60.0


def can_be_two() -> bool:
    """Whether this user may lay cables, and starts engines."""
    return os.getuid() == 0 and shutil.which("dockerd") is not None and shutil.which("ip") is not None


@contextmanager
def second_machine(folder: Path) -> Iterator[str]:
    """The address of its engine, as DOCKER_HOST has it. The first machine is FIRST_ADDRESS, the second the other."""
    _cut()
    _lay()
    socket = f"unix://{folder}/docker.sock"
    argv = ["nsenter", f"--net=/var/run/netns/{_SPACE}", "dockerd", "--host", socket, "--data-root", folder / "data"]
    argv += ["--exec-root", folder / "exec", "--pidfile", folder / "pid"]
    with (folder / "log").open("w") as log:
        engine = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + START_S
        while subprocess.run(["docker", "--host", socket, "version"], capture_output=True, check=False).returncode:
            assert engine.poll() is None, (folder / "log").read_text()[-2000:]
            assert time.monotonic() < until, "the second engine does not answer"
            time.sleep(0.5)
        yield socket
    finally:
        engine.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            engine.wait(60)
        if engine.poll() is None:
            engine.kill()
        _cut()


def _lay() -> None:
    first, second = _CABLE
    for command in (
        f"ip netns add {_SPACE}",
        f"ip link add {first} type veth peer name {second} netns {_SPACE}",
        f"ip address add {FIRST_ADDRESS}/24 dev {first}",
        f"ip link set {first} up",
        f"ip -n {_SPACE} address add {SECOND_ADDRESS}/24 dev {second}",
        f"ip -n {_SPACE} link set {second} up",
        f"ip -n {_SPACE} link set lo up",
    ):
        subprocess.run(command.split(), check=True)


def _cut() -> None:
    for command in (f"ip link del {_CABLE[0]}", f"ip netns del {_SPACE}"):
        subprocess.run(command.split(), capture_output=True, check=False)
