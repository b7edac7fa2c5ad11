"""N lanes that take their steps together: one model, one optimiser, one call of each balancer.

Shapes: N lanes, B rows of a batch, T tasks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.balancers import Needs
from trainables.balancers.lanes import BalancerLanes
from trainables.batches import moved_without_waiting, rows_of
from trainables.engine.lane import LaneTraining
from trainables.engine.watch import FiniteWatch
from trainables.protocol import Problem, SeparateModels
from trainables.stacked.draws import LaneDraws
from trainables.stacked.forward import Stack
from trainables.stacked.network import StackedNetwork, stacked_network
from trainables.stacked.parameters import StackedAdamW, StackedParameters, clip

StackedBatch = tuple[list[Tensor], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class LastStep:
    """What the last of several steps has seen of a lane."""

    losses_T: Tensor
    norms_T: Tensor


class LaneStack:
    """Lanes of one structure. As long as it is used, their parameters and optimisers are views into it."""

    def __init__(
        self,
        problem: Problem,
        lanes: Sequence[LaneTraining],
        *,
        unused: Collection[str] = (),
    ) -> None:
        """``problem``: on the lanes' device and in their type. ``unused``: names of parameters that no task reaches.

        Raises:
            NotStackableError: the lanes' networks cannot be trained as one.
        """
        self.lanes = list(lanes)
        self._split = problem.train
        models: list[nn.Module] = [lane.model for lane in lanes]
        self.parameters = StackedParameters(models, unused=unused)
        self._optimizer = StackedAdamW(self.parameters, [lane.optimizer for lane in lanes])
        draws = LaneDraws([lane.draws for lane in lanes])
        stack = Stack(models, self.parameters, draws)
        self.network = stacked_network(stack, self.parameters, models[0], problem.tasks)
        self._balancers = self._weighing_together()
        # Those whose balancer looks at the losses after a step have a network of theirs alone: the others must not
        # draw from their generators for it.
        self._looking_back: StackedNetwork | None = None
        self._rows_looking_back = list(self._balancers.after_step_lanes)
        if self._rows_looking_back:
            some = Stack(models, self.parameters, draws, lanes=self._rows_looking_back)
            self._looking_back = stacked_network(some, self.parameters, models[0], problem.tasks)
        self._clip_norms_N1 = self._clip_norms()
        self._columns = self._columns_of_networks(models[0])
        self.steps_under_way = 0  # that `advance` has taken; 0 where it has come to its end

    def advance(self, num_steps: int) -> Sequence[LastStep]:
        """Take so many steps, at least one, with each lane. No step waits for the device, but for the balancers that
        call a solver.
        """
        device = self.parameters.values_NP.device
        self._balancers = self._weighing_together()  # a report may have changed a state, and a lane may have settled
        num_lanes, num_tasks = self._balancers.weights_NT.shape
        sums_NT = torch.zeros(num_lanes, num_tasks, device=device, dtype=torch.float64)
        watch = FiniteWatch([num_lanes, num_tasks], device)
        first_NT = losses_NT = norms_NT = None
        for step in range(1, num_steps + 1):
            losses_NT, norms_NT = self._step(norms_wanted=step == num_steps)
            first_NT = losses_NT if first_NT is None else first_NT
            sums_NT += losses_NT
            watch.see(step, losses_NT, norms_NT)
            self.steps_under_way = step
        assert first_NT is not None
        assert losses_NT is not None
        assert norms_NT is not None
        for index, lane in enumerate(self.lanes):
            lane.take_steps(
                num_steps,
                self._balancers.state_of(index),
                first_NT[index],
                sums_NT[index],
                watch.first_bad_2T[:, index],
            )
        self.steps_under_way = 0
        rows = zip(losses_NT.unbind(), norms_NT.unbind(), strict=True)
        return [LastStep(losses_T=losses_T, norms_T=norms_T) for losses_T, norms_T in rows]

    def batch(self, rows: Sequence[Tensor]) -> StackedBatch:
        """A batch of each lane, by the numbers of its rows: inputs and targets, each (N, B, ...)."""
        num_lanes, num_rows = len(rows), len(rows[0])
        inputs, targets = rows_of(self._split, torch.cat(list(rows)))
        stacked = [tensor.view(num_lanes, num_rows, *tensor.shape[1:]) for tensor in inputs]
        return stacked, {name: t.view(num_lanes, num_rows, *t.shape[1:]) for name, t in targets.items()}

    def _step(self, *, norms_wanted: bool) -> tuple[Tensor, Tensor | None]:
        """One step: the losses before it, and the norms where they are wanted or some balancer needs them."""
        inputs, targets = self.batch([lane.batches.take_rows() for lane in self.lanes])
        if norms_wanted or self._balancers.needs > Needs.NOTHING:
            found = self.network.task_gradients(inputs, targets)
            norms_NT = found.norms_NT
            gramians_NTT = found.gramians_NTT if self._balancers.needs >= Needs.GRAMIAN else None
        else:
            found = self.network.losses(inputs, targets)
            norms_NT = gramians_NTT = None
        weights_NT = self._balancers.weigh(found.losses_NT, norms_NT, gramians_NTT)
        found.put_gradients(weights_NT)
        if self._clip_norms_N1 is not None:
            clip(self.parameters.gradients_NP, self._clip_norms_N1, self._columns)
        self._optimizer.step()
        self._look_back(inputs, targets)
        return found.losses_NT, norms_NT

    def _look_back(self, inputs: Sequence[Tensor], targets: dict[str, Tensor]) -> None:
        """Tell the balancers that ask for them the losses after the step."""
        if self._looking_back is None:
            return
        rows_K = moved_without_waiting(torch.tensor(self._rows_looking_back), inputs[0].device)
        with torch.no_grad():
            own_targets = {name: tensor.index_select(0, rows_K) for name, tensor in targets.items()}
            losses = self._looking_back.losses([tensor.index_select(0, rows_K) for tensor in inputs], own_targets)
        self._balancers.after_step(losses.losses_NT)

    def _weighing_together(self) -> BalancerLanes:
        lanes = self.lanes
        return BalancerLanes(
            [lane.balancer for lane in lanes], [lane.state for lane in lanes], [lane.generator for lane in lanes]
        )

    def _clip_norms(self) -> Tensor | None:
        norms = [lane.settings.clip_norm or torch.inf for lane in self.lanes]
        if all(norm == torch.inf for norm in norms):
            return None
        values_NP = self.parameters.values_NP
        return torch.tensor(norms, device=values_NP.device, dtype=values_NP.dtype).unsqueeze(1)

    def _columns_of_networks(self, model: nn.Module) -> list[slice]:
        networks = model.models.values() if isinstance(model, SeparateModels) else [model]
        return [self.parameters.columns(network) for network in networks]
