"""The toy experiments of the GradNorm paper (Chen et al., ICML 2018, arXiv 1711.02257, §4), with a verdict a claim.

    python -m benchmarks.paper_toy --quick
    python -m benchmarks.paper_toy --out benchmarks/out --json > toy.json

Two regressions of the scales 1 and 100, and ten of other scales, learnt by one network (``toy_regression`` of the
catalogue). Measured is the paper's sum over the tasks of L_i(t) / L_i(0) on test data: T before training, lower is
better. Against GradNorm stand

- equal weights;
- uncertainty weighting, whose s moves by Adam with the weights' learning rate of 0.025, which the paper used for both
  (§5.1), and once more with the network's learning rate, as if s were one more of its parameters;
- random static weights. The paper does this search on NYUv2 (§5.3): 100 networks, weights from a uniform distribution,
  renormalised to a sum of T. Here it is done on the toy, and a second time with log-uniform weights, because uniform
  ones do not reach the ratios that the toy asks for (``paper_toy_runs.random_weights``). All are trained on the first
  seed; the one of a draw that is best on the validation split is trained on every other seed too, and compared there;
- 1/σ_i² as static weights, on the first seed: a mark of what knowing the scales is worth. No claim is about it.

Two methods of one seed have the same data, the same initial network and the same batches. Seed k is the seed of both.

What the paper leaves open, and what is done here (each an option):

- batch size: 256, the catalogue's default;
- the network's optimiser and learning rate: Adam, since "all optimizers are Adam" (§5.1), at 0.005, the best of 0.001,
  0.002 and 0.005 for all three methods with ten tasks. With two tasks the learning rate decides more than the balancer
  does: GradNorm and uncertainty weighting are best at 0.005 too, equal weights at 0.002 (0.01 suits none: equal weights
  jump between 1.7 and 5). The full run therefore trains these methods at 0.002 as well, and compares each at its own
  best rate, chosen by the validation split;
- steps: 2500 for two tasks, 1500 for ten. All curves still fall there. With two tasks it depends on the step whether
  equal weights or GradNorm are ahead: at 0.005 equal weights are for the first 1000 steps (see ``curves.png``);
- rows: 20,000 (12,000 of them train), where the paper may draw fresh ones;
- N(0, 10) and N(0, 3.5): read as standard deviations and as variances, each a column of the results;
- the scales of the ten: from "a wide normal distribution", values not told. Those of the catalogue are log-uniform in
  1..100.

The intervals are 95 % t-intervals over the seeds, not corrected for the number of claims.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.paper_toy_claims import Claim, SearchCount, best_method, best_of_draw, claims_of, search_counts
from benchmarks.paper_toy_plots import save_plots
from benchmarks.paper_toy_runs import (
    EQUAL,
    GRADNORM,
    LOG_UNIFORM,
    UNCERTAINTY,
    UNCERTAINTY_AT_LR,
    UNDONE_SCALES,
    UNIFORM,
    Cell,
    Job,
    Row,
    random_weights,
    run_job,
    undone_scales,
)
from benchmarks.paper_toy_text import cell_title, claim_line, count_line, table_of_methods


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What an experiment consists of."""

    methods: Sequence[str] = (GRADNORM, EQUAL, UNCERTAINTY, UNCERTAINTY_AT_LR)  # the last at the common lr alone
    tasks: Sequence[int] = (2, 10)
    spreads: Sequence[str] = ("std", "variance")
    seeds: int = 5
    steps: Mapping[int, int]  # by T
    batch_size: int = 256
    lr: float = 0.005  # what all methods have in common
    other_lrs: Sequence[float] = (0.002,)  # where some may be better than there
    weight_lr: float = 0.025  # the paper's, §5.1
    alpha: float = 0.12  # the paper's, §4
    rows: int = 20_000
    uniform_vectors: int = 100
    log_uniform_vectors: int = 40
    reports: int = 25
    workers: int = 2

    @property
    def cells(self) -> list[Cell]:
        """Those that train longest first, so that no process is left alone with one at the end."""
        return [Cell(num_tasks=n, spread=s) for n in sorted(self.tasks, reverse=True) for s in self.spreads]


FULL = Settings(steps={2: 2500, 10: 1500})
QUICK = Settings(
    methods=(GRADNORM, EQUAL, UNCERTAINTY),
    spreads=("std",),
    seeds=4,
    steps={2: 2500, 10: 300},
    other_lrs=(),
    uniform_vectors=2,
    log_uniform_vectors=2,
    reports=10,
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came out."""

    settings: Settings
    rows: Sequence[Row]
    claims: Sequence[Claim]
    counts: Sequence[SearchCount]
    seconds: float


def first_jobs(settings: Settings) -> list[Job]:
    """Every network that does not depend on the result of another; jobs of the same data lie side by side."""
    jobs = []
    for cell in settings.cells:
        for seed in range(settings.seeds):
            for lr in (settings.lr, *settings.other_lrs):
                methods = [one for one in settings.methods if lr == settings.lr or one != UNCERTAINTY_AT_LR]
                jobs += [_job(settings, cell, seed, method, lr=lr) for method in methods]
            if seed == 0:
                jobs.append(_job(settings, cell, seed, UNDONE_SCALES, weights=undone_scales(cell.num_tasks)))
                jobs += _search_jobs(settings, cell)
    return jobs


def _search_jobs(settings: Settings, cell: Cell) -> list[Job]:
    counts = {UNIFORM: settings.uniform_vectors, LOG_UNIFORM: settings.log_uniform_vectors}
    return [
        _job(settings, cell, 0, f"{draw} {number}", weights=weights, draw=draw)
        for draw, count in counts.items()
        for number, weights in enumerate(random_weights(draw, num_tasks=cell.num_tasks, count=count, seed=0))
    ]


def winner_jobs(settings: Settings, winners: Iterable[Row]) -> list[Job]:
    """The best random weights of each draw again, on the seeds that they were not found on."""
    return [
        _job(settings, row.cell, seed, best_method(row.draw), weights=row.weights)
        for row in winners
        for seed in range(1, settings.seeds)
    ]


def _job(settings: Settings, cell: Cell, seed: int, method: str, *, lr: float | None = None, **changes: Any) -> Job:
    return Job(
        cell=cell,
        seed=seed,
        method=method,
        lr=settings.lr if lr is None else lr,
        steps=settings.steps[cell.num_tasks],
        batch_size=settings.batch_size,
        weight_lr=settings.weight_lr,
        alpha=settings.alpha,
        rows=settings.rows,
        reports=1 if "weights" in changes else settings.reports,
        **changes,
    )


def run_experiment(settings: Settings) -> Result:
    """Train every network, in processes of one thread each, and judge the claims."""
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")  # a fork of a process that has loaded torch may hang
    with ProcessPoolExecutor(settings.workers, mp_context=context) as pool:
        rows = _run_all(pool, first_jobs(settings), "networks")
        draws = [(cell, draw) for cell in settings.cells for draw in (UNIFORM, LOG_UNIFORM)]
        winners = [row for cell, draw in draws if (row := best_of_draw(rows, cell, draw)) is not None]
        rows += [replace(row, method=best_method(row.draw), draw="") for row in winners]
        rows += _run_all(pool, winner_jobs(settings, winners), "best static weights on the other seeds")
    return Result(
        settings=settings,
        rows=rows,
        claims=[claim for cell in settings.cells for claim in claims_of(rows, cell, settings.lr)],
        counts=[count for cell in settings.cells for count in search_counts(rows, cell, settings.lr)],
        seconds=time.monotonic() - start,
    )


def _run_all(pool: ProcessPoolExecutor, jobs: Sequence[Job], what: str) -> list[Row]:
    rows = []
    every = max(1, len(jobs) // 20)
    for row in pool.map(run_job, jobs):
        rows.append(row)
        if len(rows) % every == 0 or len(rows) == len(jobs):
            print(f"{what}: {len(rows)} of {len(jobs)}", file=sys.stderr, flush=True)
    return rows


def text_of(result: Result) -> str:
    """The tables and the verdicts."""
    parts = []
    for cell in result.settings.cells:
        parts.append(f"== {cell_title(cell)}, {result.settings.steps[cell.num_tasks]} steps: sum of L_i(t) / L_i(0)\n")
        parts.append(table_of_methods(result.rows, cell) + "\n")
        of_cell = {"num_tasks": cell.num_tasks, "spread": cell.spread}
        parts += [claim_line(claim) for claim in result.claims if of_cell.items() <= asdict(claim).items()]
        parts += [count_line(count) for count in result.counts if of_cell.items() <= asdict(count).items()]
        parts.append("")
    return "\n".join([*parts, f"{len(result.rows)} rows in {result.seconds:.0f} s"])


def document_of(result: Result) -> dict[str, Any]:
    """All of it as JSON; an infinite sum (the training diverged) is null."""
    return _finite(asdict(result))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def settings_from(arguments: Sequence[str] | None) -> tuple[Settings, Path, bool]:
    """The settings, the folder of the figures, and whether JSON is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper_toy", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--quick", action="store_true", help="fewer seeds, steps and static vectors: about two minutes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"), help="folder of the figures")
    parser.add_argument("--steps", type=int, help="of every network, whatever its T")
    parser.add_argument("--tasks", type=int, nargs="+", help="numbers of tasks")
    parser.add_argument("--spreads", nargs="+", choices=("std", "variance"), help="readings of N(0, 10)")
    parser.add_argument("--other-lrs", type=float, nargs="*", help="further learning rates of the moving methods")
    for name in ("seeds", "batch-size", "rows", "uniform-vectors", "log-uniform-vectors", "reports", "workers"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("lr", "weight-lr", "alpha"):
        parser.add_argument(f"--{name}", type=float)
    options = vars(parser.parse_args(arguments))
    preset = QUICK if options.pop("quick") else FULL
    as_json, out = options.pop("json"), options.pop("out")
    given = {name: value for name, value in options.items() if value is not None}
    steps = given.pop("steps", None)
    settings = replace(preset, **given)
    by_tasks = {n: steps or preset.steps.get(n, max(preset.steps.values())) for n in settings.tasks}
    return replace(settings, steps=by_tasks), out, as_json


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the experiment, draw the figures, print what came out."""
    settings, out, as_json = settings_from(arguments)
    result = run_experiment(settings)
    for path in save_plots(out, result.rows, settings.lr):
        print(path, file=sys.stderr)
    print(json.dumps(document_of(result), allow_nan=False) if as_json else text_of(result))


if __name__ == "__main__":
    main()
