"""One lane in training: built, moved from report to report, kept in checkpoints.

Shapes: T tasks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from trainables.balancers import INITIAL_LOSSES, WEIGHTS, create_balancer
from trainables.balancers.gradnorm import relative_rates
from trainables.batches import Batches, BatchPosition
from trainables.checkpoint import Checkpoint, CheckpointError, plain
from trainables.engine.step import Stepper
from trainables.engine.watch import FiniteWatch, NonFiniteError
from trainables.evaluation import constant_losses, evaluate, to_floats
from trainables.gradients import differentiator, trained_parameters
from trainables.protocol import Lane, LaneEnding, LaneReport, Problem
from trainables.ranks import ONE_PROCESS, Ranks
from trainables.seeding import RngState, capture_rng, new_generator, restore_rng, seed_globally
from trainables.settings import TrainingSettings

logger = logging.getLogger(__name__)

DATA_STREAM, BALANCER_STREAM = 0, 1  # a lane's own generators


class LaneTraining:
    """The state of one lane, and the steps on it.

    ``advance`` trains to the next report and returns it. Between two reports nothing waits for the device.
    """

    def __init__(self, problem: Problem, lane: Lane, device: torch.device, ranks: Ranks = ONE_PROCESS) -> None:
        """Seed this process for the lane and build it, or take it from its checkpoint.

        Raises:
            CheckpointError: ``lane.resume_from`` is of another balancer, other tasks or another network.
        """
        self._lane = lane
        self._settings = settings = TrainingSettings.from_params(lane.params)
        seed_globally(settings.seed)
        self._problem = problem = problem.to(device=device, dtype=settings.torch_dtype)
        self._tasks = list(problem.tasks)
        self._names = [task.name for task in self._tasks]
        self._balancer = create_balancer(lane.balancer, settings, self._tasks)
        self._model = self._balancer.build_model(problem).to(device=device, dtype=settings.torch_dtype)
        self._model.train()
        parameters = trained_parameters(self._model)
        # AdamW without decay is Adam. Fused: one call for all parameters, on the CPU too.
        self._optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay, fused=True)
        self._stepper = Stepper(
            self._model,
            differentiator(self._model, self._tasks, autocast=settings.autocast_dtype),
            self._balancer,
            self._optimizer,
            ranks=ranks,
            micro_batches=settings.micro_batches,
            clip_norm=settings.clip_norm,
        )
        num_tasks = len(self._tasks)
        self._state = self._balancer.initial_state(num_tasks=num_tasks, device=device, dtype=settings.torch_dtype)
        self._generator = new_generator(settings.seed, BALANCER_STREAM)
        self._first_losses_T = torch.zeros(num_tasks, device=device, dtype=settings.torch_dtype)
        self._loss_sums_T = torch.zeros(num_tasks, device=device, dtype=torch.float64)
        self._steps_summed = 0
        self._watch = FiniteWatch(num_tasks, device)
        self._constant_losses_T = constant_losses(problem, problem.validation)
        self.step = 0
        position = self._restore(lane.resume_from) if lane.resume_from is not None else None
        if self.step >= self._balancer.settling_steps:
            self._settle()
        data_generator = new_generator(settings.seed, DATA_STREAM)
        self._batches = Batches(
            problem.train, batch_size=settings.batch_size, generator=data_generator, position=position
        )
        size = sum(parameter.numel() for parameter in parameters)
        resumed = " (resumed)" if lane.resume_from is not None else ""
        steps = f"step {self.step} to {settings.steps}{resumed}"
        logger.info("%s on %s, %d parameters, %s", lane.balancer, device, size, steps)

    def advance(self) -> LaneReport:
        """Train to the next report.

        Raises:
            NonFiniteError: a loss, gradient norm or metric is not finite.
            LossRatioError: a task's initial loss is not positive, or its loss fell below zero, and the balancer needs
                L(t)/L(0).
        """
        settings = self._settings
        target = settings.next_report(self.step)
        metrics: dict[str, float] = {}
        notices: Sequence[str] = ()
        while self.step < target:
            is_last = self.step + 1 == target
            losses_T, norms_T = self.train_on(*self._batches.take(), norms_wanted=is_last)
            if is_last:
                metrics, notices = self._look_back(losses_T, norms_T)
        metrics |= evaluate(self._model, self._tasks, self._problem.validation, self._constant_losses_T, "val")
        is_end = self.step >= settings.steps
        if is_end and self._lane.evaluate_test:
            unit_T = constant_losses(self._problem, self._problem.test)
            metrics |= evaluate(self._model, self._tasks, self._problem.test, unit_T, "test")
        self._refuse_non_finite(metrics)
        return LaneReport(
            lane=self._lane.key,
            step=self.step,
            metrics=metrics,
            notices=notices,
            checkpoint=self._checkpoint() if settings.is_checkpoint_due(self.step) else None,
            ending=LaneEnding.COMPLETED if is_end else None,
        )

    @property
    def model(self) -> nn.Module:
        """The network as it is now."""
        return self._model

    @property
    def weights_T(self) -> Tensor:
        """The weights that the next step will use, as far as they are known before it."""
        return self._state[WEIGHTS]

    def train_on(
        self, inputs: Sequence[Tensor], targets: Mapping[str, Tensor], *, norms_wanted: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Take one step on a batch, without waiting for the device: the losses before it, and the norms n_i where they
        are ``norms_wanted`` or the balancer needs them.
        """
        done = self._stepper.step(inputs, targets, self._state, self._generator, norms_wanted=norms_wanted)
        self._state = done.state
        self.step += 1
        if self.step == self._balancer.settling_steps:
            self._settle()
        self._loss_sums_T += done.losses_T
        self._steps_summed += 1
        self._watch.see(self.step, done.losses_T, done.norms_T)
        if self.step == 1:
            self._first_losses_T = done.losses_T
        return done.losses_T, done.norms_T

    def _settle(self) -> None:
        self._balancer = self._stepper.balancer = self._balancer.settled()

    def _look_back(self, losses_T: Tensor, norms_T: Tensor | None) -> tuple[dict[str, float], Sequence[str]]:
        """What training itself has to say at a report, metrics and notices; starts the next mean."""
        self._balancer.check(self._state, self._names)
        self._watch.check(self._names)
        means_T = self._loss_sums_T / self._steps_summed
        before, self._state = self._state, self._balancer.at_report(means_T, self._state)
        notices = self._balancer.notices(before, self._state, self._names)
        for notice in notices:
            logger.warning("step %d: %s", self.step, notice)
        initial_T = self._state.get(INITIAL_LOSSES, self._first_losses_T)
        rows: dict[str, Tensor | None] = {
            "train/loss": means_T,
            "weight": self.weights_T,
            "grad_norm": norms_T,
            "relative_rate": relative_rates(losses_T, initial_T),
            **self._balancer.metrics(self._state),
        }
        self._loss_sums_T = torch.zeros_like(self._loss_sums_T)
        self._steps_summed = 0
        values = to_floats(
            {
                f"{key}/{name}": value
                for key, values_T in rows.items()
                if values_T is not None
                for name, value in zip(self._names, values_T.unbind(), strict=True)
            }
        )
        # A loss that starts at 0 has no rate; no fault of a lane whose balancer does not use the rates.
        told = {k: v for k, v in values.items() if math.isfinite(v) or not k.startswith("relative_rate/")}
        return told, notices

    def _refuse_non_finite(self, metrics: Mapping[str, float]) -> None:
        for key, value in metrics.items():
            if not math.isfinite(value):
                raise NonFiniteError(f"{key} is {value:g} at step {self.step}")

    def _checkpoint(self) -> Checkpoint:
        # Taken after the evaluation: a model that draws random numbers in it must find the same ones after a resume.
        rng = capture_rng()
        position = self._batches.position
        content = {
            "params": self._lane.params,
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "balancer_state": self._state,
            "progress": {"first_losses_T": self._first_losses_T},
            "rng": {
                "torch_cpu": rng.cpu,
                "torch_cuda": rng.cuda,
                "python": rng.python,
                "numpy": rng.numpy,
                "data_epoch": position.epoch_rng,
                "data_batches_taken": position.batches_taken,
                "balancer": self._generator.get_state(),
            },
        }
        return Checkpoint(step=self.step, balancer=self._lane.balancer, task_names=list(self._names), **plain(content))

    def _restore(self, checkpoint: Checkpoint) -> BatchPosition:
        if checkpoint.balancer != self._lane.balancer or list(checkpoint.task_names) != self._names:
            raise CheckpointError(
                f"the checkpoint is of balancer {checkpoint.balancer!r} and tasks {list(checkpoint.task_names)}, "
                f"the lane of {self._lane.balancer!r} and {self._names}"
            )
        device = self._first_losses_T.device
        try:
            self._model.load_state_dict(checkpoint.model)
            # A copy: the optimiser takes these very tensors over and steps on them.
            self._optimizer.load_state_dict(plain(checkpoint.optimizer))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint does not fit the lane's network: {error}") from error
        for group in self._optimizer.param_groups:  # what the lane asks for now is what counts
            group["lr"], group["weight_decay"] = self._settings.lr, self._settings.weight_decay
        self._state = {name: tensor.to(device, copy=True) for name, tensor in checkpoint.balancer_state.items()}
        self._first_losses_T = checkpoint.progress["first_losses_T"].to(device, copy=True)
        self.step = checkpoint.step
        rng = checkpoint.rng
        restore_rng(RngState(cpu=rng["torch_cpu"], cuda=rng["torch_cuda"], python=rng["python"], numpy=rng["numpy"]))
        self._generator.set_state(rng["balancer"])
        return BatchPosition(epoch_rng=rng["data_epoch"], batches_taken=rng["data_batches_taken"])
