"""A trained network as an ordinary module, for a model registry."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainables.balancers import create_balancer
from trainables.catalog import ParameterValue
from trainables.checkpoint import Checkpoint, CheckpointError
from trainables.protocol import Blueprint
from trainables.settings import TrainingSettings


def export_model(checkpoint: Checkpoint, problem: Blueprint) -> nn.Module:
    """The network of a checkpoint, on the CPU, in evaluation mode, its parameters frozen.

    Called with the problem's inputs, it returns a dict of outputs by task name; a ``single_task`` checkpoint gives one
    module that holds one network a task. torch's global generator is left as it was.

    Raises:
        CheckpointError: the checkpoint is not of this problem's network.
    """
    try:
        return trained_model(problem, balancer=checkpoint.balancer, params=checkpoint.params, state=checkpoint.model)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not fit the problem's network: {error}") from error


def trained_model(
    blueprint: Blueprint, *, balancer: str, params: Mapping[str, ParameterValue], state: Mapping[str, Tensor]
) -> nn.Module:
    """The network that a lane with those parameters has trained to that state, as :func:`export_model` gives it.

    Raises:
        ValueError: there is no balancer of that name.
        RuntimeError: the state is not of this network.
    """
    settings = TrainingSettings.from_params(params)
    with torch.random.fork_rng():
        model = create_balancer(balancer, settings, blueprint.tasks).build_model(blueprint)
    model = model.to(device="cpu", dtype=settings.torch_dtype)
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)
