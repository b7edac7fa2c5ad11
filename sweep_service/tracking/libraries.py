"""What the tracker needs when a sweep ends and takes seconds to load. To be imported while nobody waits."""

from __future__ import annotations

import contextlib

import matplotlib.figure
import mlflow.pytorch
import plotly.graph_objects
import torch
from mlflow.utils import requirements_utils

# What installed packages are called when they are imported: found out once a process, for a second or more. Not there
# in another version of MLflow, it is found out when a model is stored.
with contextlib.suppress(AttributeError):
    requirements_utils._init_packages_to_modules_map()

__all__ = ["matplotlib", "mlflow", "plotly", "torch"]
