"""A trained network as an ordinary module, for a model registry."""

from __future__ import annotations

import torch
from torch import nn

from trainables.balancers import create_balancer
from trainables.checkpoint import Checkpoint, CheckpointError
from trainables.protocol import Problem
from trainables.settings import TrainingSettings


def export_model(checkpoint: Checkpoint, problem: Problem) -> nn.Module:
    """The network of a checkpoint, on the CPU, in evaluation mode, its parameters frozen.

    Called with the problem's inputs, it returns a dict of outputs by task name; a ``single_task`` checkpoint gives one
    module that holds one network a task. torch's global generator is left as it was.

    Raises:
        CheckpointError: the checkpoint is not of this problem's network.
    """
    settings = TrainingSettings.from_params(checkpoint.params)
    balancer = create_balancer(checkpoint.balancer, settings, problem.tasks)
    with torch.random.fork_rng():
        model = balancer.build_model(problem).to(device="cpu", dtype=settings.torch_dtype)
    try:
        model.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not fit the problem's network: {error}") from error
    return model.eval().requires_grad_(False)
