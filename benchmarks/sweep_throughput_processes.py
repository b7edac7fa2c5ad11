"""The processes of a variant, whatever they are called: started without the settings of the one who runs the
benchmark, found again by descent, and none of them left at the end.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
_FOREIGN = ("SWEEP_", "MLFLOW_", "RAY_", "TUNE_")  # how settings begin that could lead to somebody's own service
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 10.0


class Family:
    """All that this process starts from now on, and what that starts in turn."""

    def __init__(self) -> None:
        if sys.platform == "linux":  # whose parent dies becomes a child of this process, not of the first one
            ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._before = set(psutil.Process().children(recursive=True))

    def members(self) -> list[psutil.Process]:
        """Those that run now."""
        return [process for process in psutil.Process().children(recursive=True) if process not in self._before]

    def end(self) -> list[str]:
        """End whatever still runs; how those that had to be ended call themselves."""
        ended: list[str] = []
        for send in (psutil.Process.terminate, psutil.Process.kill, psutil.Process.kill):
            members = self.members()
            for process in members:
                with contextlib.suppress(psutil.Error):
                    if process.status() != psutil.STATUS_ZOMBIE:
                        ended.append(process.name())
                        send(process)
            psutil.wait_procs(members, timeout=_PATIENCE_S)  # reaps those that have become children of this process
        return ended


def private_environment(ray_folder: Path) -> dict[str, str]:
    """The environment of a variant: this checkout's code, and a Ray of its own on loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    path = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path),
        "RAY_TMPDIR": str(ray_folder),
        "RAY_AUTH_MODE": "token",  # or Ray writes a token into the user's home
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


@contextlib.contextmanager
def started(argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a folder of its own, its output in ``out.txt`` there; killed at the end if it still runs."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "out.txt").open("wb") as out:
        process = subprocess.Popen(
            list(argv),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the benchmark, which ends the others in order
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def said(folder: Path, *, last: int | None = None) -> str:
    """What that process has printed; only the ``last`` so many characters where given."""
    text = (folder / "out.txt").read_text(errors="replace")
    return text if last is None else text[-last:]
