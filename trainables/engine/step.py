"""One step of a lane: forward, the tasks' gradients, their weights, the network's gradient, Adam.

Shapes: B rows of a batch, T tasks, D parameters of the shared layer.

A batch may be gone through in parts, one after another in this process (``micro_batches``) and side by side in several
(:mod:`trainables.ranks`). A loss is a mean over rows, so with s_p the share of the rows that part p has

    L_i = Σ_p s_p L_i^p,   ∇_W L_i = Σ_p s_p ∇_W L_i^p,   ∇ Σ_i w_i L_i = Σ_p s_p ∇ Σ_i w_i L_i^p,

and the weights follow from the whole batch's losses and gradients, never from a part's: the norm of a mean is not the
mean of the norms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.balancers import WEIGHTS, Balancer, GradientInfo, Needs, State
from trainables.gradients import Differentiator, Targets, trained_parameters
from trainables.protocol import SeparateModels
from trainables.ranks import Ranks
from trainables.task_gradients import TaskGradients, WeighableLosses, WeightedTaskGradients, gramian, norms

Inputs = Sequence[Tensor]


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """What a step has seen of the whole batch, over all ranks, and what it leaves behind."""

    losses_T: Tensor  # before the step
    norms_T: Tensor | None  # n_i = ‖∇_W L_i‖₂; None: nobody asked for them
    state: State  # of the balancer


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Rows of a batch that go through the network together."""

    inputs: Inputs
    targets: Targets
    share: float  # of the rows of the whole batch, over all ranks


class Stepper:
    """A network with its balancer and its optimiser, moved step after step. No step waits for the device, but for the
    balancers that call a solver (``balancers.gramian``).
    """

    def __init__(
        self,
        model: nn.Module,
        differentiator: Differentiator,
        balancer: Balancer,
        optimizer: torch.optim.Optimizer,
        *,
        ranks: Ranks,
        micro_batches: int = 1,
        clip_norm: float = 0.0,
    ) -> None:
        """``micro_batches``: parts in which a batch is gone through; ``clip_norm`` 0: gradients as they are."""
        self.balancer = balancer  # may change between steps
        self._differentiator = differentiator
        self._optimizer = optimizer
        self._ranks = ranks
        self._micro_batches = micro_batches
        self._clip_norm = clip_norm
        self._parameters = trained_parameters(model)
        # Networks that share nothing are clipped one by one, or a large gradient of one would shorten another's step.
        networks = model.models.values() if isinstance(model, SeparateModels) else (model,)
        self._networks = [trained_parameters(network) for network in networks]

    def step(
        self, inputs: Inputs, targets: Targets, state: State, generator: torch.Generator, *, norms_wanted: bool
    ) -> StepOutcome:
        """Move the network once. ``norms_wanted`` asks for the norms even where the balancer does not need them.

        Raises:
            ValueError: the batch has fewer rows than there are ranks.
        """
        for parameter in self._parameters:
            parameter.grad = None
        parts = self._parts(inputs, targets)
        differentiated = norms_wanted or self.balancer.needs > Needs.NOTHING
        is_whole = len(parts) == 1 and self._ranks.size == 1
        backward = self._backward_whole if is_whole else self._backward_in_parts
        outcome = backward(parts, differentiated, state, generator)
        self._move()
        if not self.balancer.uses_after_step:
            return outcome
        after = self.balancer.after_step(self._losses_now(parts), outcome.state)
        return StepOutcome(losses_T=outcome.losses_T, norms_T=outcome.norms_T, state=after)

    def _backward_whole(
        self, parts: Sequence[_Part], differentiated: bool, state: State, generator: torch.Generator
    ) -> StepOutcome:
        """Set every parameter's gradient from the only part."""
        part = parts[0]
        if differentiated and self.balancer.weighs_ahead:
            found = self._differentiator.backward(part.inputs, part.targets, state[WEIGHTS])
            info = self._info(found)
            _, state = self.balancer.weigh(found.losses_T, info, state, generator)
            return StepOutcome(losses_T=found.losses_T, norms_T=info.norms_T, state=state)
        batch, gradients = self._look(part, differentiated)
        info = self._info(gradients)
        weights_T, state = self.balancer.weigh(batch.losses_T, info, state, generator)
        batch.backward(weights_T)
        return StepOutcome(losses_T=batch.losses_T, norms_T=info.norms_T, state=state)

    def _backward_in_parts(
        self, parts: Sequence[_Part], differentiated: bool, state: State, generator: torch.Generator
    ) -> StepOutcome:
        """Set every parameter's gradient from all parts of all ranks.

        Where the weights are known before the step, each part is done with before the next one begins, and only one
        part's graph is in memory. Where they follow from this step's losses or gradients, the graphs of all parts have
        to wait for them (of differentiated ones, what lies above the cut does).
        """
        waiting: list[tuple[float, WeighableLosses]] = []
        losses, rows = [], []
        for part in parts:
            if self.balancer.weighs_ahead:
                losses_T, gradients_TD = self._backward_now(part, part.share * state[WEIGHTS], differentiated)
            else:
                batch, gradients = self._look(part, differentiated)
                losses_T, gradients_TD = batch.losses_T, gradients.gradients_TD if gradients is not None else None
                waiting.append((part.share, batch))
            losses.append(part.share * losses_T)
            if gradients_TD is not None:
                rows.append(part.share * gradients_TD)
        sums = [torch.stack(one).sum(0) for one in (losses, rows) if one]
        self._ranks.sum_in_place(sums)
        info = GradientInfo()
        if rows:
            wants_gramian = self.balancer.needs >= Needs.GRAMIAN
            info = GradientInfo(norms_T=norms(sums[1]), gramian_TT=gramian(sums[1]) if wants_gramian else None)
        weights_T, state = self.balancer.weigh(sums[0], info, state, generator)
        for share, batch in waiting:
            batch.backward(share * weights_T)
        self._ranks.sum_in_place(self._same_on_all_ranks())
        return StepOutcome(losses_T=sums[0], norms_T=info.norms_T, state=state)

    def _same_on_all_ranks(self) -> list[Tensor]:
        """The gradients to be summed. Which rows a rank has may decide whether it uses a parameter; where there are
        others, one that it does not use counts 0, so that all send the same shapes.
        """
        if self._ranks.size > 1:
            for parameter in self._parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _backward_now(self, part: _Part, weights_T: Tensor, differentiated: bool) -> tuple[Tensor, Tensor | None]:
        """The part's losses and, where they are wanted, its gradients at the shared layer."""
        if differentiated:
            found = self._differentiator.backward(part.inputs, part.targets, weights_T)
            return found.losses_T, found.gradients_TD
        batch = self._differentiator.plain_losses(part.inputs, part.targets)
        batch.backward(weights_T)
        return batch.losses_T, None

    def _info(self, gradients: TaskGradients | WeightedTaskGradients | None) -> GradientInfo:
        """As much of the gradients as the balancer wants to know; the norms also for whoever else asked for them."""
        if gradients is None:
            return GradientInfo()
        wants_gramian = self.balancer.needs >= Needs.GRAMIAN
        return GradientInfo(norms_T=gradients.norms_T, gramian_TT=gradients.gramian_TT if wants_gramian else None)

    def _look(self, part: _Part, differentiated: bool) -> tuple[WeighableLosses, TaskGradients | None]:
        if not differentiated:
            return self._differentiator.plain_losses(part.inputs, part.targets), None
        gradients = self._differentiator.task_gradients(part.inputs, part.targets)
        return gradients, gradients

    def _losses_now(self, parts: Sequence[_Part]) -> Tensor:
        """The whole batch's losses by the network as it is after the step."""
        with torch.no_grad():
            looks = [self._look(part, False)[0].losses_T * part.share for part in parts]
        losses_T = torch.stack(looks).sum(0)
        self._ranks.sum_in_place([losses_T])
        return losses_T

    def _move(self) -> None:
        if self._clip_norm > 0:
            for parameters in self._networks:
                nn.utils.clip_grad_norm_(parameters, self._clip_norm)
        self._optimizer.step()

    def _parts(self, inputs: Inputs, targets: Targets) -> list[_Part]:
        """This rank's parts of the batch."""
        num_rows, num_ranks = len(inputs[0]), self._ranks.size
        if num_ranks == self._micro_batches == 1:
            return [_Part(inputs=inputs, targets=targets, share=1.0)]
        if num_rows < num_ranks:
            raise ValueError(f"batch_size: {num_rows} rows cannot be shared by {num_ranks} processes")
        first, last = _bounds(self._ranks.rank, num_ranks, num_rows)
        num_parts = min(self._micro_batches, last - first)
        bounds = [_bounds(index, num_parts, last - first) for index in range(num_parts)]
        return [
            _Part(
                inputs=[tensor[first + start : first + stop] for tensor in inputs],
                targets={name: tensor[first + start : first + stop] for name, tensor in targets.items()},
                share=(stop - start) / num_rows,
            )
            for start, stop in bounds
        ]


def _bounds(index: int, num_parts: int, num_rows: int) -> tuple[int, int]:
    """First row of that part, and the one after its last; sizes differ by one at most."""
    return index * num_rows // num_parts, (index + 1) * num_rows // num_parts
