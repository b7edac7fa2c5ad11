"""Random draws of N lanes, each from a generator of its own: what a lane draws does not depend on who is beside it.

Shapes: N lanes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class LaneDraws:
    """The generators that the lanes' networks draw from in training, in the lanes' order."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self.generators = list(generators)

    def dropped(self, inputs: Tensor, shares: Sequence[float], lanes: Sequence[int]) -> Tensor:
        """Dropout of (N, ...) inputs: of lane ``lanes[n]`` the share ``shares[n]`` is set to 0, the rest scaled up.

        A lane's mask is drawn as ``nn.Dropout`` draws it on a CPU from the global generator, so that a lane trained
        alone sees the same one. On a GPU that module has a kernel of its own, and its masks are others.
        """
        if not any(shares):
            return inputs
        masks = torch.ones_like(inputs)  # laid out as the inputs are: that is the order in which a mask is drawn
        for mask, share, lane in zip(masks.unbind(), shares, lanes, strict=True):
            if share == 1:
                mask.zero_()
            elif share > 0:
                mask.bernoulli_(1 - share, generator=self.generators[lane]).div_(1 - share)
        return inputs * masks


class VmappedDropout(torch.autograd.Function):
    """The same inside of ``torch.vmap``, where a function sees one lane's inputs and this one the whole of them."""

    @staticmethod
    def forward(inputs: Tensor, draw: Any) -> Tensor:
        raise RuntimeError("dropout of lanes is called over lanes only")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise RuntimeError("dropout of lanes is called over lanes only")

    @staticmethod
    def vmap(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch calls it with forward's arguments
        info: Any, in_dims: Any, inputs: Tensor, draw: Any
    ) -> tuple[Tensor, int | None]:
        lane_dim = in_dims[0]
        if lane_dim is None:  # does not depend on the lane yet
            return draw(inputs.expand(info.batch_size, *inputs.shape)), 0
        return draw(inputs.movedim(lane_dim, 0)), 0
