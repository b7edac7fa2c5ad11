"""A trained network as a folder that is stored: MLflow's model, and beside it what builds it again without a pickle."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweep_service.domain.trial import Sweep, Trial

if TYPE_CHECKING:
    from trainables.checkpoint import Checkpoint
    from trainables.protocol import Problem


def save_model_folder(folder: Path, sweep: Sweep, trial: Trial, checkpoint: Checkpoint) -> None:
    """Write the trial's network into ``folder``, which must not exist yet.

    ``mlflow.pytorch.load_model`` reads the folder where this package is installed; ``state_dict.pt``, ``model.json``
    and, where the problem knows of tables, ``encoding.json`` serve everybody else, and ``sweep predict``. Raises
    whatever the problem's code raises, or a checkpoint that does not fit it.
    """
    import torch
    from mlflow.pytorch import save_model

    from trainables.catalog import load_problem
    from trainables.export import export_model
    from trainables.prediction import MODEL_FILE, STATE_FILE

    problem = load_problem(sweep.spec.trainable, trial.params)
    module = export_model(checkpoint, problem)
    own_warnings = logging.getLogger("mlflow.pytorch")
    level = own_warnings.level
    own_warnings.setLevel(logging.ERROR)  # it warns of pickles from strangers; this one is ours
    try:
        # With the requirements given, MLflow does not start a process to find them out.
        requirements = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "numpy")]
        save_model(module, str(folder), serialization_format="pickle", pip_requirements=requirements)
    finally:
        own_warnings.setLevel(level)
    torch.save(module.state_dict(), folder / STATE_FILE)
    description = {
        "trainable": sweep.spec.trainable,
        "params": dict(trial.params),
        "balancer": trial.balancer,
        "seed": trial.seed,
        "tasks": [task.name for task in problem.tasks],
        "objective": {"metric": sweep.spec.objective.metric, "value": trial.objective},
        "sweep_id": sweep.id,
        "trial_id": trial.id,
        **_save_encoding(folder, problem, trial),
    }
    (folder / MODEL_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def _save_encoding(folder: Path, problem: Problem, trial: Trial) -> Mapping[str, Any]:
    """Write what leads from a raw table to the network and back; returns what model.json says where there is none."""
    from trainables.prediction import ENCODING_FILE, codec_of, encoding_hash

    codec = codec_of(problem)
    if codec is None:
        return {}
    now = encoding_hash(problem)
    if trial.provenance.get("encoding_hash", now) != now:
        # The means and categories of today's file are not those that this network was trained on.
        return {"no_encoding": "the data had changed between its training and the end of its sweep"}
    text = json.dumps(codec.document(), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / ENCODING_FILE).write_text(text + "\n", encoding="utf-8")
    return {}
