"""The variants by name, each measured by one call."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks.sweep_throughput_memory import PeakMemory
from benchmarks.sweep_throughput_processes import Family, private_environment, said, started
from benchmarks.sweep_throughput_stack import ServiceVariant, measure_service
from benchmarks.sweep_throughput_workload import Measurement, VariantFailedError, Workload

BASELINE = "tune_script"  # what the others are compared with


@dataclass(frozen=True, kw_only=True)
class ScriptVariant:
    """How the script is called."""

    options: tuple[str, ...] = ()
    lanes: int = 1
    sampler: str = "tpe"
    asha: bool = False

    def lanes_for(self, workload: Workload) -> int:
        return self.lanes


Variant: TypeAlias = ScriptVariant | ServiceVariant

VARIANTS: Mapping[str, Variant] = {
    BASELINE: ScriptVariant(),
    "tune_script_reuse": ScriptVariant(options=("--reuse-actors",)),
    "tune_script_tuned": ScriptVariant(options=("--reuse-actors", "--batched")),
    "lanes_1": ServiceVariant(lanes=1),
    "lanes_auto": ServiceVariant(lanes="auto"),
    "lanes_most": ServiceVariant(lanes=None, sampler="random"),
}

STOPPING_VARIANTS: Mapping[str, Variant] = {
    "tune_script_asha": ScriptVariant(asha=True),
    "lanes_auto_asha": ServiceVariant(lanes="auto", asha=True),
}
"""The same as those without ``_asha``, and trials are stopped early."""

SCRIPT_WITHIN_S = 24 * 3600.0


def measure(workload: Workload, variant: Variant) -> Measurement:
    """Run it once, in folders of its own that are gone afterwards; nothing of it runs on.

    Raises:
        NotAvailableError: the service refuses what the variant asks for.
        VariantFailedError: it ended otherwise than it should.
    """
    with _private_folder("sweep-throughput-") as folder, _private_folder("st-ray-") as ray_folder:
        if isinstance(variant, ServiceVariant):
            return measure_service(workload, variant, folder, ray_folder)
        return _measure_script(workload, variant, folder, ray_folder)


def _measure_script(workload: Workload, variant: ScriptVariant, folder: Path, ray_folder: Path) -> Measurement:
    argv = [sys.executable, "-m", "benchmarks.sweep_throughput_script", "--folder", str(folder), *variant.options]
    argv += ["--problem", workload.problem, "--trials", str(workload.trials), "--steps", str(workload.steps)]
    argv += ["--batch-size", str(workload.batch_size), *(["--asha"] if variant.asha else [])]
    family = Family()
    try:
        with started(argv, folder, private_environment(ray_folder)) as process, PeakMemory(family) as memory:
            status = process.wait(SCRIPT_WITHIN_S)
    finally:
        if left := family.end():
            sys.stderr.write(f"left of the script, and ended: {', '.join(left)}\n")
    result = folder / "result.json"
    if status != 0 or not result.exists():
        raise VariantFailedError(f"the script ended with status {status}:\n{said(folder, last=3000)}")
    document = json.loads(result.read_text())
    if document["ended_well"] != workload.trials:
        raise VariantFailedError(f"{document['ended_well']} of {workload.trials} trials ended well")
    return Measurement(
        seconds=document["seconds"],
        cold_seconds=document["cold_seconds"],
        peak_mb=memory.peak_mb,
        completed=document["completed"],
        curve=[(at, value) for at, value in document["curve"]],
        best=document["best"],
    )


@contextlib.contextmanager
def _private_folder(prefix: str) -> Iterator[Path]:
    """Directly below /tmp where there is one: the paths of Ray's sockets must be short."""
    place = "/tmp" if Path("/tmp").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
