"""How many trials a minute the service does beside the Ray Tune script that people write.

    python -m benchmarks.sweep_throughput --quick
    python -m benchmarks.sweep_throughput --problems census_income --rounds 3 --json > throughput.json

All variants train as many trials of the same network on the same batches, with the same steps, evaluations, seed and
space (α, weight_lr), two at once with one thread each. Each has processes and folders of its own, started for it and
ended after it. Every round measures each variant once, in an order that shifts from round to round; a ratio is taken
within a round, and the median over the rounds is told beside the raw seconds.

    tune_script         ``sweep_throughput_script``: Tune, Optuna's TPE, Ray's callback for MLflow, GradNorm by
                        ``create_graph=True``
    tune_script_reuse   the same with ``reuse_actors=True``
    tune_script_tuned   the same again, with a callback that writes a result to MLflow at once, not number by number
    lanes_1             the service over REST, a trial in each pack
    lanes_auto          the service chooses how many trials train together in a pack
    lanes_most          all trials in as few packs as run at once; drawn at random, since none could learn of another

``seconds`` are warm: of the script from the call of ``Tuner.fit`` until it returns, Ray being up, MLflow's database
made and the data read; of the service from the POST until the sweep's terminal state, the stack being up and a sweep of
one short trial gone through. Both end when everything is in MLflow. The service keeps checkpoints and its database
besides, the script does not. ``cold s`` has the start of the script's process, or of the stack, in it.
``peak MB`` is the memory of all processes (``sweep_throughput_memory``), of the script or the whole stack with Ray and
MLflow's page. ``best`` is val/normalized_loss at the last step, the lowest of the completed trials. ``s to 1 %``: when
a trial first reported a value within 1 % of the lowest that any variant reported for the problem, in any round.

``--asha`` adds ``tune_script_asha`` and ``lanes_auto_asha`` where ``tune_script`` and ``lanes_auto`` are measured, with
trials stopped early by ASHA (factor 3, from the second report on); for the script it is Tune's, for the service its
own.

Looking at the memory takes 3 to 8 % of a processor from what is measured, more from the stack, which has more
processes. The points that are tried differ between service and script: the service seeds each draw by itself, and lets
TPE begin to learn after a quarter of the trials, where Optuna draws ten at random. A variant that fails is told, the
others go on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from benchmarks.sweep_throughput_rows import Row, rows_of, table
from benchmarks.sweep_throughput_variants import STOPPING_VARIANTS, VARIANTS, Variant, measure
from benchmarks.sweep_throughput_workload import (
    BATCH_SIZE,
    PARALLEL,
    PROBLEMS,
    Measurement,
    NotAvailableError,
    VariantFailedError,
    Workload,
)

QUICK_TRIALS, QUICK_STEPS = 8, 200
FAILED = "failed"


def measure_all(
    workloads: Sequence[Workload], variants: Mapping[str, Variant], num_rounds: int
) -> tuple[list[Row], Mapping[tuple[str, str], str]]:
    """The rows of all problems; and by (problem, variant) what was refused, or failed in some round."""
    missing: dict[tuple[str, str], str] = {}
    measured: dict[str, dict[str, list[Measurement | None]]] = {
        workload.problem: {name: [] for name in variants} for workload in workloads
    }
    for number in range(num_rounds):
        names = list(variants)
        shift = number % len(names)
        for workload in workloads:
            for name in names[shift:] + names[:shift]:
                print(f"round {number + 1} of {num_rounds}: {workload.problem}, {name} ...", file=sys.stderr)
                one, reason = _measured(workload, variants[name])
                measured[workload.problem][name].append(one)
                if reason:
                    missing[workload.problem, name] = reason
                print(f"  {reason if one is None else f'{one.seconds:.1f} s'}", file=sys.stderr)
    rows = [row for workload in workloads for row in rows_of(workload, variants, measured[workload.problem])]
    return rows, missing


def _measured(workload: Workload, variant: Variant) -> tuple[Measurement | None, str]:
    try:
        return measure(workload, variant), ""
    except NotAvailableError as error:
        return None, f"not available: {error}"
    except VariantFailedError as error:
        return None, f"{FAILED}: {error}"


def machine() -> str:
    """On what it was measured, in a line."""
    names = ("torch", "ray", "optuna", "mlflow")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    load = f"; load {os.getloadavg()[0]:.2f} at the start" if hasattr(os, "getloadavg") else ""
    return (
        f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} processors{load}; "
        f"Python {platform.python_version()}, {versions}; {PARALLEL} at once, 1 thread each"
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or "unknown processor"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    variants = {name: VARIANTS[name] for name in options.variants}
    if options.asha:
        variants |= {name: one for name, one in STOPPING_VARIANTS.items() if name.removesuffix("_asha") in variants}
    workloads = [
        Workload(
            problem=problem,
            trials=options.trials,
            steps=options.steps,
            batch_size=options.batch_size,
        )
        for problem in options.problems
    ]
    where = machine()
    signal.signal(signal.SIGTERM, _leave)  # by the way that ends what has been started
    _read_libraries()
    rows, missing = measure_all(workloads, variants, options.rounds)
    if options.json:
        print(where, file=sys.stderr)
        for (problem, name), reason in missing.items():
            print(f"{problem}, {name}: {reason}", file=sys.stderr)
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
    else:
        print(f"{where}\n\n{table(rows, missing)}")
    if any(reason.startswith(FAILED) for reason in missing.values()):
        raise SystemExit(1)


def _read_libraries() -> None:
    """Once from the disk, so that the first variant does not read them for all the others."""
    subprocess.run([sys.executable, "-c", "import torch, ray.tune, optuna, mlflow, sklearn"], check=False)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_throughput", description="Trials a minute.")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--asha", action="store_true", help="also with trials stopped early")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_TRIALS} trials of {QUICK_STEPS} steps")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the table")
    options = parser.parse_args(arguments)
    if options.quick:
        options.trials, options.steps = QUICK_TRIALS, QUICK_STEPS
    if min(options.trials, options.steps, options.rounds, options.batch_size) < 1:
        parser.error("trials, steps, rounds and batch size are at least 1")
    return options


if __name__ == "__main__":
    main()
