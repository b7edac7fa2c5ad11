"""The toy of the GradNorm paper (Chen et al., ICML 2018, §4): T regressions that differ in nothing but their scale.

    f_i(x) = σ_i tanh((B + ε_i) x),   x of 250 numbers, f_i(x) of 100

B is what the tasks share, ε_i what is each one's own. The squared error of task i starts at about σ_i² times that of a
task of scale 1: with σ = (1, 100) the plain sum of the losses is the second one alone.

The paper leaves open, and this is what is done here:

- the distribution of x: standard normal;
- whether N(0, 10) and N(0, 3.5) name a standard deviation or a variance: ``spread`` says which. Either way the argument
  of tanh is so large (a spread of 168 or 58) that f_i(x) is close to ±σ_i;
- the ten scales of its second experiment: see ``DRAWN_SCALES``;
- how many rows: ``rows``, generated once, where the paper may draw fresh ones.

The paper's own measure, Σ_i L_i(t) / L_i(0) on test data, is not reported: a metric here is a function of a task's
outputs and targets, and does not know the untrained network's loss. ``normalized_loss`` divides by the loss of the best
constant instead, which is close to L_i(0) on this problem (an untrained network answers about 0), and takes the mean
over the tasks where the paper takes the sum.

Shapes: B rows, F = 250 inputs, O = 100 outputs of a task.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainables.catalog import TaskKind
from trainables.metrics import rmse
from trainables.problems.tabular import InMemoryProblem, in_memory_problem, shared_bottom_model
from trainables.protocol import Task

NUM_INPUTS, NUM_OUTPUTS = 250, 100
SHARED_SPREAD, OWN_SPREAD = 10.0, 3.5  # of the elements of B and of ε_i

PAIR_SCALES = (1.0, 100.0)  # the paper's, for two tasks
# Ten scales, not published: drawn as round(10 ** random.Random(1711).uniform(0, 2), 1), that is between 1 and 100 with
# the logarithm uniform, and written down so that no other version of Python draws others.
DRAWN_SCALES = (34.7, 3.9, 1.4, 13.4, 59.9, 40.3, 4.9, 7.3, 81.1, 22.9)


def toy_regression(
    *,
    num_tasks: int = 2,
    spread: str = "std",
    rows: int = 20_000,
    data_seed: int = 0,
    hidden: Sequence[int] = (100, 100, 100, 100),
    dropout: float = 0.0,
) -> InMemoryProblem:
    """The problem. Its parameters are described in the catalogue."""
    inputs_BF, targets = _generate(scales(num_tasks), spread, rows, data_seed)
    return in_memory_problem(
        [inputs_BF],
        targets,
        tasks=tuple(
            Task(name=name, kind=TaskKind.REGRESSION, loss=functional.mse_loss, metrics={"rmse": rmse})
            for name in targets
        ),
        model=partial(
            shared_bottom_model,
            stem=nn.Identity(),
            stem_width=NUM_INPUTS,
            hidden=tuple(hidden),
            heads=dict.fromkeys(targets, NUM_OUTPUTS),
            dropout=dropout,
        ),
    )


def scales(num_tasks: int) -> tuple[float, ...]:
    """σ_i of each task: the paper's pair for two, the first of the drawn ones for more.

    Raises:
        ValueError: fewer than two or more than ten tasks.
    """
    if not len(PAIR_SCALES) <= num_tasks <= len(DRAWN_SCALES):
        raise ValueError(f"num_tasks must be from {len(PAIR_SCALES)} to {len(DRAWN_SCALES)}, not {num_tasks}")
    return PAIR_SCALES if num_tasks == len(PAIR_SCALES) else DRAWN_SCALES[:num_tasks]


@functools.lru_cache(maxsize=1)
def _generate(
    task_scales: tuple[float, ...], spread: str, num_rows: int, data_seed: int
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Inputs and targets by task, generated once a process; never written to (splits are copies).

    Drawn in float64 and in a fixed order (x, B, ε_1, ε_2, …), so that f_i is the same function, but for its scale,
    whatever the number of tasks.
    """
    std_of = {"std": float, "variance": lambda value: value**0.5}[spread]
    generator = torch.Generator().manual_seed(data_seed)
    inputs_BF = torch.randn(num_rows, NUM_INPUTS, generator=generator, dtype=torch.float64)
    shared_OF = std_of(SHARED_SPREAD) * _normal(generator)
    targets = {}
    for number, scale in enumerate(task_scales, start=1):
        matrix_OF = shared_OF + std_of(OWN_SPREAD) * _normal(generator)
        targets[f"f{number}"] = (scale * torch.tanh(inputs_BF @ matrix_OF.T)).float()
    return inputs_BF.float(), targets


def _normal(generator: torch.Generator) -> Tensor:
    return torch.randn(NUM_OUTPUTS, NUM_INPUTS, generator=generator, dtype=torch.float64)
