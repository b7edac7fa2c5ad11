"""What the rows of the toy experiment say about the paper's claims. Every word of it follows from the numbers.

A claim compares GradNorm with one other method, seed by seed, on Σ_i L_i / L_i(0) of the test split (lower is better).
With d = GradNorm − other, and the 95 % t-interval of its mean over the seeds:

    the interval lies below +margin      reproduces
    the interval lies above +margin      does not reproduce
    otherwise                            undecided

The margin is 0 where the paper says "better", and 1 % of T (the sum before training) where it says "matches or better".
A claim does not reproduce on seeds on which GradNorm diverged and the other got through.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.paper_toy_runs import EQUAL, GRADNORM, LOG_UNIFORM, UNCERTAINTY, UNCERTAINTY_AT_LR, UNIFORM, Cell, Row
from sweep_service.domain.verdict import Comparison, Contrast, compare

MATCHES = 0.01  # of T: what counts as "matches"

REPRODUCES, DOES_NOT, UNDECIDED = "reproduces", "does not reproduce", "undecided"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One comparison of GradNorm with another method in a cell; numbers are None where there are too few seeds."""

    num_tasks: int
    spread: str
    text: str
    other: str
    lr: float
    other_lr: float
    gradnorm_mean: float
    other_mean: float
    mean_difference: float | None  # GradNorm − other
    sd_of_difference: float | None
    interval: tuple[float, float] | None
    margin: float
    num_pairs: int  # seeds on which both got through: those that the difference is a mean of
    num_seeds: int
    num_won: int  # of those, seeds on which GradNorm is lower; one that diverged is not
    verdict: str


def best_of_draw(rows: Sequence[Row], cell: Cell, draw: str) -> Row | None:
    """The random weights of a cell with the lowest sum on the validation split; None: there are none."""
    drawn = [row for row in rows if row.cell == cell and row.draw == draw]
    return min(drawn, key=lambda row: row.validation_sum, default=None)


def best_method(draw: str) -> str:
    """What the winner of a draw is called where it is trained on every seed."""
    return f"best {draw}"


def claims_of(rows: Sequence[Row], cell: Cell, lr: float) -> list[Claim]:
    """All claims of a cell: with one learning rate for every method, then with each method's own best one."""
    table = {
        (row.method, row.lr): _by_seed(rows, cell, row.method, row.lr)
        for row in rows
        if row.cell == cell and not row.draw
    }
    others = {
        EQUAL: ("below equal weights", 0.0),
        UNCERTAINTY: ("below uncertainty weighting", 0.0),
        UNCERTAINTY_AT_LR: ("below uncertainty weighting, its s at the network's learning rate", 0.0),
    }
    for draw, count in Counter(row.draw for row in rows if row.cell == cell and row.draw).items():
        text = f"at least as good as the best of {count} {draw} static weights"
        others[best_method(draw)] = (text, MATCHES * cell.num_tasks)
    claims = [
        claim(cell, text, table, ours=(GRADNORM, lr), theirs=(other, lr), margin=margin)
        for other, (text, margin) in others.items()
        if (other, lr) in table
    ]
    if len({row.lr for row in rows if row.cell == cell}) > 1:
        ours = (GRADNORM, own_best_lr(rows, cell, GRADNORM))
        for other in (EQUAL, UNCERTAINTY):
            theirs = (other, own_best_lr(rows, cell, other))
            text = f"{others[other][0]}, each at its best learning rate"
            claims.append(claim(cell, text, table, ours=ours, theirs=theirs, margin=0.0))
    return claims


def claim(
    cell: Cell,
    text: str,
    table: Mapping[tuple[str, float], Mapping[int, Row]],
    *,
    ours: tuple[str, float],
    theirs: tuple[str, float],
    margin: float,
) -> Claim:
    """Compare two methods on the seeds that both have; ``table`` holds rows by (method, lr), then by seed."""
    best, other = ({seed: row.test_sum for seed, row in table[key].items()} for key in (ours, theirs))
    # The margin of a Contrast is for a word that is not used here; it only has to be positive.
    compared = compare([Contrast(baseline=theirs[0], best=best, other=other, margin=1.0)])[0]
    seeds = sorted(set(best) & set(other))
    diverged, other_diverged = ({seed for seed in seeds if math.isinf(side[seed])} for side in (best, other))
    differences = [best[seed] - other[seed] for seed in seeds if seed not in diverged | other_diverged]
    return Claim(
        num_tasks=cell.num_tasks,
        spread=cell.spread,
        text=text,
        other=theirs[0],
        lr=ours[1],
        other_lr=theirs[1],
        gradnorm_mean=statistics.fmean(best[seed] for seed in seeds),
        other_mean=statistics.fmean(other[seed] for seed in seeds),
        mean_difference=compared.mean_difference,
        sd_of_difference=statistics.stdev(differences) if len(differences) > 1 else None,
        interval=compared.interval,
        margin=margin,
        num_pairs=compared.num_pairs,
        num_seeds=len(seeds),
        num_won=sum(best[seed] < other[seed] for seed in seeds),
        verdict=_verdict(compared, margin, gradnorm_alone_diverged=bool(diverged - other_diverged)),
    )


def _verdict(compared: Comparison, margin: float, *, gradnorm_alone_diverged: bool) -> str:
    if gradnorm_alone_diverged:
        return DOES_NOT
    if compared.interval is None:
        return UNDECIDED
    low, high = compared.interval
    if high < margin:
        return REPRODUCES
    return DOES_NOT if low > margin else UNDECIDED


def own_best_lr(rows: Sequence[Row], cell: Cell, method: str) -> float:
    """The learning rate at which a method has the lowest mean sum on the validation split."""

    def mean_sum(lr: float) -> float:
        return statistics.fmean(row.validation_sum for row in _by_seed(rows, cell, method, lr).values())

    return min(sorted({row.lr for row in rows if row.cell == cell and row.method == method}), key=mean_sum)


@dataclass(frozen=True, kw_only=True)
class SearchCount:
    """The paper's own form of the comparison (§5.3): one GradNorm network against every random static network, on the
    seed of the search. The best of many on the test split itself, which favours the static weights.
    """

    num_tasks: int
    spread: str
    draw: str
    seed: int
    gradnorm: float
    best_static: float
    num_static: int
    num_below_gradnorm: int


def search_counts(rows: Sequence[Row], cell: Cell, lr: float) -> list[SearchCount]:
    """One count a draw that the cell has."""
    counts = []
    for draw in (UNIFORM, LOG_UNIFORM):
        drawn = [row for row in rows if row.cell == cell and row.draw == draw]
        if not drawn:
            continue
        seed = drawn[0].seed
        gradnorm = _by_seed(rows, cell, GRADNORM, lr)[seed].test_sum
        counts.append(
            SearchCount(
                num_tasks=cell.num_tasks,
                spread=cell.spread,
                draw=draw,
                seed=seed,
                gradnorm=gradnorm,
                best_static=min(row.test_sum for row in drawn),
                num_static=len(drawn),
                num_below_gradnorm=sum(row.test_sum < gradnorm for row in drawn),
            )
        )
    return counts


def _by_seed(rows: Sequence[Row], cell: Cell, method: str, lr: float) -> Mapping[int, Row]:
    return {
        row.seed: row for row in rows if row.cell == cell and row.method == method and row.lr == lr and not row.draw
    }
