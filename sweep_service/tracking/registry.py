"""Models in MLflow's registry: versions that sweeps make, and versions that are asked for by name."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_STATE

CHAMPION = "champion"  # the alias of the version that a sweep made last
MODEL_FOLDER = "model"  # in the artifacts of a sweep's run


def register_version(client: MlflowClient, name: str, *, source: str, run_id: str, tags: Mapping[str, str]) -> str:
    """The version of that name that has those tags, found or made, and now the champion.

    To make one twice would be two versions, so the tags, which come with it at once, have to be of this model alone.
    """
    _ensure_model(client, name)
    conditions = [f"name='{name}'", *(f"tags.{key}='{value}'" for key, value in tags.items())]
    found = client.search_model_versions(" AND ".join(conditions))
    if found:
        version = max(found, key=lambda each: int(each.version))
    else:
        version = client.create_model_version(name, source, run_id=run_id, tags=dict(tags))
    client.set_registered_model_alias(name, CHAMPION, str(version.version))
    return str(version.version)


def _ensure_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if not client.search_registered_models(f"name='{name}'"):  # prompts are kept there too, and not found by this
            raise MlflowException(str(error), INVALID_STATE) from error
