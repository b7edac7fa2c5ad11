"""From the rounds to the table: medians, ratios within a round, and when a search had its result."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.sweep_throughput_variants import BASELINE, Variant
from benchmarks.sweep_throughput_workload import PARALLEL, Measurement, Workload, lowest, seconds_to

WITHIN = 0.01  # of the lowest value that any variant has reported for the problem

Rounds = Mapping[str, Sequence[Measurement | None]]  # variant -> one entry a round; None: not measured in it


@dataclass(frozen=True, kw_only=True)
class Row:
    """One variant on one problem: medians over the rounds, but for the largest peak."""

    problem: str
    variant: str
    trials: int
    seconds: float
    trials_per_minute: float
    peak_mb: float
    best: float | None
    ratio_to_script: float | None  # of trials a minute, within a round; None: the script was not measured
    cold_seconds: float
    seconds_to_1pct: float | None  # None: it never came there in half of the rounds
    round_seconds: Sequence[float]
    completed: int  # trials that came to their last step, in the last round
    steps: int
    batch_size: int
    reports: int  # of a trial that comes to its last step
    sampler: str
    lanes: int | str
    parallel: int
    asha: bool


def rows_of(workload: Workload, variants: Mapping[str, Variant], rounds: Rounds) -> list[Row]:
    """A row for each variant that was measured at all."""
    seen = [one for measured in rounds.values() for one in measured if one is not None]
    target = min((lowest(one.curve) for one in seen), default=math.inf) * (1 + WITHIN)
    return [
        _row(workload, name, variants[name], rounds, target)
        for name in variants
        if any(one is not None for one in rounds.get(name, ()))
    ]


def _row(workload: Workload, name: str, variant: Variant, rounds: Rounds, target: float) -> Row:
    own = [one for one in rounds[name] if one is not None]
    pairs = zip(rounds[name], rounds.get(BASELINE, ()), strict=False)
    ratios = [base.seconds / one.seconds for one, base in pairs if one is not None and base is not None]
    bests = [one.best for one in own if one.best is not None]
    reached = statistics.median(seconds_to(one.curve, target) for one in own)
    return Row(
        problem=workload.problem,
        variant=name,
        trials=workload.trials,
        seconds=statistics.median(one.seconds for one in own),
        trials_per_minute=statistics.median(60 * workload.trials / one.seconds for one in own),
        peak_mb=max(one.peak_mb for one in own),
        best=statistics.median(bests) if bests else None,
        ratio_to_script=statistics.median(ratios) if ratios else None,
        cold_seconds=statistics.median(one.cold_seconds for one in own),
        seconds_to_1pct=reached if math.isfinite(reached) else None,
        round_seconds=[one.seconds for one in own],
        completed=own[-1].completed,
        steps=workload.steps,
        batch_size=workload.batch_size,
        reports=math.ceil(workload.steps / workload.report_every),
        sampler=variant.sampler,
        lanes=variant.lanes_for(workload),
        parallel=PARALLEL,
        asha=variant.asha,
    )


def table(rows: Sequence[Row], missing: Mapping[tuple[str, str], str]) -> str:
    """The rows as text, one problem after another; ``missing``: (problem, variant) -> what was refused or failed."""
    columns = ("seconds", "trials/min", "to script", "cold s", "peak MB", "best", "s to 1 %")
    head = f"{'problem':15} {'variant':18} {'lanes':>5} {'trials':>6}"
    lines = [head + "".join(f" {column:>10}" for column in columns) + "  seconds of the rounds"]
    problems = dict.fromkeys([*(row.problem for row in rows), *(problem for problem, _ in missing)])
    for problem in problems:
        lines.append("")
        lines += [_line(row) for row in rows if row.problem == problem]
        for (other, variant), reason in missing.items():
            if other == problem:
                lines.append(f"{problem:15} {variant:18} {reason}")
    return "\n".join(lines)


def _line(row: Row) -> str:
    ratio = "–" if row.ratio_to_script is None else f"{row.ratio_to_script:.2f}x"
    best = "–" if row.best is None else f"{row.best:.4f}"
    reached = "–" if row.seconds_to_1pct is None else f"{row.seconds_to_1pct:.1f}"
    numbers = (f"{row.seconds:.1f}", f"{row.trials_per_minute:.1f}", ratio, f"{row.cold_seconds:.1f}")
    cells = "".join(f" {cell:>10}" for cell in (*numbers, f"{row.peak_mb:.0f}", best, reached))
    raw = " ".join(f"{seconds:.1f}" for seconds in row.round_seconds)
    return f"{row.problem:15} {row.variant:18} {row.lanes!s:>5} {row.trials:6}{cells}  {raw}"
