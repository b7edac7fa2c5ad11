"""What a training step with GradNorm costs, form by form (``gradnorm_step_forms``), beside a step with equal weights.

    python -m benchmarks.gradnorm_step --quick
    python -m benchmarks.gradnorm_step --models mlp --tasks 2 10 --batches 1000 --json > step.json

One thread, float32, on the CPU, the batches already drawn. Every round runs each form for a few steps, in an order
drawn anew, so that whatever else the machine does hits all of them alike. ``median_ms`` is the median over the rounds
of the time per step; ``ratio_to_plain`` the median over the rounds of the ratio to ``plain`` *within* the round, which
drifts of the machine's speed do not touch. The first step of a form in each round is not timed: it finds the others'
data in the processor's cache. On a machine that others use too, ``--cpu-time`` counts what the process got of it.

    plain              equal weights: the engine's step without any of GradNorm
    bare               equal weights in a bare training loop: what of ``plain`` is the engine's own
    ours               the engine's step with GradNorm
    create_graph       a second-order graph, L_grad differentiated by the weights alone; the same method as ``ours``
    create_graph_full  L_grad.backward() through everything; its leak into the network thrown away
    gradnorm_pytorch   the package gradnorm-pytorch (left out where it is not installed)
    full_trunk         every task's gradient by the whole trunk
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import torch

from benchmarks.gradnorm_step_forms import FORMS, Form, Inputs, Targets, missing_forms
from benchmarks.gradnorm_step_problems import PROBLEMS
from trainables.batches import Batches
from trainables.protocol import Problem
from trainables.seeding import new_generator

NUM_BATCHES = 4  # taken in turn
WARM_UP_STEPS = 5
ORDER_SEED = 1711


@dataclass(frozen=True, kw_only=True)
class Row:
    """One form on one network."""

    model: str
    tasks: int
    batch: int
    method: str
    median_ms: float
    ratio_to_plain: float


class Runner:
    """One form, run on the same batches in turn."""

    def __init__(
        self, form: Form, batches: Sequence[tuple[Inputs, Targets]], clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._form = form
        self._batches = batches
        self._clock = clock
        self._taken = 0

    def run(self, steps: int) -> float:
        """Take so many steps; seconds per step."""
        start = self._clock()
        for _ in range(steps):
            self._form.step(*self._batches[self._taken % len(self._batches)])
            self._taken += 1
        return (self._clock() - start) / steps


def measure(
    model: str,
    num_tasks: int,
    batch_size: int,
    methods: Sequence[str],
    *,
    rounds: int,
    steps: int,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """All forms on one network, side by side. ``plain`` must be among the methods."""
    problem: Problem = PROBLEMS[model](num_tasks=num_tasks, rows=2 * NUM_BATCHES * batch_size)
    drawn = Batches(problem.train, batch_size=batch_size, generator=new_generator(0, 0))
    batches = [drawn.take() for _ in range(NUM_BATCHES)]
    runners = {method: Runner(FORMS[method](problem, "float32"), batches, clock) for method in methods}
    for runner in runners.values():
        runner.run(WARM_UP_STEPS)
    times: dict[str, list[float]] = {method: [] for method in methods}
    order, dice = list(methods), random.Random(ORDER_SEED)
    for _ in range(rounds):
        dice.shuffle(order)
        for method in order:
            runners[method].run(1)
            times[method].append(runners[method].run(steps))
    return [
        Row(
            model=model,
            tasks=num_tasks,
            batch=batch_size,
            method=method,
            median_ms=1000 * statistics.median(times[method]),
            ratio_to_plain=statistics.median(t / p for t, p in zip(times[method], times["plain"], strict=True)),
        )
        for method in methods
    ]


def table(rows: Sequence[Row], missing: Mapping[str, str]) -> str:
    """The rows as text, one network after another."""
    lines = [f"{'model':8} {'tasks':>5} {'batch':>5}  {'method':18} {'ms/step':>9} {'to plain':>9}"]
    for row in rows:
        if row.method == "plain":
            lines.append("")
        cells = f"{row.model:8} {row.tasks:5} {row.batch:5}  {row.method:18} "
        lines.append(f"{cells}{row.median_ms:9.3f} {row.ratio_to_plain:8.3f}x")
    return "\n".join([*lines, *(f"\nleft out: {method}: {reason}" for method, reason in missing.items())])


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(1)
    missing = {method: reason for method, reason in missing_forms().items() if method in options.methods}
    wanted = {"plain", *options.methods} - set(missing)
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = []
    for model in options.models:
        for num_tasks in options.tasks:
            for batch_size in options.batches:
                print(f"{model}, {num_tasks} tasks, batch {batch_size} ...", file=sys.stderr)
                methods = [method for method in FORMS if method in wanted]
                rows += measure(
                    model, num_tasks, batch_size, methods, rounds=options.rounds, steps=options.steps, clock=clock
                )
    if options.json:
        for method, reason in missing.items():
            print(f"left out: {method}: {reason}", file=sys.stderr)
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
    else:
        print(table(rows, missing))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gradnorm_step", description="Time a step of GradNorm.")
    parser.add_argument("--models", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--tasks", nargs="+", type=int, default=[2, 3, 10], help="numbers of tasks, 2 to 10")
    parser.add_argument("--batches", nargs="+", type=int, default=[100, 1000], help="batch sizes")
    parser.add_argument("--methods", nargs="+", choices=FORMS, default=list(FORMS), help="plain is always among them")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a form in a round")
    parser.add_argument("--quick", action="store_true", help="5 rounds of 2 steps")
    parser.add_argument("--cpu-time", action="store_true", help="this process's time in place of the wall's")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout in place of the table")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.steps = 5, 2
    return options


if __name__ == "__main__":
    main()
