"""The parameters of N networks in one matrix, and the optimiser that moves it.

Shapes: N lanes, P numbers that a network trains (flattened and joined, in the order of its parameters).

Every parameter of every network becomes a view into the network's row. So the networks themselves always hold what has
been trained: they can be evaluated, saved and resumed like any other, and nothing is copied for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.stacked.errors import NotStackableError


class StackedParameters:
    """The trained parameters of N networks of one shape.

    ``leaves`` are what a batched forward pass uses, one (N, *shape) tensor a parameter, views into ``values_NP``. Their
    gradients are put into ``gradients_NP``.
    """

    def __init__(self, networks: Sequence[nn.Module], *, unused: Collection[str] = ()) -> None:
        """Take the networks' parameters over.

        ``unused``: names of those that no task reaches. They keep their values: an optimiser passes over what has no
        gradient.

        Raises:
            NotStackableError: a parameter does more than hold numbers, or is in two networks.
        """
        named = [
            {
                name: parameter
                for name, parameter in network.named_parameters()
                if parameter.requires_grad and name not in unused
            }
            for network in networks
        ]
        for parameters in named:
            _refuse_hooks(parameters)
        _refuse_common(named)
        self.rows = rows = [list(parameters.values()) for parameters in named]
        self._spans = _spans([parameter.numel() for parameter in rows[0]])
        with torch.no_grad():
            self.values_NP = torch.stack([torch.cat([parameter.flatten() for parameter in row]) for row in rows])
        self.gradients_NP = torch.zeros_like(self.values_NP)
        for row, values_P in zip(rows, self.values_NP.unbind(), strict=True):
            for parameter, (start, stop) in zip(row, self._spans, strict=True):
                parameter.data = values_P[start:stop].view_as(parameter)
        self.leaves = [self._view(self.values_NP, index).requires_grad_() for index in range(len(rows[0]))]
        self._gradients = [self._view(self.gradients_NP, index) for index in range(len(rows[0]))]
        self._places = {id(parameter): index for index, parameter in enumerate(rows[0])}

    def place(self, parameter: Tensor) -> int | None:
        """The number of a parameter of the first network among ``leaves``; None if it is not trained."""
        return self._places.get(id(parameter))

    def gradient(self, place: int) -> Tensor:
        """Where that leaf's gradient belongs, (N, *shape)."""
        return self._gradients[place]

    def columns(self, network: nn.Module) -> slice:
        """The columns of the matrix that hold a part of the first network, which has its parameters to itself."""
        places = [place for parameter in network.parameters() if (place := self.place(parameter)) is not None]
        spans = [self._spans[place] for place in sorted(places)]
        if any(one[1] != other[0] for one, other in itertools.pairwise(spans)):
            raise NotStackableError("the networks of two tasks have a parameter in common")
        return slice(spans[0][0], spans[-1][1])

    def rows_of(self, stacked_NP: Tensor, lane: int) -> list[Tensor]:
        """A lane's row of such a matrix, parameter by parameter, as views."""
        row_P = stacked_NP[lane]
        pairs = zip(self._spans, self.rows[lane], strict=True)
        return [row_P[start:stop].view_as(parameter) for (start, stop), parameter in pairs]

    def _view(self, stacked_NP: Tensor, index: int) -> Tensor:
        start, stop = self._spans[index]
        return stacked_NP[:, start:stop].view(-1, *self.rows[0][index].shape)


@dataclass(frozen=True)
class AdamWNumbers:
    """What of AdamW a lane may have for itself."""

    lr: float
    weight_decay: float
    betas: tuple[float, float]
    eps: float

    @classmethod
    def of(cls, optimizer: torch.optim.Optimizer) -> AdamWNumbers:
        """Those of an optimiser of one group."""
        (group,) = optimizer.param_groups
        return cls(lr=group["lr"], weight_decay=group["weight_decay"], betas=tuple(group["betas"]), eps=group["eps"])


class StackedAdamW:
    """The AdamW of every lane, in as few calls as there are different learning rates, decays and betas among them.

    The kernel is the one that each lane's own ``torch.optim.AdamW(fused=True)`` would call, on whole rows instead of
    single parameters: what it does to a number depends on that number's gradient and history alone. The lanes'
    optimisers see their moments, as views, and can be saved at any time.
    """

    def __init__(self, parameters: StackedParameters, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Take the moments of the lanes' optimisers over; zeros of one that has not stepped yet."""
        self._parameters = parameters
        values_NP = parameters.values_NP
        self._means_NP, self._squares_NP = torch.zeros_like(values_NP), torch.zeros_like(values_NP)
        self._steps: list[Tensor] = []
        numbers: dict[AdamWNumbers, list[int]] = {}
        for lane, optimizer in enumerate(optimizers):
            self._steps.append(self._adopt(lane, optimizer))
            numbers.setdefault(AdamWNumbers.of(optimizer), []).append(lane)
        self._groups = [(number, self._rows(lanes)) for number, lanes in numbers.items()]

    def step(self) -> None:
        """Move every lane along its row of the gradients."""
        for numbers, (values, gradients, means, squares, steps) in self._groups:
            torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
            torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
                values,
                gradients,
                means,
                squares,
                [],
                steps,
                lr=numbers.lr,
                beta1=numbers.betas[0],
                beta2=numbers.betas[1],
                weight_decay=numbers.weight_decay,
                eps=numbers.eps,
                amsgrad=False,
                maximize=False,
            )

    def _adopt(self, lane: int, optimizer: torch.optim.Optimizer) -> Tensor:
        """The lane's count of steps; its moments are views into the matrices afterwards."""
        device = self._parameters.values_NP.device
        steps = torch.zeros((), dtype=torch.float32, device=device)
        views = zip(
            self._parameters.rows[lane],
            self._parameters.rows_of(self._means_NP, lane),
            self._parameters.rows_of(self._squares_NP, lane),
            strict=True,
        )
        counts = set()
        for parameter, mean, square in views:
            known = optimizer.state.get(parameter, {})
            if known:
                mean.copy_(known["exp_avg"])
                square.copy_(known["exp_avg_sq"])
            counts.add(float(known["step"]) if known else 0.0)
            optimizer.state[parameter] = {"step": steps, "exp_avg": mean, "exp_avg_sq": square}
        if len(counts) > 1:
            raise NotStackableError("some of its parameters have been trained for more steps than others")
        return steps.fill_(counts.pop())

    def _rows(self, lanes: Sequence[int]) -> tuple[list[Tensor], ...]:
        matrices = (self._parameters.values_NP, self._parameters.gradients_NP, self._means_NP, self._squares_NP)
        return (*[[matrix[lane] for lane in lanes] for matrix in matrices], [self._steps[lane] for lane in lanes])


def clip(gradients_NP: Tensor, most_N1: Tensor, networks: Sequence[slice]) -> None:
    """Shorten each lane's gradient to its longest allowed length, as ``nn.utils.clip_grad_norm_`` does.

    ``most_N1``: infinity for a lane whose gradient stays as it is. ``networks``: the columns of each network of a lane;
    networks that share nothing are clipped one by one.
    """
    for columns in networks:
        part = gradients_NP[:, columns]
        factors_N1 = (most_N1 / (torch.linalg.vector_norm(part, dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)
        part.mul_(torch.where(most_N1.isfinite(), factors_N1, 1.0))


def _refuse_hooks(parameters: Mapping[str, nn.Parameter]) -> None:
    """A batched pass differentiates the leaves: nobody would call what hangs on the parameters."""
    for name, parameter in parameters.items():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            raise NotStackableError(f"a hook is on the gradient of {name}")


def _refuse_common(networks: Sequence[Mapping[str, nn.Parameter]]) -> None:
    """It can be a view into one row only; and what one network learnt, the other would have learnt too."""
    owners: dict[int, int] = {}
    for index, parameters in enumerate(networks):
        for name, parameter in parameters.items():
            if owners.setdefault(id(parameter), index) != index:
                raise NotStackableError(f"the networks of two lanes have the parameter {name} in common")


def _spans(sizes: Sequence[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(itertools.accumulate(sizes, initial=0)))
