"""What every tracker keeps to, over all of them; and what people find in MLflow, over a database and a real server."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.domain.errors import (
    CheckpointsUnavailableError,
    ModelUnusableError,
    TrackingRefusedError,
    TrackingUnavailableError,
)
from sweep_service.domain.ids import IdPrefix, new_id
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepReason, SweepState, TrialEnding, TrialState
from sweep_service.domain.trial import Report, Role, Sweep, Trial
from sweep_service.services.results import summarise
from sweep_service.tracker_port import Tracker
from sweep_service.tracking.mlflow_tracker import MlflowTracker
from sweep_service.tracking.null import NullTracker
from trainables.catalog import load_problem
from trainables.checkpoint import Checkpoint
from trainables.export import export_model
from trainables.protocol import Lane, LaneReport
from trainables.training import train

NOW = datetime(2026, 1, 1, 12, 0, 0, 123000, tzinfo=UTC)
MODEL_PARAMS: dict[str, Any] = {"hidden": [8], "steps": 4, "batch_size": 32, "balancer": "gradnorm", "alpha": 0.5}


# --- the trackers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an MLflow tracker writes, and how a test reads it."""

    uri: str
    artifact_location: str | None

    def tracker(self) -> MlflowTracker:
        """A new one, as after a restart: it remembers nothing."""
        return MlflowTracker(self.uri, files=FolderFiles(), artifact_location=self.artifact_location)

    @property
    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)

    def runs(self, sweep: Sweep) -> list[Any]:
        experiment = self.client.get_experiment_by_name(sweep.spec.experiment)
        found = self.client.search_runs([experiment.experiment_id], f"tags.sweep_id = '{sweep.id}'", max_results=1000)
        return list(found)

    def history(self, ref: str, key: str) -> list[tuple[int, float, int]]:
        points = self.client.get_metric_history(ref, key)
        return sorted((point.step, point.value, point.timestamp) for point in points)

    def read(self, ref: str, path: str, folder: Path) -> bytes:
        return Path(self.client.download_artifacts(ref, path, str(folder))).read_bytes()

    def files(self, ref: str, path: str | None = None) -> set[str]:
        found: set[str] = set()
        for entry in self.client.list_artifacts(ref, path):
            found |= self.files(ref, entry.path) if entry.is_dir else {entry.path}
        return found


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("mlflow")
    return Place(uri=f"sqlite:///{folder / 'new' / 'mlflow.db'}", artifact_location=(folder / "artifacts").as_uri())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("mlflow-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        wait_until_it_answers(process, f"http://127.0.0.1:{port}/health", folder / "log")
        yield Place(uri=f"http://127.0.0.1:{port}", artifact_location=None)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)  # between two looks at a real process
    raise AssertionError(f"mlflow server did not come up: {log.read_text()}")


PLACES = ["database", pytest.param("server", marks=pytest.mark.slow)]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["null", *PLACES])
def any_tracker(request: pytest.FixtureRequest) -> Tracker:
    return NullTracker() if request.param == "null" else request.getfixturevalue(request.param).tracker()


# --- a sweep to track -----------------------------------------------------------------------------------------------


@pytest.fixture
def sweep() -> Sweep:
    """A running sweep in an experiment of its own, so that no test sees another's runs."""
    sweep_id = new_id(IdPrefix.SWEEP, now=NOW)
    spec = SweepSpec.model_validate(
        {
            "name": "digits with gradnorm",
            "trainable": "digits",
            "params": {"hidden": [8]},
            "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
            "budget": {"trials": 2},
            "baselines": ["equal"],
            "confirm": {"seeds": 2},
            "tracking": {"experiment": f"experiment of {sweep_id}"},
            "labels": {"team": "ads"},
        }
    )
    return Sweep(
        id=sweep_id,
        project="default",
        created_by="ann",
        spec=spec,
        state=SweepState.RUNNING,
        created_at=NOW,
        updated_at=NOW,
        started_at=NOW,
    )


def make_trial(sweep: Sweep, number: int, **changes: Any) -> Trial:
    trial = Trial(
        id=new_id(IdPrefix.TRIAL, now=NOW),
        sweep_id=sweep.id,
        number=number,
        role=Role.SEARCH,
        balancer="gradnorm",
        params={**MODEL_PARAMS, "alpha": 0.25 * number},
        searched={"alpha": 0.25 * number},
        seed=70 + number,
        state=TrialState.RUNNING,
        provenance={"data_hash": "abc", "packages": {"torch": "2.13.0"}},
        created_at=NOW,
        started_at=NOW + timedelta(seconds=number),
    )
    return replace(trial, **changes)


def completed(trial: Trial, objective: float, **metrics: float) -> Trial:
    return replace(
        trial,
        state=TrialState.COMPLETED,
        ending=TrialEnding.COMPLETED,
        objective=objective,
        metrics={"val/normalized_loss": objective, "val/loss/digit": 2 * objective, **metrics},
        num_attempts=1,
        ended_at=NOW + timedelta(minutes=1, seconds=trial.number),
    )


def make_reports(
    trial: Trial, *, steps: Sequence[int] = (10, 20, 30), extra: Mapping[str, float] | None = None
) -> list:
    return [
        Report(
            sweep_id=trial.sweep_id,
            trial_id=trial.id,
            attempt_id="att_1",
            step=step,
            metrics={"weight/digit": 1 + step / 100, "weight/odd": 1 - step / 100, **(extra or {})},
            objective=1.0,
            reported_at=NOW + timedelta(seconds=step),
            seq=step,
        )
        for step in steps
    ]


@pytest.fixture
def finished(sweep: Sweep) -> tuple[Sweep, list[Trial]]:
    """The same sweep about to end completed, with results: two search trials, a baseline, repeats of both."""
    trials = [completed(make_trial(sweep, 0), 0.6), completed(make_trial(sweep, 1), 0.5)]
    equal = completed(make_trial(sweep, 2, role=Role.BASELINE, balancer="equal", searched={}), 0.7)
    trials.append(equal)
    for original, centre in ((trials[1], 0.5), (equal, 0.8)):
        for seed in (1, 2, 3):
            repeat = make_trial(sweep, len(trials), role=Role.CONFIRM, balancer=original.balancer, seed=seed)
            loss = {"test/normalized_loss": centre + 0.001 * seed, "test/loss/digit": centre + 0.001 * seed}
            trials.append(replace(completed(repeat, centre, **loss), confirms=original.id, objective=None))
    ended = replace(
        sweep,
        state=SweepState.COMPLETED,
        reason=SweepReason.BUDGET_TRIALS,
        best_trial_id=trials[1].id,
        ended_at=NOW + timedelta(minutes=5),
    )
    return replace(ended, results=summarise(ended, trials)), trials


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a short training of digits left."""
    reports: list[LaneReport] = []

    def keep(new: Sequence[LaneReport]) -> Sequence[str]:
        reports.extend(new)
        return ()

    train(load_problem("digits", MODEL_PARAMS), [Lane(key="a", balancer="gradnorm", params=MODEL_PARAMS)], keep)
    last = reports[-1].checkpoint
    assert last is not None
    path = tmp_path_factory.mktemp("checkpoints") / "last.pt"
    last.save(path)
    return path


def track(
    tracker: Tracker, sweep: Sweep, finished: tuple[Sweep, list[Trial]], checkpoint: Path
) -> tuple[str, dict[str, str]]:
    """The whole life of a sweep in a tracker."""
    ended, trials = finished
    ref = tracker.open_sweep(sweep)
    running = [replace(trial, state=TrialState.RUNNING, ending=None, ended_at=None, objective=None) for trial in trials]
    refs = {trial.id: tracker.open_trial(sweep, ref, trial) for trial in running}
    reports = [report for trial in trials for report in make_reports(trial)]
    tracker.log_reports(refs, reports)
    for trial in trials:
        tracker.close_trial(refs[trial.id], trial)
    best = trials[1]
    tracker.log_model(ref, ended, best, str(checkpoint))
    curves = {trial.id: make_reports(trial) for trial in (best, trials[2])}
    tracker.close_sweep(ref, ended, trials, curves)
    return ref, refs


# --- every tracker --------------------------------------------------------------------------------------------------


def test_doing_everything_again_gives_the_same_runs(any_tracker: Tracker, sweep, finished, checkpoint):
    first = track(any_tracker, sweep, finished, checkpoint)
    assert track(any_tracker, sweep, finished, checkpoint) == first


def test_every_trial_has_a_run_of_its_own(any_tracker: Tracker, sweep: Sweep):
    ref = any_tracker.open_sweep(sweep)
    refs = [any_tracker.open_trial(sweep, ref, make_trial(sweep, number)) for number in range(3)]
    assert len({ref, *refs}) == 4


def test_nothing_to_log_is_no_error(any_tracker: Tracker):
    any_tracker.log_reports({}, [])


# --- MLflow: what is there --------------------------------------------------------------------------------------------


def test_repeating_every_method_makes_no_second_run_and_no_second_point(place: Place, sweep, finished, checkpoint):
    ref, refs = track(place.tracker(), sweep, finished, checkpoint)
    before = {run.info.run_id: (run.info.status, run.data.params, run.data.metrics) for run in place.runs(sweep)}
    track(place.tracker(), sweep, finished, checkpoint)  # as the next conductor would
    after = {run.info.run_id: (run.info.status, run.data.params, run.data.metrics) for run in place.runs(sweep)}
    assert set(before) == {ref, *refs.values()}
    assert after == before
    assert all(len(place.history(child, "weight/digit")) == 3 for child in refs.values())
    assert len(place.history(ref, "best/objective")) == 1


def test_metrics_have_the_steps_values_and_times_of_their_reports(place: Place, sweep: Sweep):
    tracker, trial = place.tracker(), make_trial(sweep, 0)
    ref = tracker.open_trial(sweep, tracker.open_sweep(sweep), trial)
    reports = make_reports(trial)
    tracker.log_reports({trial.id: ref}, reports)
    assert place.history(ref, "weight/digit") == [
        (report.step, report.metrics["weight/digit"], round(report.reported_at.timestamp() * 1000))
        for report in reports
    ]


def test_delivering_a_part_again_with_more_behind_it_adds_only_the_new_points(place: Place, sweep: Sweep):
    tracker, trial = place.tracker(), make_trial(sweep, 0)
    ref = tracker.open_trial(sweep, tracker.open_sweep(sweep), trial)
    reports = make_reports(trial, steps=range(10, 60, 10))
    tracker.log_reports({trial.id: ref}, reports[:3])
    tracker.log_reports({trial.id: ref}, reports[1:])
    assert [step for step, _, _ in place.history(ref, "weight/odd")] == [10, 20, 30, 40, 50]


def test_more_metrics_than_one_call_takes_all_arrive(place: Place, sweep: Sweep):
    tracker, trial = place.tracker(), make_trial(sweep, 0)
    ref = tracker.open_trial(sweep, tracker.open_sweep(sweep), trial)
    wide = {f"val/m{i}/digit": float(i) for i in range(400)}
    tracker.log_reports({trial.id: ref}, make_reports(trial, extra=wide))
    run = place.client.get_run(ref)
    assert {key: run.data.metrics[key] for key in wide} == wide
    assert len(place.history(ref, "val/m399/digit")) == 3


def test_more_parameters_than_one_call_takes_all_arrive(place: Place, sweep: Sweep):
    tracker = place.tracker()
    params = {f"p{i}": i for i in range(250)} | {"weight/income": 2}  # a task's own has a slash in its name
    ref = tracker.open_trial(sweep, tracker.open_sweep(sweep), make_trial(sweep, 0, params=params))
    assert place.client.get_run(ref).data.params == {name: str(i) for name, i in params.items()} | {"seed": "70"}


def test_the_trials_are_children_of_the_sweeps_run_and_say_what_they_are(place: Place, sweep: Sweep):
    tracker = place.tracker()
    ref = tracker.open_sweep(sweep)
    trial = make_trial(sweep, 7)
    run = place.client.get_run(tracker.open_trial(sweep, ref, trial))
    assert run.info.run_name == "trial-007 gradnorm"
    assert run.data.params == {
        "hidden": "[8]",
        "steps": "4",
        "batch_size": "32",
        "balancer": "gradnorm",
        "alpha": "1.75",
        "seed": "77",
    }
    expected = {
        "mlflow.parentRunId": ref,
        "sweep_id": sweep.id,
        "trial": "7",
        "trial_id": trial.id,
        "role": "search",
        "balancer": "gradnorm",
        "state": "running",
        "provenance.data_hash": "abc",
        "provenance.packages": '{"torch": "2.13.0"}',
    }
    assert {key: run.data.tags.get(key) for key in expected} == expected
    assert run.info.start_time == round((NOW + timedelta(seconds=7)).timestamp() * 1000)


ENDINGS = {
    TrialEnding.COMPLETED: "FINISHED",
    TrialEnding.PRUNED: "FINISHED",
    TrialEnding.NON_FINITE: "FAILED",
    TrialEnding.OUT_OF_MEMORY: "FAILED",
    TrialEnding.ERROR: "FAILED",
    TrialEnding.WORKER_LOST: "FAILED",
    TrialEnding.CANCELLED: "KILLED",
}


def test_a_trials_run_ends_as_the_trial_did(place: Place, sweep: Sweep):
    assert set(ENDINGS) == set(TrialEnding)
    tracker, ended_at = place.tracker(), NOW + timedelta(minutes=1)
    sweep_ref = tracker.open_sweep(sweep)
    for number, (ending, status) in enumerate(ENDINGS.items()):
        trial = make_trial(sweep, number)
        ref = tracker.open_trial(sweep, sweep_ref, trial)
        tracker.close_trial(ref, replace(trial, state=ending.state, ending=ending, ended_at=ended_at, num_attempts=2))
        run = place.client.get_run(ref)
        assert (run.info.status, run.info.end_time) == (status, round(ended_at.timestamp() * 1000)), ending
        assert (run.data.tags["state"], run.data.tags["ending"]) == (str(ending.state), str(ending))
        assert run.data.tags["attempts"] == "2"


def test_a_failed_trial_keeps_its_message_and_traceback(place: Place, sweep: Sweep, tmp_path: Path):
    tracker, trial = place.tracker(), make_trial(sweep, 0)
    ref = tracker.open_trial(sweep, tracker.open_sweep(sweep), trial)
    message, traceback = "ValueError: no such column " + "x" * 20_000, "Traceback: …\n" * 2000
    failed = replace(
        trial, state=TrialState.FAILED, ending=TrialEnding.ERROR, message=message, traceback=traceback, ended_at=NOW
    )
    tracker.close_trial(ref, failed)
    assert place.client.get_run(ref).data.tags["message"].startswith("ValueError: no such column x")
    assert place.read(ref, "traceback.txt", tmp_path).decode() == traceback


ENDED_SWEEPS = {
    SweepState.COMPLETED: "FINISHED",
    SweepState.STOPPED: "FINISHED",
    SweepState.FAILED: "FAILED",
    SweepState.CANCELLED: "KILLED",
}


def test_the_sweeps_run_ends_as_the_sweep_did_even_without_results(place: Place, sweep: Sweep):
    assert set(ENDED_SWEEPS) == {state for state in SweepState if state.is_ended}
    tracker = place.tracker()
    for state, status in ENDED_SWEEPS.items():
        one = replace(sweep, id=new_id(IdPrefix.SWEEP, now=NOW))
        ref = tracker.open_sweep(one)
        results = None if state is SweepState.FAILED else summarise(one, [])
        tracker.close_sweep(ref, replace(one, state=state, results=results), [], {})
        run = place.client.get_run(ref)
        assert (run.info.status, run.data.tags["state"]) == (status, str(state))
        assert "No trial was completed" in run.data.tags["mlflow.note.content"]


def test_no_run_is_left_running_by_an_ended_sweep(place: Place, sweep, finished, checkpoint):
    tracker, (ended, trials) = place.tracker(), finished
    ref, refs = track(tracker, sweep, finished, checkpoint)
    client = place.client
    client.update_run(refs[trials[0].id], status="RUNNING")  # as if its conductor had died before closing it
    twin = client.create_run(
        client.get_run(ref).info.experiment_id, tags={"sweep_id": sweep.id, "mlflow.parentRunId": ref}
    )
    tracker.close_sweep(ref, ended, trials, {})
    statuses = {run.info.run_id: run.info.status for run in place.runs(sweep)}
    assert statuses.pop(twin.info.run_id) == "KILLED"
    assert set(statuses.values()) == {"FINISHED"}


def test_the_parent_holds_the_spec_from_the_start(place: Place, sweep: Sweep, tmp_path: Path):
    ref = place.tracker().open_sweep(sweep)
    run = place.client.get_run(ref)
    assert run.info.run_name == "digits with gradnorm"
    assert run.info.status == "RUNNING"
    expected = {"sweep_id": sweep.id, "state": "running", "label.team": "ads", "mlflow.user": "ann"}
    assert {key: run.data.tags.get(key) for key in expected} == expected
    spec = json.loads(place.read(ref, "spec.json", tmp_path))
    assert SweepSpec.model_validate(spec) == sweep.spec
    assert "spec.yaml" in place.files(ref)


def test_the_parent_of_an_ended_sweep_shows_the_best_the_leaderboard_and_the_verdict(
    place: Place, sweep, finished, checkpoint, tmp_path: Path
):
    ref, _ = track(place.tracker(), sweep, finished, checkpoint)
    run = place.client.get_run(ref)
    assert run.data.params == {"alpha": "0.25"}
    assert run.data.metrics["best/objective"] == 0.5
    assert run.data.metrics["best/val/loss/digit"] == 1.0
    assert (run.data.tags["best_trial"], run.data.tags["reason"]) == ("1", "budget_trials")
    note = run.data.tags["mlflow.note.content"]
    assert "GradNorm helped against equal" in note
    assert "| 1 | 1 | gradnorm | 0.5 | 0.25 |" in note
    rows = list(csv.DictReader(io.StringIO(place.read(ref, "leaderboard.csv", tmp_path).decode())))
    assert [(row["rank"], row["label"], row["params.alpha"]) for row in rows] == [
        ("1", "gradnorm", "0.25"),
        ("2", "gradnorm", "0.0"),
        ("3", "equal", ""),
    ]
    assert json.loads(place.read(ref, "verdict.json", tmp_path)) == finished[0].results["verdict"]
    assert place.read(ref, "plots/weights_best.png", tmp_path).startswith(b"\x89PNG")
    report = place.read(ref, "report.html", tmp_path).decode()
    assert set(re.findall(r'<section id="(\w+)">', report)) >= {"overview", "verdict", "weights", "history", "spec"}
    assert report.endswith("</html>\n")


def test_a_reopened_sweep_goes_on_in_its_run_and_shows_its_new_best(place: Place, sweep, finished, checkpoint):
    ended, trials = finished
    ref, _ = track(place.tracker(), sweep, finished, checkpoint)
    tracker = place.tracker()
    assert tracker.open_sweep(sweep) == ref
    assert place.client.get_run(ref).info.status == "RUNNING"
    better = completed(make_trial(sweep, 20), 0.1)
    tracker.open_trial(sweep, ref, better)
    again = replace(ended, results=summarise(ended, [*trials, better]))
    tracker.close_sweep(ref, again, [*trials, better], {better.id: make_reports(better)})
    run = place.client.get_run(ref)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["best/objective"] == 0.1
    assert json.loads(run.data.tags["best_params"]) == {"alpha": 5.0}


# --- MLflow: what goes wrong ------------------------------------------------------------------------------------------


def test_a_metric_that_mlflow_refuses_does_not_hold_up_the_others(place: Place, sweep: Sweep, caplog):
    tracker, trial, other = place.tracker(), make_trial(sweep, 0), make_trial(sweep, 1)
    ref = tracker.open_sweep(sweep)
    refs = {t.id: tracker.open_trial(sweep, ref, t) for t in (trial, other)}
    reports = [*make_reports(trial, extra={"val/loss/what? & why": 1.0}), *make_reports(other)]
    tracker.log_reports(refs, reports)
    assert [step for step, _, _ in place.history(refs[trial.id], "weight/digit")] == [10, 20, 30]
    assert [step for step, _, _ in place.history(refs[other.id], "weight/digit")] == [10, 20, 30]
    assert "val/loss/what? & why" in caplog.text
    caplog.clear()
    tracker.log_reports(refs, make_reports(trial, steps=[40], extra={"val/loss/what? & why": 1.0}))
    assert place.history(refs[trial.id], "weight/digit")[-1][0] == 40
    assert caplog.text == ""


def test_a_run_that_somebody_deleted_does_not_hold_up_the_others(place: Place, sweep: Sweep):
    tracker, trial, other = place.tracker(), make_trial(sweep, 0), make_trial(sweep, 1)
    ref = tracker.open_sweep(sweep)
    refs = {t.id: tracker.open_trial(sweep, ref, t) for t in (trial, other)}
    place.client.delete_run(refs[trial.id])
    tracker.log_reports(refs, [*make_reports(trial), *make_reports(other)])
    assert len(place.history(refs[other.id], "weight/digit")) == 3
    with pytest.raises(TrackingRefusedError, match="deleted"):
        tracker.close_trial(refs[trial.id], completed(trial, 0.5))
    tracker.close_trial(refs[other.id], completed(other, 0.5))


def test_a_sweeps_run_that_somebody_deleted_is_refused_and_not_waited_for(place: Place, sweep, finished, checkpoint):
    tracker, (ended, trials) = place.tracker(), finished
    ref = tracker.open_sweep(sweep)
    place.client.delete_run(ref)
    with pytest.raises(TrackingRefusedError):
        tracker.log_model(ref, ended, trials[1], str(checkpoint))
    with pytest.raises(TrackingRefusedError):
        tracker.close_sweep(ref, ended, trials, {})


def test_a_trial_that_starts_after_the_experiment_was_deleted_brings_it_back(place: Place, sweep: Sweep):
    tracker = place.tracker()
    ref = tracker.open_sweep(sweep)
    experiment_id = place.client.get_run(ref).info.experiment_id
    place.client.delete_experiment(experiment_id)
    run_id = tracker.open_trial(sweep, ref, make_trial(sweep, 0))
    assert place.client.get_run(run_id).info.lifecycle_stage == "active"


def test_a_plot_that_cannot_be_drawn_leaves_the_rest_of_the_results_as_it_is(place: Place, sweep, finished, caplog):
    tracker, (ended, trials) = place.tracker(), finished
    ref = tracker.open_sweep(sweep)
    unplottable = replace(make_reports(trials[1])[0], metrics={"weight/digit": "heavy"})
    tracker.close_sweep(ref, ended, trials, {trials[1].id: [unplottable]})
    assert place.client.get_run(ref).info.status == "FINISHED"
    assert "leaderboard.csv" in {file.path for file in place.client.list_artifacts(ref)}
    assert "Not all files" in caplog.text


def test_a_report_that_cannot_be_made_leaves_the_plots_as_they_are(place: Place, sweep, finished, caplog):
    tracker, (ended, trials) = place.tracker(), finished
    ref = tracker.open_sweep(sweep)
    unreadable = replace(make_reports(trials[2])[0], metrics={"val/loss/digit": "heavy"})
    curves = {trials[1].id: make_reports(trials[1]), trials[2].id: [unreadable]}
    tracker.close_sweep(ref, ended, trials, curves)
    assert place.files(ref) >= {"leaderboard.csv", "verdict.json", "plots/weights_best.png"}
    assert "report.html" not in place.files(ref)
    assert "Not all files" in caplog.text


def test_a_deleted_experiment_is_brought_back(place: Place, sweep: Sweep):
    ref = place.tracker().open_sweep(sweep)
    experiment_id = place.client.get_run(ref).info.experiment_id
    place.client.delete_experiment(experiment_id)
    assert place.tracker().open_sweep(sweep) == ref
    assert place.client.get_experiment(experiment_id).lifecycle_stage == "active"


def test_two_sweeps_that_open_the_same_new_experiment_at_once_share_it(place: Place, sweep: Sweep):
    sweeps = [replace(sweep, id=new_id(IdPrefix.SWEEP, now=NOW)) for _ in range(4)]
    trackers = [place.tracker() for _ in sweeps]
    barrier, refs, errors = threading.Barrier(len(sweeps)), [], []

    def open_one(tracker: MlflowTracker, one: Sweep) -> None:
        barrier.wait()
        try:
            refs.append(tracker.open_sweep(one))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one, args=pair) for pair in zip(trackers, sweeps, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({place.client.get_run(ref).info.experiment_id for ref in refs}) == 1
    assert len(set(refs)) == len(sweeps)


def test_a_server_that_is_down_is_reported_within_seconds_by_every_method(sweep, finished, checkpoint):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # nobody listens on it while it is bound
        tracker = MlflowTracker(f"http://ann:secret@127.0.0.1:{probe.getsockname()[1]}", files=FolderFiles())
        ended, trials = finished
        calls = {
            "open_sweep": lambda: tracker.open_sweep(sweep),
            "open_trial": lambda: tracker.open_trial(sweep, "ref", trials[0]),
            "log_reports": lambda: tracker.log_reports({trials[0].id: "ref"}, make_reports(trials[0])),
            "close_trial": lambda: tracker.close_trial("ref", trials[0]),
            "close_sweep": lambda: tracker.close_sweep("ref", ended, trials, {}),
            "log_model": lambda: tracker.log_model("ref", ended, trials[0], str(checkpoint)),
            "register_model": lambda: tracker.register_model("ref", ended, trials[0], "a name"),
        }
        for name, call in calls.items():
            start = time.monotonic()
            with pytest.raises(TrackingUnavailableError) as raised:
                call()
            # Also where a library is imported first, on a busy machine; by itself MLflow would try for minutes.
            assert time.monotonic() - start < 60, name
            assert "MLflow at http://" in str(raised.value)
            assert "secret" not in str(raised.value)


# --- MLflow: the registry ---------------------------------------------------------------------------------------------


def versions_of(place: Place, name: str) -> dict[str, dict[str, str]]:
    """Tags of the versions of a registered model."""
    return {str(each.version): dict(each.tags) for each in place.client.search_model_versions(f"name='{name}'")}


@pytest.fixture
def logged(place: Place, sweep: Sweep, checkpoint: Path) -> tuple[MlflowTracker, str, Trial]:
    """The run of a sweep with the model of that trial."""
    tracker, trial = place.tracker(), completed(make_trial(sweep, 1, params=MODEL_PARAMS), 0.5)
    ref = tracker.open_sweep(sweep)
    tracker.log_model(ref, sweep, trial, str(checkpoint))
    return tracker, ref, trial


def test_a_registered_model_is_a_version_that_loads_by_its_alias(place: Place, sweep: Sweep, logged, tmp_path: Path):
    tracker, ref, trial = logged
    name = f"model of {sweep.id}"
    assert tracker.register_model(ref, sweep, trial, name) == "1"
    version = place.client.get_model_version_by_alias(name, "champion")
    assert (str(version.version), version.run_id) == ("1", ref)
    assert version.tags == {"sweep_id": sweep.id, "trial_id": trial.id}
    tags = place.client.get_run(ref).data.tags
    assert (tags["registered_model"], tags["registered_version"]) == (name, "1")
    script = (
        "import sys, mlflow, mlflow.pytorch\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "print(type(mlflow.pytorch.load_model(f'models:/{sys.argv[2]}@champion')).__name__)\n"
    )
    command = [sys.executable, "-c", script, place.uri, name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "MultiTaskModel", done.stderr


def test_registering_again_makes_no_second_version(place: Place, sweep: Sweep, logged):
    tracker, ref, trial = logged
    name = f"model of {sweep.id}"
    first = tracker.register_model(ref, sweep, trial, name)
    place.client.delete_registered_model_alias(name, "champion")  # as if a conductor had died before giving it
    assert place.tracker().register_model(ref, sweep, trial, name) == first
    assert set(versions_of(place, name)) == {first}
    assert str(place.client.get_model_version_by_alias(name, "champion").version) == first


def test_another_sweep_of_the_name_makes_the_next_version_and_takes_the_alias(place: Place, sweep, logged, checkpoint):
    tracker, ref, trial = logged
    name = f"model of {sweep.id}"
    tracker.register_model(ref, sweep, trial, name)
    second = replace(sweep, id=new_id(IdPrefix.SWEEP, now=NOW))
    other = completed(make_trial(second, 0, params=MODEL_PARAMS), 0.4)
    second_ref = tracker.open_sweep(second)
    tracker.log_model(second_ref, second, other, str(checkpoint))
    assert tracker.register_model(second_ref, second, other, name) == "2"
    assert place.client.get_model_version_by_alias(name, "champion").run_id == second_ref
    sweeps = {version: tags["sweep_id"] for version, tags in versions_of(place, name).items()}
    assert sweeps == {"1": sweep.id, "2": second.id}


def test_a_registered_model_that_somebody_deleted_is_made_anew(place: Place, sweep: Sweep, logged):
    tracker, ref, trial = logged
    name = f"model of {sweep.id}"
    tracker.register_model(ref, sweep, trial, name)
    place.client.delete_registered_model(name)
    assert tracker.register_model(ref, sweep, trial, name) == "1"


def test_the_name_of_a_prompt_is_refused_and_so_is_one_that_mlflow_does_not_take(place: Place, sweep: Sweep, logged):
    tracker, ref, trial = logged
    name = f"prompt-of-{sweep.id}"
    place.client.register_prompt(name, template="Dear {{name}}")
    for refused in (name, "a/b"):
        with pytest.raises(TrackingRefusedError):
            tracker.register_model(ref, sweep, trial, refused)


# --- MLflow: the model ------------------------------------------------------------------------------------------------


def test_the_model_loads_in_another_process_and_answers_as_it_did_here(
    place: Place, sweep: Sweep, checkpoint: Path, tmp_path: Path
):
    import torch

    tracker, trial = place.tracker(), completed(make_trial(sweep, 1, params=MODEL_PARAMS), 0.5)
    ref = tracker.open_sweep(sweep)
    tracker.log_model(ref, sweep, trial, str(checkpoint))
    problem = load_problem("digits", MODEL_PARAMS)
    torch.save([tensor[:5] for tensor in problem.validation.inputs], tmp_path / "inputs.pt")
    script = (
        "import sys, torch, mlflow, mlflow.pytorch\n"
        "uri, ref, folder = sys.argv[1:]\n"
        "mlflow.set_tracking_uri(uri)\n"
        "model = mlflow.pytorch.load_model(f'runs:/{ref}/model')\n"
        "assert not model.training\n"
        "torch.save(model(*torch.load(folder + '/inputs.pt')), folder + '/outputs.pt')\n"
    )
    command = [sys.executable, "-c", script, place.uri, ref, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = export_model(Checkpoint.load(checkpoint), problem)(*[t[:5] for t in problem.validation.inputs])
    there = torch.load(tmp_path / "outputs.pt")
    assert set(there) == set(here) == {task.name for task in problem.tasks}
    assert all(torch.equal(there[name], here[name]) for name in here)


def test_beside_the_model_lies_what_builds_it_without_a_pickle(
    place: Place, sweep: Sweep, checkpoint: Path, tmp_path: Path
):
    import torch

    tracker, trial = place.tracker(), completed(make_trial(sweep, 1, params=MODEL_PARAMS), 0.5)
    ref = tracker.open_sweep(sweep)
    tracker.log_model(ref, sweep, trial, str(checkpoint))
    described = json.loads(place.read(ref, "model/model.json", tmp_path))
    assert described["trainable"] == "digits"
    assert described["params"] == MODEL_PARAMS
    assert described["tasks"] == ["digit", "lower_half", "odd"]
    assert described["objective"] == {"metric": "val/normalized_loss", "value": 0.5}
    state = torch.load(io.BytesIO(place.read(ref, "model/state_dict.pt", tmp_path)), weights_only=True)
    load_problem(described["trainable"], described["params"]).build_model().load_state_dict(state)
    tags = place.client.get_run(ref).data.tags
    assert (tags["model_trial_id"], tags["model_uri"]) == (trial.id, f"runs:/{ref}/model")


def test_a_damaged_checkpoint_is_not_taken_for_a_server_that_is_down(database: Place, sweep: Sweep, tmp_path: Path):
    tracker, trial = database.tracker(), completed(make_trial(sweep, 0), 0.5)
    ref = tracker.open_sweep(sweep)
    (tmp_path / "damaged.pt").write_bytes(b"nothing")
    with pytest.raises(ModelUnusableError, match=r"trial 0 .*damaged\.pt"):
        tracker.log_model(ref, sweep, trial, str(tmp_path / "damaged.pt"))
    with pytest.raises(ModelUnusableError, match=r"missing\.pt"):
        tracker.log_model(ref, sweep, trial, str(tmp_path / "missing.pt"))


class AbsentFiles(FolderFiles):
    def load(self, name: str) -> Checkpoint:
        raise CheckpointsUnavailableError(f"the object store of {name} does not answer")


def test_a_checkpoint_that_cannot_be_read_for_now_is_not_taken_for_a_damaged_one(database: Place, sweep: Sweep):
    tracker = MlflowTracker(database.uri, files=AbsentFiles(), artifact_location=database.artifact_location)
    trial = completed(make_trial(sweep, 0), 0.5)
    with pytest.raises(CheckpointsUnavailableError):
        tracker.log_model(tracker.open_sweep(sweep), sweep, trial, "s3://bucket/one.pt")
