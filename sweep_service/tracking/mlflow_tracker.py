"""Results in MLflow: one parent run a sweep, one child run a trial.

Runs are made only after a search by tag has found none, metrics keep the timestamps of their reports, files overwrite
themselves: so every method can be repeated. Only ``MlflowClient`` with explicit run ids: no active run, nothing global.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Experiment, Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.uri import append_to_uri_path
from sqlalchemy.exc import SQLAlchemyError

from sweep_service.checkpoint_port import CheckpointFiles
from sweep_service.domain.errors import CheckpointsUnavailableError, ModelUnusableError
from sweep_service.domain.states import SweepState, TrialState
from sweep_service.domain.trial import Report, Sweep, Trial
from sweep_service.tracking.files import write_results, write_spec
from sweep_service.tracking.mlflow_connection import REFUSALS, MlflowConnection, first_line
from sweep_service.tracking.models import save_model_folder
from sweep_service.tracking.registry import MODEL_FOLDER, register_version
from sweep_service.tracking.summary import describe_sweep
from sweep_service.tracking.tags import as_text, ending_tags, sweep_tags, trial_tags

logger = logging.getLogger(__name__)

_MAX_METRICS = 1000  # of one log_batch
_MAX_PARAMS_OR_TAGS = 100  # of one log_batch
_MAX_PARAM_LENGTH = 6000
_MAX_TAG_LENGTH = 5000  # of the oldest servers in use; newer ones take more

_TRIAL_STATUS: Mapping[TrialState, str] = {
    TrialState.PENDING: "SCHEDULED",
    TrialState.RUNNING: "RUNNING",
    TrialState.RESTING: "RUNNING",
    TrialState.COMPLETED: "FINISHED",
    TrialState.EARLY_STOPPED: "FINISHED",
    TrialState.FAILED: "FAILED",
    TrialState.INFEASIBLE: "FAILED",
    TrialState.CANCELLED: "KILLED",
}
_SWEEP_STATUS: Mapping[SweepState, str] = {
    SweepState.COMPLETED: "FINISHED",
    SweepState.STOPPED: "FINISHED",
    SweepState.FAILED: "FAILED",
    SweepState.CANCELLED: "KILLED",
}

_T = TypeVar("_T")


class MlflowTracker:
    """Implements :class:`sweep_service.tracker_port.Tracker`. Every method may raise TrackingUnavailableError.

    ``files`` are the checkpoints that models are made from. ``artifact_location`` is the artifact root of experiments
    that this tracker makes; None leaves it to the server.
    """

    def __init__(self, tracking_uri: str, *, files: CheckpointFiles, artifact_location: str | None = None) -> None:
        self._files = files
        self._artifact_location = artifact_location
        self._connection = MlflowConnection(tracking_uri)
        self._experiments: dict[str, str] = {}  # parent run's id -> its experiment's id
        self._refused: set[tuple[str, str]] = set()  # (run id, metric key) that MLflow will not take

    def open_sweep(self, sweep: Sweep) -> str:
        with self._server():
            experiment_id = self._experiment_id(sweep.spec.experiment)
            run = self._find(experiment_id, f"tags.sweep_id = '{sweep.id}' AND tags.kind = 'sweep'")
            if run is None:
                run = self._client.create_run(
                    experiment_id,
                    start_time=_millis(sweep.started_at or sweep.created_at),
                    tags=_fitting(sweep_tags(sweep) | {"mlflow.note.content": describe_sweep(sweep)}),
                    run_name=sweep.spec.name,
                )
            ref = run.info.run_id
            self._experiments[ref] = experiment_id
            self._revive(run, ended=sweep.state.is_ended)
            with tempfile.TemporaryDirectory() as folder:
                write_spec(Path(folder), sweep)
                self._client.log_artifacts(ref, folder)
            return ref

    def open_trial(self, sweep: Sweep, sweep_ref: str, trial: Trial) -> str:
        with self._server():
            experiment_id = self._experiment_of(sweep_ref)
            self._restore(self._client.get_experiment(experiment_id))
            run = self._find(experiment_id, f"tags.sweep_id = '{sweep.id}' AND tags.trial_id = '{trial.id}'")
            if run is None:
                run = self._client.create_run(
                    experiment_id,
                    start_time=_millis(trial.started_at or trial.created_at),
                    tags=_fitting(trial_tags(sweep, sweep_ref, trial)),
                    run_name=f"trial-{trial.number:03d} {trial.balancer}",
                )
            self._revive(run, ended=trial.state.is_ended)
            self._log_params(run.info.run_id, {**trial.params, "seed": trial.seed}, known=run.data.params)
            return run.info.run_id

    def log_reports(self, refs: Mapping[str, str], reports: Sequence[Report]) -> None:
        """See the port. A metric that MLflow refuses is left out with a warning: the rest must get through.

        Raises:
            KeyError: ``refs`` lacks the trial of a report.
        """
        by_run: dict[str, list[Metric]] = {}
        for report in reports:
            ref = refs[report.trial_id]
            by_run.setdefault(ref, []).extend(
                Metric(key, value, _millis(report.reported_at), report.step)
                for key, value in report.metrics.items()
                if (ref, key) not in self._refused
            )
        with self._server():
            for ref, metrics in by_run.items():
                self._log_metrics(ref, metrics)

    def close_trial(self, ref: str, trial: Trial) -> None:
        with self._server():
            self._set_tags(ref, ending_tags(trial))
            if trial.traceback:
                self._client.log_text(ref, trial.traceback, "traceback.txt")
            self._terminate(ref, _TRIAL_STATUS[trial.state], trial.ended_at)

    def close_sweep(
        self, ref: str, sweep: Sweep, trials: Sequence[Trial], curves: Mapping[str, Sequence[Report]]
    ) -> None:
        """See the port. What cannot be written by a fault of ours is left out with a warning: the runs must end."""
        with tempfile.TemporaryDirectory() as folder:
            write_results(Path(folder), sweep, trials, curves)
            self._upload(ref, Path(folder))
        with self._server():
            try:
                self._describe(ref, sweep, trials)
            except (MlflowException, SQLAlchemyError, OSError):
                raise
            except Exception:
                logger.exception("The results of %s could not be described.", sweep.id)
            self._close_children(ref, sweep, trials)
            self._terminate(ref, _SWEEP_STATUS.get(sweep.state, "RUNNING"), sweep.ended_at)

    def _describe(self, ref: str, sweep: Sweep, trials: Sequence[Trial]) -> None:
        if best := (sweep.results or {}).get("best"):
            self._log_best(ref, best, trials)
        self._set_tags(ref, sweep_tags(sweep) | {"mlflow.note.content": describe_sweep(sweep)})

    def _upload(self, ref: str, folder: Path, to: str | None = None) -> None:
        """Artifacts go to a disk or an object store, whose clients raise what they like."""
        with self._server():
            try:
                self._client.log_artifacts(ref, str(folder), to)
            except (MlflowException, SQLAlchemyError, OSError):
                raise
            except Exception as error:
                raise OSError(f"its artifact store: {type(error).__name__}: {error}") from error

    def log_model(self, ref: str, sweep: Sweep, trial: Trial, checkpoint: str) -> None:
        """See the port. Loads by ``mlflow.pytorch.load_model("runs:/<ref>/model")``."""
        with self._server():
            if self._client.get_run(ref).data.tags.get("model_trial_id") == trial.id:
                return
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / MODEL_FOLDER
            try:
                save_model_folder(model, sweep, trial, self._files.load(checkpoint))
            except CheckpointsUnavailableError:
                raise
            except Exception as error:  # builds the model by its author's code
                fact = f"{type(error).__name__}: {first_line(error)}"
                raise ModelUnusableError(f"No model of trial {trial.number} from {checkpoint}: {fact}") from error
            self._upload(ref, model, MODEL_FOLDER)
            with self._server():
                self._set_tags(
                    ref,
                    {
                        "model_trial": str(trial.number),
                        "model_uri": f"runs:/{ref}/{MODEL_FOLDER}",
                        "model_trial_id": trial.id,  # last: it says that the files are all there
                    },
                )

    def register_model(self, ref: str, sweep: Sweep, trial: Trial, name: str) -> str:
        """See the port."""
        with self._server():
            source = append_to_uri_path(self._client.get_run(ref).info.artifact_uri, MODEL_FOLDER)
            tags = {"sweep_id": sweep.id, "trial_id": trial.id}
            version = register_version(self._client, name, source=source, run_id=ref, tags=tags)
            self._set_tags(ref, {"registered_model": name, "registered_version": version})
            return version

    @property
    def _client(self) -> MlflowClient:
        return self._connection.client

    def _server(self) -> AbstractContextManager[None]:
        return self._connection.calls()

    def _experiment_id(self, name: str) -> str:
        """The experiment of that name, made if there is none, brought back if somebody has deleted it."""
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            try:
                return self._client.create_experiment(name, artifact_location=self._artifact_location)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)  # somebody else made it a moment ago
                if experiment is None:
                    raise
        self._restore(experiment)
        return experiment.experiment_id

    def _restore(self, experiment: Experiment) -> None:
        if experiment.lifecycle_stage == "deleted":
            logger.warning("The MLflow experiment %r had been deleted and is restored for a sweep.", experiment.name)
            self._client.restore_experiment(experiment.experiment_id)

    def _experiment_of(self, sweep_ref: str) -> str:
        if sweep_ref not in self._experiments:
            self._experiments[sweep_ref] = self._client.get_run(sweep_ref).info.experiment_id
        return self._experiments[sweep_ref]

    def _find(self, experiment_id: str, filter_string: str) -> Run | None:
        """The oldest such run: should two ever have been made, everybody writes to the same one."""
        order = ["attributes.start_time ASC"]
        return next(iter(self._client.search_runs([experiment_id], filter_string, max_results=1, order_by=order)), None)

    def _revive(self, run: Run, *, ended: bool) -> None:
        """A run that was closed goes on: its sweep was re-opened, or closed by a conductor that had lost it."""
        if not ended and run.info.status != "RUNNING":
            self._client.update_run(run.info.run_id, status="RUNNING")

    def _terminate(self, ref: str, status: str, ended_at: datetime | None) -> None:
        if RunStatus.is_terminated(RunStatus.from_string(status)):
            self._client.set_terminated(ref, status, _millis(ended_at) if ended_at else None)

    def _log_params(self, ref: str, params: Mapping[str, Any], *, known: Mapping[str, str]) -> None:
        """MLflow keeps a parameter's first value for ever; another one is refused, and left out here with a warning."""
        texts = {name: as_text(value)[:_MAX_PARAM_LENGTH] for name, value in params.items()}
        missing = [Param(name, text) for name, text in texts.items() if known.get(name) != text]
        for chunk in _chunks(missing, _MAX_PARAMS_OR_TAGS):
            try:
                self._client.log_batch(ref, params=chunk)
            except MlflowException as error:
                if error.error_code not in REFUSALS:
                    raise
                self._log_params_singly(ref, chunk)

    def _log_params_singly(self, ref: str, params: Sequence[Param]) -> None:
        for param in params:
            try:
                self._client.log_batch(ref, params=[param])
            except MlflowException as error:
                if error.error_code not in REFUSALS:
                    raise
                logger.warning("MLflow refuses the parameter %s of run %s: %s", param.key, ref, first_line(error))

    def _log_metrics(self, ref: str, metrics: Sequence[Metric]) -> None:
        for chunk in _chunks(metrics, _MAX_METRICS):
            try:
                self._client.log_batch(ref, metrics=chunk)
            except MlflowException as error:
                if error.error_code not in REFUSALS:
                    raise
                self._log_metrics_by_key(ref, chunk)

    def _log_metrics_by_key(self, ref: str, metrics: Sequence[Metric]) -> None:
        """One call a key, to find those that are refused and get the others through; the refused are not sent again."""
        for key in dict.fromkeys(metric.key for metric in metrics):
            try:
                self._client.log_batch(ref, metrics=[metric for metric in metrics if metric.key == key])
            except MlflowException as error:
                if error.error_code not in REFUSALS:
                    raise
                self._refused.add((ref, key))
                logger.warning("MLflow refuses the metric %s of run %s: %s", key, ref, first_line(error))

    def _set_tags(self, ref: str, tags: Mapping[str, str]) -> None:
        fitting = [RunTag(key, value) for key, value in _fitting(tags).items()]
        for chunk in _chunks(fitting, _MAX_PARAMS_OR_TAGS):
            self._client.log_batch(ref, tags=chunk)

    def _log_best(self, ref: str, best: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        """The best trial's parameters and last metrics, at the trial's own end: repeating it adds no point."""
        trial = next((trial for trial in trials if trial.id == best["trial_id"]), None)
        if trial is None:
            return
        run = self._client.get_run(ref)
        self._log_params(ref, trial.searched, known=run.data.params)
        values = {"objective": best["objective"], **trial.metrics}
        at = _millis(trial.ended_at or trial.created_at)
        self._log_metrics(ref, [Metric(f"best/{key}", value, at, trial.number) for key, value in values.items()])
        # Parameters cannot be changed when a re-opened sweep finds a better trial; this tag can.
        searched = json.dumps(dict(trial.searched))
        self._set_tags(ref, {"best_trial": str(trial.number), "best_trial_id": trial.id, "best_params": searched})

    def _close_children(self, ref: str, sweep: Sweep, trials: Sequence[Trial]) -> None:
        """End every run of an ended sweep that still runs, one that lost a race for its trial included."""
        if not sweep.state.is_ended:
            return
        by_id = {trial.id: trial for trial in trials}
        left_running = f"tags.sweep_id = '{sweep.id}' AND attributes.status = 'RUNNING'"
        for run in self._all(self._experiment_of(ref), left_running):
            trial = by_id.get(run.data.tags.get("trial_id", ""))
            if run.info.run_id == ref:
                continue
            if trial is not None and trial.state.is_ended:
                self.close_trial(run.info.run_id, trial)
            else:
                self._terminate(run.info.run_id, "KILLED", sweep.ended_at)

    def _all(self, experiment_id: str, filter_string: str) -> list[Run]:
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs([experiment_id], filter_string, max_results=1000, page_token=token)
            runs += page
            token = page.token
            if not token:
                return runs


def _millis(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _fitting(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: value[:_MAX_TAG_LENGTH] for key, value in tags.items()}


def _chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
