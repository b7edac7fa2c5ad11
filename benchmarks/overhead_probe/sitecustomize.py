"""Notes how long certain calls take, in every Python process that has this folder on its PYTHONPATH: Python imports a
module of this name by itself when it starts. The code that is measured is as it is; its functions are wrapped when
their module has been imported.

A line for each call goes to ``$OVERHEAD_FOLDER/<pid>.jsonl``, written at once, for trainers and conductors end without
a farewell. It takes some 10 µs.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.util
import json
import os
import sys
import threading
import time

WRAPPED = {  # module -> class, or "" for the module's own functions -> functions
    "sweep_service.storage.sql": {
        "SqlSweepStore": (
            "claim_sweep", "renew_lease", "release_lease", "move_sweep", "add_notice", "set_results",
            "set_tracking_ref", "add_trials", "start_attempt", "end_attempt", "record", "append_logs", "mark_delivered",
        ),
    },
    "sweep_service.services.checkpoints": {
        "CheckpointFolders": ("drop_trial", "drop_earlier_attempts", "drop_other_trials"),
    },
    "sweep_service.execution.links": {"ConductorLink": ("begin", "refill")},
    "sweep_service.execution.lane_reporter": {"LaneReporter": ("__call__", "_write_at_once")},
    "sweep_service.execution.packs": {"": ("train_order",)},
    "trainables.checkpoint": {"Checkpoint": ("save",)},
    "trainables.engine.lane": {"LaneTraining": ("_checkpoint",)},
}  # fmt: skip


class _Notes:
    """This process's file; opened by whoever notes first."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._pid = -1
        self._handle = -1

    def take(self, what: str, began: float, seconds: float, processor_seconds: float) -> None:
        if self._pid != os.getpid():  # or this process is a fork of the one that opened it
            self._pid = os.getpid()
            path = os.path.join(self._folder, f"{self._pid}.jsonl")  # noqa: PTH118 - loaded by every process
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        thread = threading.current_thread().name
        line = json.dumps([what, began, seconds, processor_seconds, thread])
        os.write(self._handle, f"{line}\n".encode())


def _timed(function, what, notes):
    @functools.wraps(function)
    def wrapper(*args, **options):
        at, began, processor_began = time.time(), time.perf_counter(), time.thread_time()
        try:
            return function(*args, **options)
        finally:
            notes.take(what, at, time.perf_counter() - began, time.thread_time() - processor_began)

    return wrapper


class _Wrapper(importlib.abc.MetaPathFinder):
    """Lets the others find a module, and wraps its functions as soon as it has been executed."""

    def __init__(self, notes: _Notes) -> None:
        self._notes = notes
        self._finding: set[str] = set()

    def find_spec(self, fullname, path, target=None):
        if fullname not in WRAPPED or fullname in self._finding:
            return None
        self._finding.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._finding.discard(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_wrap(module):
                execute(module)
                self._wrap(module, fullname)

            spec.loader.exec_module = execute_and_wrap
        return spec

    def _wrap(self, module, name):
        for owner_name, functions in WRAPPED[name].items():
            owner = getattr(module, owner_name) if owner_name else module
            for function in functions:
                what = f"{owner_name or name.rpartition('.')[2]}.{function}"
                setattr(owner, function, _timed(getattr(owner, function), what, self._notes))


if "OVERHEAD_FOLDER" in os.environ:
    sys.meta_path.insert(0, _Wrapper(_Notes(os.environ["OVERHEAD_FOLDER"])))
