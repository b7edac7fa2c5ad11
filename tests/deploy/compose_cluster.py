"""A whole cluster by docker-compose.yml, for tests where a Docker engine is there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sweep_service.client import SweepClient

ROOT = Path(__file__).parents[2]
PROJECT = "gradnorm-sweeps-test"
CADDY_IMAGE, PROMETHEUS_IMAGE = "caddy:2", "prom/prometheus:v3.7.3"
OWN_MODULES = ("faulty_problems", "faulty_catalog")


def has_engine() -> bool:
    """Whether a Docker engine with Compose answers."""
    if shutil.which("docker") is None:
        return False
    asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    engine = subprocess.run(["docker", "info"], capture_output=True, check=False)
    return asked.returncode == 0 and engine.returncode == 0 and b"Server Version" in engine.stdout


class Cluster:
    """An installation in a folder of its own. Its name is fixed, so that one that a killed test left is replaced."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self._env = {name: value for name, value in os.environ.items() if not name.startswith(("SWEEP_", "COMPOSE_"))}
        self._env |= {"COMPOSE_PROJECT_NAME": PROJECT, "SWEEP_IMAGE": PROJECT, "SWEEP_WORKER_CPUS": "1"}

    def run(self, *argv: str | Path, timeout: float = 280, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            argv, cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{argv} ended with {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
        return done

    def compose(self, *arguments: str, timeout: float = 280, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run("docker", "compose", *arguments, timeout=timeout, check=check)

    def up(self, *options: str) -> None:
        self.compose("up", "--detach", "--wait", *options)

    def set_variable(self, name: str, value: str) -> None:
        self._env[name] = value

    def secret(self, name: str) -> str:
        return (self.folder / "deploy" / "secrets" / name).read_text().strip()

    def client(self, key: str | None = None) -> SweepClient:
        return SweepClient(self.url, key=self.secret("admin_key") if key is None else key)

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "--quiet", service).stdout.split()

    def kill(self, service: str) -> None:
        """As a power cut would: SIGKILL, and Docker does not start it again by itself."""
        self.run("docker", "kill", self.containers(service)[0])


@contextmanager
def running_cluster(
    folder: Path, *init_options: str, before_start: Callable[[Cluster], None] = lambda _: None
) -> Iterator[Cluster]:
    """One from nothing: the files of this checkout, deploy/init, the images, all services healthy."""
    copy_checkout(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cluster = Cluster(folder, port)
    cluster.run(folder / "deploy" / "init", "--listen", f"127.0.0.1:{port}", *init_options)
    try:
        have_image(cluster, CADDY_IMAGE, "caddy-stand-in")
        cluster.compose("down", "--volumes", "--remove-orphans", check=False)
        cluster.compose("build", timeout=1800)
        before_start(cluster)
        cluster.up()
        yield cluster
    finally:
        cluster.compose("--profile=*", "down", "--volumes", "--remove-orphans", check=False)
        # What would fill the disk, run by run; images that still have a name are the next run's.
        ours = "label=org.opencontainers.image.title=gradnorm-sweeps"
        cluster.run("docker", "image", "prune", "--force", "--filter", ours, check=False)
        shutil.rmtree(folder / "deploy" / "wheels", ignore_errors=True)


def copy_checkout(folder: Path) -> None:
    """The files of this checkout, and what a user puts into deploy/wheels."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    # pip takes the build of PyTorch that this machine is set up for, which may be a much smaller one.
    wheels = folder / "deploy" / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, "torch==2.13.0"]
    subprocess.run(pip, check=True, timeout=1800)
    _build_wheel(ROOT / "tests" / "e2e" / "problems", folder / "own-problems", wheels)


def _build_wheel(problems: Path, source: Path, target: Path) -> None:
    """The package of a user's own problems, as one who keeps it would build it."""
    source.mkdir()
    for module in OWN_MODULES:
        shutil.copy(problems / f"{module}.py", source)
    (entry_points,) = problems.glob("*.dist-info/entry_points.txt")
    entries = [line.split(" = ") for line in entry_points.read_text().splitlines() if " = " in line]
    lines = [
        '[build-system]\nrequires = ["setuptools>=77"]\nbuild-backend = "setuptools.build_meta"',
        '[project]\nname = "faulty-problems"\nversion = "1.0"',
        '[project.entry-points."sweep_service.trainables"]',
        *(f'{name} = "{factory}"' for name, factory in entries),
        f"[tool.setuptools]\npy-modules = {list(OWN_MODULES)}",
    ]
    (source / "pyproject.toml").write_text("\n".join(lines) + "\n")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", target]
    subprocess.run([*pip, source], check=True, timeout=300)


def have_image(cluster: Cluster, image: str, stand_in: str) -> None:
    """It, or where it cannot be had what tests/deploy/ has in its place."""
    if cluster.run("docker", "image", "inspect", image, check=False).returncode == 0:
        return
    if cluster.run("docker", "pull", "--quiet", image, check=False).returncode == 0:
        return
    cluster.run("docker", "build", "--tag", image, ROOT / "tests" / "deploy" / stand_in, timeout=600)


def await_that(what: Callable[[], Any], *, within_s: float = 240) -> Any:
    """What it answers as soon as that is true; errors of a service that is down for a moment are waited out."""
    until, last = time.monotonic() + within_s, None
    while time.monotonic() < until:
        try:
            if found := what():
                return found
        except Exception as error:  # of whatever has just been killed
            last = error
        time.sleep(1)
    pytest.fail(f"It did not come about within {within_s:.0f} s. {last or ''}")
