"""A trained network as a folder that is stored: MLflow's model, and beside it what builds it again without a pickle."""

from __future__ import annotations

import json
import logging
from importlib.metadata import version
from pathlib import Path

from sweep_service.domain.trial import Sweep, Trial


def save_model_folder(folder: Path, sweep: Sweep, trial: Trial, checkpoint: Path) -> None:
    """Write the trial's network into ``folder``, which must not exist yet.

    ``mlflow.pytorch.load_model`` reads the folder where this package is installed; ``state_dict.pt`` and ``model.json``
    serve everybody else. Raises whatever the problem's code, or the checkpoint's, raises.
    """
    import torch
    from mlflow.pytorch import save_model

    from trainables.catalog import load_problem
    from trainables.checkpoint import Checkpoint
    from trainables.export import export_model

    problem = load_problem(sweep.spec.trainable, trial.params)
    module = export_model(Checkpoint.load(checkpoint), problem)
    own_warnings = logging.getLogger("mlflow.pytorch")
    level = own_warnings.level
    own_warnings.setLevel(logging.ERROR)  # it warns of pickles from strangers; this one is ours
    try:
        # With the requirements given, MLflow does not start a process to find them out.
        requirements = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "numpy")]
        save_model(module, str(folder), serialization_format="pickle", pip_requirements=requirements)
    finally:
        own_warnings.setLevel(level)
    torch.save(module.state_dict(), folder / "state_dict.pt")
    description = {
        "trainable": sweep.spec.trainable,
        "params": dict(trial.params),
        "balancer": trial.balancer,
        "seed": trial.seed,
        "tasks": [task.name for task in problem.tasks],
        "objective": {"metric": sweep.spec.objective.metric, "value": trial.objective},
        "sweep_id": sweep.id,
        "trial_id": trial.id,
    }
    (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
