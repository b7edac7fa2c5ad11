"""One network a task: what each task reaches when it shares nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from trainables.balancers.equal import Equal
from trainables.protocol import Blueprint, MultiTaskModel, SeparateModels
from trainables.seeding import capture_rng, restore_rng


@dataclass(frozen=True, kw_only=True)
class SingleTask(Equal):
    """T networks with one head each, trained side by side on the plain sum of their losses.

    Their parameters are disjoint and Adam treats each parameter alone, so the one optimiser over all of them *is*
    training each network by itself, on the same batches.
    """

    name = "single_task"
    is_stackable = True

    def build_model(self, problem: Blueprint) -> SeparateModels:
        """Every network starts from the same draw: as the shared network of that seed does."""
        start = capture_rng()
        models = {}
        for task in problem.tasks:
            restore_rng(start)
            models[task.name] = _only_head(problem.build_model(), task.name)
        return SeparateModels(models)


def _only_head(model: MultiTaskModel, task_name: str) -> MultiTaskModel:
    model.heads = nn.ModuleDict({task_name: model.heads[task_name]})
    return model
