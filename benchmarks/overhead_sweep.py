"""A sweep of a private stack, in whose processes certain calls are noted (``overhead_probe``)."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.overhead_shares import Row, Sweeping, read_calls, row_of, sweeping_of
from benchmarks.postgres_server import running_server
from benchmarks.sweep_throughput_processes import Family
from benchmarks.sweep_throughput_stack import private_stack, run
from sweep_service.client import SweepClient
from sweep_service.demo import demo_spec

PROBE = Path(__file__).resolve().parent / "overhead_probe"
SELDOM = 10_000_000  # steps between checkpoints: there is the one of the last step, which becomes the model
LANES = 4  # what lanes: auto makes of the demo's sweep on a machine that has nothing else to do
LONG_STEPS, LONG_TRIALS = 8000, 8  # ten times the demo's steps, half its search and nothing else
_SEARCH_ALONE: Mapping[str, Any] = {"baselines": [], "confirm": None}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How the demo's sweep is changed."""

    lanes: int = LANES
    checkpoint_every: int = 0  # five a trial
    is_long: bool = False


VARIANTS: Mapping[str, Variant] = {
    "4 lanes": Variant(),
    "4 lanes, checkpoints at the end": Variant(checkpoint_every=SELDOM),
    "1 lane": Variant(lanes=1),
    "4 lanes, 8 trials of 8,000 steps": Variant(is_long=True),
}
QUICK: Mapping[str, Any] = {"budget": {"trials": 4}, **_SEARCH_ALONE}
QUICK_STEPS = 200
SETTLE_S = 5.0  # for trainers to be free again, and the next conductor to be made


def spec_of(variant: str, *, is_quick: bool) -> dict[str, Any]:
    """The demo's sweep with that number of lanes, and nothing is registered of it."""
    changes = VARIANTS[variant]
    spec: dict[str, Any] = {**demo_spec(), "name": f"overhead: {variant}", "tracking": {}}
    spec["params"] = {**spec["params"], "checkpoint_every": changes.checkpoint_every}
    spec["resources"] = {**spec["resources"], "lanes": changes.lanes}
    if changes.is_long:
        spec |= {"budget": {"trials": LONG_TRIALS}, **_SEARCH_ALONE}
        spec["params"]["steps"] = LONG_STEPS
    if is_quick:
        spec |= QUICK
        spec["params"]["steps"] = QUICK_STEPS * (LONG_STEPS // demo_spec()["params"]["steps"] if changes.is_long else 1)
    return spec


def measure_sweeps(database: str, variants: Sequence[str], *, rounds: int, is_quick: bool) -> list[Row]:
    """A row for each of these ``VARIANTS``. They take turns in one stack, which a short sweep has gone through."""
    family = Family()
    try:
        with contextlib.ExitStack() as stack:
            folder, ray_folder, notes = (Path(stack.enter_context(_folder(kind))) for kind in ("home", "ray", "notes"))
            settings = {"OVERHEAD_FOLDER": str(notes), "PYTHONPATH": _path()}
            if database != "sqlite":
                server = stack.enter_context(running_server(Path(stack.enter_context(_folder("postgres")))))
                settings["SWEEP_DATABASE_URL"] = server.render_as_string(hide_password=False)
            url, _ = stack.enter_context(private_stack(folder, ray_folder, settings))
            client = stack.enter_context(SweepClient(url, timeout=60))
            _tell(f"{database}: warming up ...")
            run(client, spec_of(variants[0], is_quick=True))
            found = _rounds(client, notes, database, variants, rounds=rounds, is_quick=is_quick)
    finally:
        if left := family.end():
            _tell(f"left of the stack, and ended: {', '.join(left)}")
    num_processors = os.cpu_count() or 1
    return [row_of(database, name, measured, num_processors=num_processors) for name, measured in found.items()]


def _rounds(
    client: SweepClient, notes: Path, database: str, variants: Sequence[str], *, rounds: int, is_quick: bool
) -> Mapping[str, Sequence[Sweeping]]:
    found: dict[str, list[Sweeping]] = {name: [] for name in variants}
    for number in range(rounds):
        names = variants if number % 2 == 0 else variants[::-1]
        for name in names:
            time.sleep(SETTLE_S)
            _tell(f"{database}: round {number + 1} of {rounds}, {name} ...")
            began = time.time()
            run(client, spec_of(name, is_quick=is_quick))
            one = sweeping_of(read_calls(notes), began=began, ended=time.time())
            found[name].append(one)
            _tell(f"  {one.seconds:.1f} s; waited for durability: {100 * one.waited_share:.2f} % of the packs' time")
    return found


def _path() -> str:
    """The probe before everything else, and this checkout."""
    return os.pathsep.join([str(PROBE), str(PROBE.parent.parent)])


@contextlib.contextmanager
def _folder(kind: str) -> Iterator[str]:
    """Directly below /tmp where there is one: the paths of Ray's sockets must be short."""
    folder = tempfile.mkdtemp(prefix=f"oh-{kind}-", dir="/tmp" if Path("/tmp").is_dir() else None)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _tell(message: str) -> None:
    print(message, file=sys.stderr)
