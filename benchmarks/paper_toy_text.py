"""The toy experiment's rows and claims as tables of text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from benchmarks.paper_toy_claims import REPRODUCES, Claim, SearchCount
from benchmarks.paper_toy_runs import Cell, Row


def cell_title(cell: Cell) -> str:
    """One line that names a cell."""
    of_what = {"std": "standard deviation", "variance": "variance"}[cell.spread]
    return f"T = {cell.num_tasks}, the 10 of N(0, 10) a {of_what}"


def table_of_methods(rows: Sequence[Row], cell: Cell) -> str:
    """Mean and spread over the seeds of every method, at every learning rate; random draws are counted elsewhere."""
    keys = dict.fromkeys((row.method, row.lr) for row in rows if row.cell == cell and not row.draw)
    lines = [f"{'method':<24}{'lr':>8}{'seeds':>7}{'mean':>9}{'sd':>8}   each seed"]
    for method, lr in sorted(keys, key=lambda key: (key[1], list(keys).index(key))):
        sums = [
            row.test_sum
            for row in sorted(rows, key=lambda row: row.seed)
            if row.cell == cell and not row.draw and (row.method, row.lr) == (method, lr)
        ]
        spread = f"{statistics.stdev(sums):8.3f}" if len(sums) > 1 else f"{'':>8}"
        each = " ".join(f"{value:.3f}" for value in sums)
        lines.append(f"{method:<24}{lr:>8g}{len(sums):>7}{statistics.fmean(sums):>9.3f}{spread}   {each}")
    return "\n".join(lines)


def claim_line(claim: Claim) -> str:
    """One claim with the numbers that decide it."""
    verdict = claim.verdict.upper() if claim.verdict == REPRODUCES else claim.verdict
    rates = f"lr {claim.lr:g}" if claim.lr == claim.other_lr else f"lr {claim.lr:g} against {claim.other_lr:g}"
    numbers = f"{claim.gradnorm_mean:.3f} against {claim.other_mean:.3f}"
    if claim.mean_difference is not None:
        numbers += f", difference {claim.mean_difference:+.3f}"
    if claim.interval is not None and claim.sd_of_difference is not None:
        low, high = claim.interval
        numbers += f" (sd {claim.sd_of_difference:.3f}, 95 % interval {low:+.3f} to {high:+.3f})"
    if claim.margin:
        numbers += f", margin {claim.margin:g}"
    won = f"lower on {claim.num_won} of {claim.num_seeds} seeds"
    return f"{verdict}: GradNorm {claim.text} ({rates})\n    {numbers}, {won}"


def count_line(count: SearchCount) -> str:
    """One search of random static weights against the GradNorm network of its seed."""
    better = {0: "none is", 1: "1 is"}.get(count.num_below_gradnorm, f"{count.num_below_gradnorm} are")
    return (
        f"of {count.num_static} {count.draw} static networks {better} below GradNorm on seed {count.seed}: "
        f"the best has {count.best_static:.3f}, GradNorm {count.gradnorm:.3f}"
    )
