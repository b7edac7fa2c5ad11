"""What the toy experiment trains, and the one number that it measures: Σ_i L_i(t) / L_i(0) on the test split.

L_i(0) is the loss of the untrained network, that is of the very initial weights that training starts from. The engine
reports no such thing (``trainables.problems.toy_regression`` says why), so the network is built here a second time from
the same seed, and measured before its first step. In between, test losses come from the checkpoints of a lane's
reports, since a lane measures the test split at its end alone.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainables.catalog import ParameterValue, load_problem, task_parameter_name
from trainables.evaluation import constant_losses, evaluate
from trainables.problems.toy_regression import scales
from trainables.protocol import Lane, LaneEnding, LaneReport, Problem
from trainables.seeding import seed_globally
from trainables.training import train

GRADNORM, EQUAL = "gradnorm", "equal"
UNCERTAINTY = "uncertainty"  # its s moves by the weights' learning rate, as in the paper
UNCERTAINTY_AT_LR = "uncertainty, s at lr"  # by the network's, as if s were one more parameter of it
UNDONE_SCALES = "static 1/σ²"
UNIFORM, LOG_UNIFORM = "uniform", "log-uniform"  # draws of random static weights

_BALANCERS = {GRADNORM: "gradnorm", EQUAL: "equal", UNCERTAINTY: "uncertainty", UNCERTAINTY_AT_LR: "uncertainty"}
_DECADES = 4.0  # of the log-uniform draw
_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One reading of the paper's toy problem."""

    num_tasks: int
    spread: str  # what the 10 of N(0, 10) is: std or variance


@dataclass(frozen=True, kw_only=True)
class Job:
    """One network to train; ``paper_toy`` says where the values come from."""

    cell: Cell
    seed: int  # of the data and of the network: two jobs of one cell and seed start from the same weights and rows
    method: str
    lr: float
    steps: int
    batch_size: int
    weight_lr: float
    alpha: float
    rows: int
    reports: int  # points of the curve after step 0; 1: the end alone
    weights: Sequence[float] = ()  # those of a static method
    draw: str = ""  # where they were drawn from


@dataclass(frozen=True, kw_only=True)
class Row:
    """What became of a network. Sums are Σ_i L_i / L_i(0), infinite where the training diverged."""

    num_tasks: int
    spread: str
    seed: int
    method: str
    lr: float
    steps: int
    test_sum: float
    validation_sum: float
    test_ratios: Mapping[str, float]  # L_i / L_i(0) by task; empty where the training diverged
    weights: Sequence[float]  # those of a static method
    draw: str
    curve: Sequence[tuple[int, float]]  # (step, sum on the test split), from step 0 on
    weight_curves: Mapping[str, Sequence[float]]  # by task, at the steps of the curve after step 0

    @property
    def cell(self) -> Cell:
        return Cell(num_tasks=self.num_tasks, spread=self.spread)


def random_weights(draw: str, *, num_tasks: int, count: int, seed: int) -> list[list[float]]:
    """``count`` vectors of T positive weights, each vector with a sum of T.

    ``uniform`` is the paper's search (§5.3): each weight from U(0, 1), then made to sum to T. A ratio of two of them is
    beyond 100 once in a hundred times, and the scales of two tasks here ask for 10⁴. ``log-uniform`` takes each as 10
    to the power of U(−4, 0) before the sum is made T: ratios of up to 10⁴ either way.
    """
    generator = random.Random(f"{draw}, {num_tasks} tasks, seed {seed}")
    vectors = []
    for _ in range(count):
        values = [1.0 - generator.random() for _ in range(num_tasks)]  # in (0, 1]: 0 is no weight
        vectors.append(scaled(values if draw == UNIFORM else [10.0 ** (-_DECADES * value) for value in values]))
    return vectors


def undone_scales(num_tasks: int) -> list[float]:
    """1 / σ_i² with a sum of T: the weights that make the tasks equal. A mark, since nobody is told the scales."""
    return scaled([scale**-2 for scale in scales(num_tasks)])


def scaled(values: Sequence[float]) -> list[float]:
    """The values, times what makes their sum their number."""
    return [value * len(values) / sum(values) for value in values]


def run_job(job: Job) -> Row:
    """Train a network and measure it.

    Raises:
        RuntimeError: the training failed by anything but a number that is not finite.
    """
    torch.set_num_threads(1)  # one network a process
    problem = _problem(job.cell, job.rows, job.seed)
    recorder = _Recorder(problem, job.seed)
    params: dict[str, ParameterValue] = {
        "seed": job.seed,
        "lr": job.lr,
        "steps": job.steps,
        "batch_size": job.batch_size,
        "weight_lr": job.lr if job.method == UNCERTAINTY_AT_LR else job.weight_lr,
        "alpha": job.alpha,
        "report_every": math.ceil(job.steps / job.reports),
        "checkpoint_every": 1,  # at every report, that is
    }
    weights = zip(problem.tasks, job.weights, strict=True) if job.weights else ()
    params |= {task_parameter_name("weight", task.name): weight for task, weight in weights}
    lane = Lane(key=job.method, balancer=_BALANCERS.get(job.method, "static"), params=params, evaluate_test=True)
    train(problem, [lane], recorder.receive, device=_CPU)
    return recorder.row(job)


class LossRatios:
    """Losses as shares of those of the network that a lane with that seed starts from: L_i / L_i(0), by task."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._problem = problem
        self._splits = {"val": problem.validation, "test": problem.test}
        seed_globally(seed)  # as a lane does before it builds its network
        self._network = problem.build_model()
        self._initial_losses = {prefix: self._losses(prefix) for prefix in self._splits}

    def of_metrics(self, metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
        """The ratios of the losses that a lane has reported on the split ``val`` or ``test``."""
        initial = self._initial_losses[prefix]
        return {name: metrics[f"{prefix}/loss/{name}"] / loss for name, loss in initial.items()}

    def of_parameters(self, parameters: Mapping[str, Tensor], prefix: str) -> dict[str, float]:
        """The ratios of a network with those parameters on the split ``val`` or ``test``."""
        self._network.load_state_dict(parameters)
        losses = self._losses(prefix)
        return {name: losses[name] / loss for name, loss in self._initial_losses[prefix].items()}

    def _losses(self, prefix: str) -> Mapping[str, float]:
        tasks, split = self._problem.tasks, self._splits[prefix]
        metrics = evaluate(self._network, tasks, split, constant_losses(self._problem, split), prefix)
        return {task.name: metrics[f"{prefix}/loss/{task.name}"] for task in tasks}


class _Recorder:
    """Receives a lane's reports and makes a row of them."""

    def __init__(self, problem: Problem, seed: int) -> None:
        self._task_names = [task.name for task in problem.tasks]
        self._ratios = LossRatios(problem, seed)
        self._reports: list[LaneReport] = []
        self._curve: list[tuple[int, float]] = [(0, float(len(problem.tasks)))]

    def receive(self, reports: Sequence[LaneReport]) -> Sequence[str]:
        for report in reports:
            self._reports.append(report)
            if report.checkpoint is not None:
                ratios = self._ratios.of_parameters(report.checkpoint.model, "test")
                self._curve.append((report.step, sum(ratios.values())))
        return ()

    def row(self, job: Job) -> Row:
        end = self._reports[-1]
        has_diverged = end.ending is LaneEnding.NON_FINITE
        if not has_diverged and end.ending is not LaneEnding.COMPLETED:
            raise RuntimeError(f"{job.method}, seed {job.seed}: {end.message}\n{end.traceback}")
        of_split = {} if has_diverged else {p: self._ratios.of_metrics(end.metrics, p) for p in ("val", "test")}
        sums = {prefix: sum(ratios.values()) for prefix, ratios in of_split.items()}
        measured = [report for report in self._reports if report.checkpoint is not None]
        return Row(
            num_tasks=job.cell.num_tasks,
            spread=job.cell.spread,
            seed=job.seed,
            method=job.method,
            lr=job.lr,
            steps=job.steps,
            test_sum=sums.get("test", math.inf),
            validation_sum=sums.get("val", math.inf),
            test_ratios=of_split.get("test", {}),
            weights=tuple(job.weights),
            draw=job.draw,
            curve=self._curve,
            weight_curves={
                name: [report.metrics[f"weight/{name}"] for report in measured] for name in self._task_names
            },
        )


@functools.lru_cache(maxsize=1)  # jobs come in the order of their data
def _problem(cell: Cell, rows: int, data_seed: int) -> Problem:
    params = {"num_tasks": cell.num_tasks, "spread": cell.spread, "rows": rows, "data_seed": data_seed}
    return load_problem("toy_regression", params)
