"""The Ray Tune script that the service is measured against, as somebody writes it who knows Tune, Optuna and MLflow.

    python -m benchmarks.sweep_throughput_script --problem digits --trials 8 --steps 200 --batch-size 64 --folder FOLDER

Two trials at once, Optuna's TPE, MLflow by Ray's own callback into a SQLite file, GradNorm by a second-order graph.
What it could do worse it does well: the data are read once and handed to the trials by Ray's object store, batches are
slices of tensors (no DataLoader), Adam is the fused one, a trial has one thread, Ray has no dashboard. Unlike the
service it keeps no checkpoints, and nothing survives it but MLflow's runs.

Ray's callback writes metric by metric, each in a transaction of its own, and the trial waits meanwhile. ``--batched``
is for those who have noticed: a callback of one's own that writes each result at once. ``--reuse-actors`` spares a
trial the start of its process.

Model, data, batches, seeds and evaluation are those of ``trainables``, so that a trial learns what the same trial of
the service does.

Shapes: T tasks.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import psutil
import ray
import torch
from mlflow.entities import Metric
from optuna.samplers import TPESampler
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from torch import Tensor, nn

from benchmarks.sweep_throughput_workload import (
    ALPHA,
    LR,
    METRIC,
    PARALLEL,
    REDUCTION_FACTOR,
    SEED,
    WEIGHT_LR,
    Workload,
)
from trainables.batches import Batches
from trainables.catalog import load_problem
from trainables.evaluation import constant_losses, evaluate
from trainables.protocol import Problem
from trainables.seeding import new_generator

SMALLEST_WEIGHT = 1e-4
RESULT = "result.json"


class GradNorm:
    """Weights of the tasks' losses as parameters, moved by the gradient of L_grad through a second-order graph."""

    def __init__(self, shared: Sequence[nn.Parameter], num_tasks: int, *, alpha: float, lr: float) -> None:
        self.weights = nn.Parameter(torch.ones(num_tasks, dtype=shared[0].dtype))
        self._shared = shared
        self._alpha = alpha
        self._optimizer = torch.optim.Adam([self.weights], lr=lr)
        self._initial_losses_T: Tensor | None = None

    def step(self, losses: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
        """One step of the network by the weighted losses, and one of the weights."""
        losses_T = torch.stack([loss.detach() for loss in losses])
        if self._initial_losses_T is None:
            self._initial_losses_T = losses_T
        norms = []
        for weight, loss in zip(self.weights, losses, strict=True):
            gradients = torch.autograd.grad(weight * loss, self._shared, create_graph=True)
            norms.append(torch.cat([gradient.flatten() for gradient in gradients]).norm())
        norms_T = torch.stack(norms)
        rates_T = losses_T / self._initial_losses_T
        targets_T = norms_T.detach().mean() * (rates_T / rates_T.mean()) ** self._alpha
        grad_loss = (norms_T - targets_T).abs().sum()
        (self.weights.grad,) = torch.autograd.grad(grad_loss, [self.weights], retain_graph=True)

        optimizer.zero_grad()
        weighted = [weight * loss for weight, loss in zip(self.weights.detach(), losses, strict=True)]
        torch.stack(weighted).sum().backward()
        optimizer.step()
        self._optimizer.step()
        with torch.no_grad():
            self.weights.clamp_(min=SMALLEST_WEIGHT)
            self.weights.mul_(len(self.weights) / self.weights.sum())


class Training:
    """A network, its batches and its GradNorm."""

    def __init__(self, problem: Problem, workload: Workload, *, alpha: float, weight_lr: float) -> None:
        torch.manual_seed(SEED)
        dtype = next(tensor.dtype for tensor in problem.train.inputs if tensor.is_floating_point())
        self.model = problem.build_model().to(dtype)
        self.model.train()
        self._tasks = problem.tasks
        self._batches = Batches(problem.train, batch_size=workload.batch_size, generator=new_generator(SEED, 0))
        self._optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.0, fused=True)
        shared = list(self.model.shared_layer.parameters())
        self.gradnorm = GradNorm(shared, len(self._tasks), alpha=alpha, lr=weight_lr)

    def step(self) -> Mapping[str, Tensor]:
        """Train on the next batch; the losses before it."""
        inputs, targets = self._batches.take()
        outputs = self.model(*inputs)
        losses = [task.loss(outputs[task.name], targets[task.name]) for task in self._tasks]
        self.gradnorm.step(losses, self._optimizer)
        return {task.name: loss.detach() for task, loss in zip(self._tasks, losses, strict=True)}


def train_trial(config: Mapping[str, float], *, problem: Problem, workload: Workload) -> None:
    """The function that Tune calls for each trial."""
    torch.set_num_threads(1)
    training = Training(problem, workload, alpha=config["alpha"], weight_lr=config["weight_lr"])
    unit_T = constant_losses(problem, problem.validation)
    for step in range(1, workload.steps + 1):
        losses = training.step()
        if step % workload.report_every == 0 or step == workload.steps:
            metrics = evaluate(training.model, problem.tasks, problem.validation, unit_T, "val")
            weights = zip(losses, training.gradnorm.weights.tolist(), strict=True)
            metrics |= {f"weight/{name}": weight for name, weight in weights}
            metrics |= {f"train/loss/{name}": loss.item() for name, loss in losses.items()}
            tune.report({**metrics, "step": step, "reported_at": time.time()})


class BatchedMLflow(MLflowLoggerCallback):
    """Ray's callback, but a result is one request and not one for each of its numbers."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        now_ms = round(1000 * time.time())
        numbers = {key: float(value) for key, value in result.items() if isinstance(value, int | float)}
        metrics = [Metric(key, value, now_ms, iteration) for key, value in numbers.items()]
        mlflow.MlflowClient(self.tracking_uri).log_batch(self._trial_runs[trial], metrics)


def run_search(problem: Problem, workload: Workload, options: argparse.Namespace) -> tuple[tune.ResultGrid, float]:
    """All trials, into MLflow; with the time of the start."""
    tracking_uri = f"sqlite:///{options.folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(workload.problem)  # makes the database
    search = OptunaSearch(metric=METRIC, mode="min", sampler=TPESampler(seed=SEED))
    asha = ASHAScheduler(
        time_attr="step",
        metric=METRIC,
        mode="min",
        max_t=workload.steps,
        grace_period=workload.min_steps,
        reduction_factor=REDUCTION_FACTOR,
    )
    callback = BatchedMLflow if options.batched else MLflowLoggerCallback
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train_trial, problem=problem, workload=workload), {"cpu": 1}),
        param_space={"alpha": tune.uniform(*ALPHA), "weight_lr": tune.loguniform(*WEIGHT_LR)},
        tune_config=tune.TuneConfig(
            search_alg=ConcurrencyLimiter(search, max_concurrent=PARALLEL),
            scheduler=asha if options.asha else None,
            num_samples=workload.trials,
            reuse_actors=options.reuse_actors,
        ),
        run_config=tune.RunConfig(
            name=workload.problem,
            storage_path=str(options.folder / "tune"),
            callbacks=[callback(tracking_uri=tracking_uri, experiment_name=workload.problem)],
            verbose=0,
        ),
    )
    started_at = time.time()
    return tuner.fit(), started_at


def document_of(results: tune.ResultGrid, workload: Workload, *, started_at: float, ended_at: float) -> dict[str, Any]:
    """What the benchmark reads of it."""
    curve: list[tuple[float, float]] = []
    finals = []
    for result in results:
        metrics = result.metrics or {}
        if result.error is None and metrics.get("step") == workload.steps:
            finals.append(metrics[METRIC])
        frame = result.metrics_dataframe
        if frame is not None:
            curve += [(at - started_at, value) for at, value in zip(frame["reported_at"], frame[METRIC], strict=True)]
    return {
        "seconds": ended_at - started_at,
        "cold_seconds": ended_at - psutil.Process().create_time(),
        "ended_well": sum(result.error is None for result in results),
        "completed": len(finals),
        "curve": sorted(curve),
        "best": min(finals, default=None),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_throughput_script")
    parser.add_argument("--problem", required=True)
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help=f"of MLflow's database and {RESULT}")
    parser.add_argument("--reuse-actors", action="store_true")
    parser.add_argument("--batched", action="store_true", help="each result is one write to MLflow")
    parser.add_argument("--asha", action="store_true")
    options = parser.parse_args(arguments)
    options.folder = options.folder.resolve()
    workload = Workload(
        problem=options.problem, trials=options.trials, steps=options.steps, batch_size=options.batch_size
    )
    problem = load_problem(workload.problem, {})
    ray.init(num_cpus=PARALLEL, include_dashboard=False)
    try:
        results, started_at = run_search(problem, workload, options)
        ended_at = time.time()  # the callback writes as the results come: all is in MLflow
        document = document_of(results, workload, started_at=started_at, ended_at=ended_at)
    finally:
        ray.shutdown()
    (options.folder / RESULT).write_text(json.dumps(document))


if __name__ == "__main__":
    main()
