"""One lane in training: built, moved from report to report, kept in checkpoints.

Shapes: T tasks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from trainables.balancers import INITIAL_LOSSES, WEIGHTS, State, create_balancer
from trainables.balancers.gradnorm import relative_rates
from trainables.batches import Batches, BatchPosition
from trainables.checkpoint import Checkpoint, CheckpointError, plain
from trainables.engine.step import Stepper
from trainables.engine.watch import FiniteWatch, NonFiniteError
from trainables.evaluation import constant_losses, evaluate, to_floats
from trainables.gradients import differentiator, trained_parameters
from trainables.protocol import BuiltBy, Lane, LaneEnding, LaneReport, MultiTaskModel, Problem, SeparateModels
from trainables.ranks import ONE_PROCESS, Ranks
from trainables.seeding import RngState, capture_rng, new_generator, restore_rng, saved_for, seed_globally
from trainables.settings import TrainingSettings

DATA_STREAM, BALANCER_STREAM = 0, 1  # a lane's own generators


class LaneTraining:
    """The state of one lane, and the steps on it.

    ``advance`` trains to the next report and returns it. Between two reports nothing waits for the device.
    """

    def __init__(
        self,
        problem: Problem,
        lane: Lane,
        device: torch.device,
        ranks: Ranks = ONE_PROCESS,
        *,
        built_by: BuiltBy | None = None,
    ) -> None:
        """Seed this process for the lane and build it, or take it from its checkpoint.

        ``problem``: data and tasks, and the network too where no ``built_by`` names another problem for that.

        Raises:
            CheckpointError: ``lane.resume_from`` is of another balancer, other tasks or another network.
            Exception: what ``built_by`` and the problem's own code raise.
        """
        self.lane = lane
        self.settings = settings = TrainingSettings.from_params(lane.params)
        # Before the seed: a factory that draws must not move the draws of the weights. And not kept: it may hold data.
        blueprint = None if built_by is None else built_by(lane)
        seed_globally(settings.seed)
        self._problem = problem = problem.to(device=device, dtype=settings.torch_dtype)
        self._tasks = list(problem.tasks)
        self._names = [task.name for task in self._tasks]
        self.balancer = create_balancer(lane.balancer, settings, self._tasks)
        model = self.balancer.build_model(problem if blueprint is None else blueprint)
        self._model = model.to(device=device, dtype=settings.torch_dtype)
        self._model.train()
        parameters = trained_parameters(self._model)
        # AdamW without decay is Adam. Fused: one call for all parameters, on the CPU too.
        self.optimizer = torch.optim.AdamW(
            parameters,
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        num_tasks = len(self._tasks)
        self.state = self.balancer.initial_state(num_tasks=num_tasks, device=device, dtype=settings.torch_dtype)
        self.generator = new_generator(settings.seed, BALANCER_STREAM)
        self._first_losses_T = torch.zeros(num_tasks, device=device, dtype=settings.torch_dtype)
        self._loss_sums_T = torch.zeros(num_tasks, device=device, dtype=torch.float64)
        self._steps_summed = 0
        self._watch = FiniteWatch([num_tasks], device)
        self.constant_losses_T = constant_losses(problem, problem.validation)  # the scale of each task's losses
        self._device, self._ranks = device, ranks
        self._rng: RngState | None = None
        self._draws: torch.Generator | None = None
        self._is_settled = False
        self.step = 0
        position = self._restore(lane.resume_from) if lane.resume_from is not None else None
        self._settle()
        self._next_report = settings.next_report(self.step)
        data_generator = new_generator(settings.seed, DATA_STREAM)
        self.batches = Batches(
            problem.train, batch_size=settings.batch_size, generator=data_generator, position=position
        )

    def advance(self) -> LaneReport:
        """Train to the next report.

        Raises:
            NonFiniteError: a loss, gradient norm or metric is not finite.
            LossRatioError: a task's initial loss is not positive, or its loss fell below zero, and the balancer needs
                L(t)/L(0).
        """
        losses_T = norms_T = None
        while self.steps_to_report:
            losses_T, norms_T = self.train_on(*self.batches.take(), norms_wanted=self.steps_to_report == 1)
        return self.report(losses_T, norms_T)

    @property
    def steps_to_report(self) -> int:
        """Steps until the next report; 0: it is due, as it is where the lane has gone further than it is asked to."""
        return max(0, self._next_report - self.step)

    @property
    def steps_to_settle(self) -> int:
        """Steps until the balancer changes (:meth:`Balancer.settled`); 0: it will not any more."""
        return 0 if self._is_settled else self.balancer.settling_steps - self.step

    def report(self, losses_T: Tensor | None, norms_T: Tensor | None) -> LaneReport:
        """What the lane has to say at this step, with the losses and the norms of the last one; None where there was
        none since its checkpoint. Starts the next mean.

        Raises:
            NonFiniteError, LossRatioError: as for :meth:`advance`.
        """
        settings = self.settings
        metrics: dict[str, float] = {}
        notices: Sequence[str] = ()
        if losses_T is not None:
            metrics, notices = self._look_back(losses_T, norms_T)
        self._next_report = settings.next_report(self.step)
        is_end = self.step >= settings.steps
        with self._own_draws():
            metrics |= evaluate(self._model, self._tasks, self._problem.validation, self.constant_losses_T, "val")
            if is_end and self.lane.evaluate_test:
                unit_T = constant_losses(self._problem, self._problem.test)
                metrics |= evaluate(self._model, self._tasks, self._problem.test, unit_T, "test")
        self._refuse_non_finite(metrics)
        return LaneReport(
            lane=self.lane.key,
            step=self.step,
            metrics=metrics,
            notices=notices,
            checkpoint=self._checkpoint() if settings.is_checkpoint_due(self.step) else None,
            ending=LaneEnding.COMPLETED if is_end else None,
        )

    def last_word(self, said: LaneReport) -> LaneReport:
        """What the lane has to say when it is asked to stop at the report that it has just ``said``."""
        return LaneReport(
            lane=self.lane.key,
            step=self.step,
            metrics={},
            leave_checkpoint=self._checkpoint if said.checkpoint is None else None,
            ending=LaneEnding.STOPPED,
        )

    def __str__(self) -> str:
        """What is trained, for a log."""
        size = sum(parameter.numel() for parameter in trained_parameters(self._model))
        resumed = " (resumed)" if self.lane.resume_from is not None else ""
        steps = f"step {self.step} to {self.settings.steps}{resumed}"
        return f"{self.lane.balancer} on {self._device}, {size} parameters, {steps}"

    @property
    def model(self) -> MultiTaskModel | SeparateModels:
        """The network as it is now."""
        return self._model

    @property
    def weights_T(self) -> Tensor:
        """The weights that the next step will use, as far as they are known before it."""
        return self.state[WEIGHTS]

    def train_on(
        self, inputs: Sequence[Tensor], targets: Mapping[str, Tensor], *, norms_wanted: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Take one step on a batch, without waiting for the device: the losses before it, and the norms n_i where they
        are ``norms_wanted`` or the balancer needs them.
        """
        done = self._stepper.step(inputs, targets, self.state, self.generator, norms_wanted=norms_wanted)
        self.state = done.state
        self._loss_sums_T += done.losses_T
        self._watch.see(self.step + 1, done.losses_T, done.norms_T)
        self._count_steps(1, done.losses_T)
        return done.losses_T, done.norms_T

    def take_steps(
        self, num_steps: int, state: State, first_losses_T: Tensor, loss_sums_T: Tensor, first_bad_2T: Tensor
    ) -> None:
        """Note steps that were taken for this lane, on its parameters, among others': the balancer's state after them,
        the losses of the first, the sums of all, and what a watch has seen that counted them from 1.
        """
        self.state = state
        self._loss_sums_T += loss_sums_T
        self._watch.take(first_bad_2T, steps_before=self.step)
        self._count_steps(num_steps, first_losses_T)

    def draw_apart(self) -> None:
        """From here on the network draws from a generator of its own, which goes on where torch's global one is now: so
        lanes that are trained together draw what each would alone. To be called as soon as the lane is built.
        """
        self._draws = torch.Generator(self._device)
        self._draw_on_from(capture_rng())

    @property
    def draws(self) -> torch.Generator:
        """What the network draws from in training, once it draws apart."""
        assert self._draws is not None
        return self._draws

    @functools.cached_property
    def _stepper(self) -> Stepper:
        settings = self.settings
        return Stepper(
            self._model,
            differentiator(self._model, self._tasks, autocast=settings.autocast_dtype),
            self.balancer,
            self.optimizer,
            ranks=self._ranks,
            micro_batches=settings.micro_batches,
            clip_norm=settings.clip_norm,
        )

    def _count_steps(self, num_steps: int, first_losses_T: Tensor) -> None:
        if self.step == 0:
            self._first_losses_T = first_losses_T
        self.step += num_steps
        self._steps_summed += num_steps
        self._settle()

    def _settle(self) -> None:
        if self._is_settled or self.step < self.balancer.settling_steps:
            return
        self._is_settled = True
        self.balancer = self.balancer.settled()
        if "_stepper" in vars(self):
            self._stepper.balancer = self.balancer

    def _look_back(self, losses_T: Tensor, norms_T: Tensor | None) -> tuple[dict[str, float], Sequence[str]]:
        """What training itself has to say at a report, metrics and notices; starts the next mean."""
        self.balancer.check(self.state, self._names)
        self._watch.check(self._names)
        means_T = self._loss_sums_T / self._steps_summed
        before, self.state = self.state, self.balancer.at_report(means_T, self.state)
        notices = self.balancer.notices(before, self.state, self._names)
        initial_T = self.state.get(INITIAL_LOSSES, self._first_losses_T)
        rows: dict[str, Tensor | None] = {
            "train/loss": means_T,
            "weight": self.weights_T,
            "grad_norm": norms_T,
            "relative_rate": relative_rates(losses_T, initial_T),
            **self.balancer.metrics(self.state),
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
        rng = capture_rng() if self._rng is None else self._own_rng(self._rng)
        position = self.batches.position
        content = {
            "params": self.lane.params,
            "model": self._model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "balancer_state": self.state,
            "progress": {"first_losses_T": self._first_losses_T},
            "rng": {
                "torch_cpu": rng.cpu,
                "torch_cuda": [] if self._device.type == "cpu" else [rng.of_device(self._device)],
                "python": rng.python,
                "numpy": rng.numpy,
                "data_epoch": position.epoch_rng,
                "data_batches_taken": position.batches_taken,
                "balancer": self.generator.get_state(),
            },
        }
        content |= {"balancer": self.lane.balancer, "task_names": self._names}
        return Checkpoint(step=self.step, **plain(content))

    @contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Within, the global generators are what they would be if this lane were alone: so draws what is evaluated."""
        if self._rng is None:
            yield
            return
        before = capture_rng()
        restore_rng(self._own_rng(self._rng))
        try:
            yield
            self._draw_on_from(capture_rng())
        finally:
            restore_rng(before)

    def _draw_on_from(self, rng: RngState) -> None:
        self._rng = rng
        self.draws.set_state(rng.of_device(self._device))

    def _own_rng(self, rng: RngState) -> RngState:
        """What the global generators would be if this lane had been alone."""
        return rng.with_device(self._device, self.draws.get_state())

    def _restore(self, checkpoint: Checkpoint) -> BatchPosition:
        if checkpoint.balancer != self.lane.balancer or list(checkpoint.task_names) != self._names:
            raise CheckpointError(
                f"the checkpoint is of balancer {checkpoint.balancer!r} and tasks {list(checkpoint.task_names)}, "
                f"the lane of {self.lane.balancer!r} and {self._names}"
            )
        device = self._first_losses_T.device
        try:
            self._model.load_state_dict(checkpoint.model)
            # A copy: the optimiser takes these very tensors over and steps on them.
            self.optimizer.load_state_dict(plain(checkpoint.optimizer))
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(f"the checkpoint does not fit the lane's network: {error}") from error
        for group in self.optimizer.param_groups:  # what the lane asks for now is what counts
            group["lr"], group["weight_decay"] = self.settings.lr, self.settings.weight_decay
            group["betas"] = self.settings.beta1, self.settings.beta2
        self.state = {name: tensor.to(device, copy=True) for name, tensor in checkpoint.balancer_state.items()}
        self._first_losses_T = checkpoint.progress["first_losses_T"].to(device, copy=True)
        self.step = checkpoint.step
        rng = checkpoint.rng
        others = capture_rng().cuda  # of GPUs that the lane is not on
        state = RngState(cpu=rng["torch_cpu"], cuda=others, python=rng["python"], numpy=rng["numpy"])
        own = saved_for(rng["torch_cuda"], device)
        restore_rng(state if own is None else state.with_device(device, own))
        self.generator.set_state(rng["balancer"])
        return BatchPosition(epoch_rng=rng["data_epoch"], batches_taken=rng["data_batches_taken"])
