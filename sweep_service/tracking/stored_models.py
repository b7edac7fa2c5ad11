"""The models that sweeps have stored in MLflow, found again by what people call them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.uri import append_to_uri_path

from sweep_service.domain.errors import ModelNotFoundError
from sweep_service.domain.ids import IdPrefix
from sweep_service.tracking.mlflow_connection import MlflowConnection
from sweep_service.tracking.registry import CHAMPION, MODEL_FOLDER

_REFERENCE = re.compile(r"(?P<name>[^/]+?)(/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))?")
_ABSENT = "RESOURCE_DOES_NOT_EXIST"
_ABSENCES = frozenset({_ABSENT, "INVALID_PARAMETER_VALUE"})  # the second of an alias


@dataclass(frozen=True, kw_only=True)
class StoredModel:
    """A model's files in an artifact store."""

    name: str  # for people
    artifacts: str  # URI of the folder


class StoredModels:
    """Reads an MLflow; changes nothing in it.

    Every method raises ModelNotFoundError, TrackingUnavailableError (MLflow does not answer) or TrackingRefusedError.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._connection = MlflowConnection(tracking_uri)

    def find(self, called: str) -> StoredModel:
        """The model that is meant: ``name`` (its champion), ``name@alias``, ``name/version``, or a sweep's id or the
        beginning of one.
        """
        database = Path(self._tracking_uri.removeprefix("sqlite:///"))
        if self._tracking_uri.startswith("sqlite:///") and not database.exists():
            raise ModelNotFoundError(f"There is no MLflow database {database}: no stack has run there.")
        with self._connection.calls():
            if called.lower().startswith(f"{IdPrefix.SWEEP}_"):
                return self._of_sweep(f"{IdPrefix.SWEEP}_{called[len(IdPrefix.SWEEP) + 1 :].upper()}")
            return self._registered(called)

    def fetch(self, model: StoredModel, files: Sequence[str], folder: Path) -> None:
        """Copy those of the files that the model has into the folder."""
        with self._connection.calls():
            store = get_artifact_repository(model.artifacts, self._tracking_uri, self._tracking_uri)
            there = {entry.path for entry in store.list_artifacts()}
            if not there:
                raise ModelNotFoundError(f"The files of {model.name} are not at {model.artifacts} any more.")
            for name in there.intersection(files):
                store.download_artifacts(name, str(folder))

    def _registered(self, called: str) -> StoredModel:
        form = _REFERENCE.fullmatch(called)
        if form is None:
            raise ModelNotFoundError(f"{called!r} is no model: give NAME, NAME@ALIAS, NAME/VERSION or a sweep's id.")
        client, name, version, alias = self._connection.client, form["name"], form["version"], form["alias"] or CHAMPION
        try:
            if version:
                found = client.get_model_version(name, version)
            else:
                found = client.get_model_version_by_alias(name, alias)
            uri = client.get_model_version_download_uri(name, str(found.version))
        except MlflowException as error:
            if error.error_code not in _ABSENCES:
                raise
            wanted = f"version {version}" if version else f"alias {alias!r}"
            raise ModelNotFoundError(self._what_there_is(name, wanted)) from error
        return StoredModel(name=f"{name}, version {found.version}", artifacts=uri)

    def _what_there_is(self, name: str, wanted: str) -> str:
        client = self._connection.client
        try:
            model = client.get_registered_model(name)
        except MlflowException as error:
            if error.error_code != _ABSENT:
                raise
            names = sorted(each.name for each in client.search_registered_models(max_results=20))
            return f"There is no registered model {name!r}; there are: {', '.join(names) or 'none'}."
        versions = sorted(int(each.version) for each in client.search_model_versions(f"name='{model.name}'"))
        aliases = [f"{alias} (version {version})" for alias, version in sorted(model.aliases.items())]
        return (
            f"The registered model {name!r} has no {wanted}; it has the versions "
            f"{', '.join(map(str, versions)) or 'none'} and the aliases {', '.join(aliases) or 'none'}."
        )

    def _of_sweep(self, beginning: str) -> StoredModel:
        runs = {run.data.tags["sweep_id"]: run for run in self._runs_of_sweeps(beginning)}
        if len(runs) != 1:
            fact = f"is the beginning of {len(runs)} sweeps' ids; give more of it" if runs else "is no sweep's id here"
            raise ModelNotFoundError(f"{beginning!r} {fact}.")
        ((sweep_id, run),) = runs.items()
        if "model_trial_id" not in run.data.tags:
            raise ModelNotFoundError(f"{sweep_id} has stored no model: it has not ended, or has no best trial.")
        uri = append_to_uri_path(run.info.artifact_uri, MODEL_FOLDER)
        return StoredModel(name=f"the model of {sweep_id}", artifacts=uri)

    def _runs_of_sweeps(self, beginning: str) -> Iterator[Run]:
        client = self._connection.client
        experiments: list[str] = []
        token: str | None = None
        while True:
            page = client.search_experiments(view_type=ViewType.ACTIVE_ONLY, max_results=1000, page_token=token)
            experiments += [experiment.experiment_id for experiment in page]
            token = page.token
            if not token:
                break
        if experiments:
            condition = f"tags.kind = 'sweep' AND tags.sweep_id LIKE '{beginning}%'"
            yield from client.search_runs(experiments, condition, max_results=100)
