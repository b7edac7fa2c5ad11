"""``sweep logs``, ``validate``, ``export``, ``--json`` and the completion, against a real server."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import yaml
from click.testing import Result
from harness import BOTH, SPEC, Conductor, Service, finish_sweep, run_front

from sweep_service.domain.states import SweepState, TrialEnding

Sweep = Callable[..., Result]


@pytest.fixture
def finished(service: Service) -> str:
    sweep_id = service.submit()["id"]
    finish_sweep(service.store, sweep_id)
    return sweep_id


@pytest.fixture
def talkative(service: Service) -> Conductor:
    """Two trials of a sweep have said something, the first of them has ended."""
    conductor = Conductor(service.store, service.submit()["id"])
    conductor.move(SweepState.RUNNING)
    first, second = (conductor.add_trial(alpha=alpha, weight_lr=0.01) for alpha in (1.0, 2.0))
    attempts = [conductor.start(trial) for trial in (first, second)]
    conductor.say(attempts[0], "hello from 0")
    conductor.say(attempts[1], "hello from 1")
    conductor.say(attempts[0], "goodbye\x1b[2J")
    conductor.end(attempts[0])
    return conductor


def test_the_lines_of_a_sweep_name_their_trials(sweep: Sweep, talkative: Conductor) -> None:
    result = sweep("logs", talkative.sweep_id)
    assert result.exit_code == 0, result.output
    said = [line.split("  ", 1)[1] for line in result.stdout.splitlines()]
    assert said == ["trial 0  stdout   hello from 0", "trial 1  stdout   hello from 1", "trial 0  stdout   goodbye [2J"]


@pytest.mark.parametrize("by_number", [True, False])
def test_the_lines_of_one_trial_are_its_own(
    sweep: Sweep, service: Service, talkative: Conductor, by_number: bool
) -> None:
    trial = service.store.list_trials(talkative.sweep_id)[0]
    result = sweep("logs", f"{talkative.sweep_id}:0" if by_number else trial.id, "--follow", "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["hello from 0", "goodbye\x1b[2J"]


@pytest.mark.parametrize("trial", ["9", "x", "-1", "²"])
def test_a_trial_that_is_not_there_is_said_with_the_way_out(sweep: Sweep, talkative: Conductor, trial: str) -> None:
    result = sweep("logs", f"{talkative.sweep_id}:{trial}")
    assert result.exit_code == 2
    assert "sweep trials" in result.stderr


def test_a_right_spec_is_validated_and_not_queued(sweep: Sweep, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(dict(SPEC)))
    before = service.num_sweeps()
    result = sweep("validate", str(path))
    assert result.exit_code == 0, result.output
    assert "4 search" in result.stdout
    assert "weight_lr" in result.stdout
    assert service.num_sweeps() == before
    assert json.loads(sweep("validate", str(path), "--json").stdout)["spec"]["name"] == "small"


def test_a_wrong_spec_is_told_with_its_lines(sweep: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("name: small\ntrainable: toy\nspace: {}\nbudget: {trials: 2}\n")
    result = sweep("validate", str(path))
    assert result.exit_code == 2
    assert "line 3, /space" in result.stderr
    assert result.stdout == ""
    for command in ("validate", "submit"):
        refused = sweep(command, str(path), "--json")
        assert refused.exit_code == 2
        assert [(item["pointer"], item["line"]) for item in json.loads(refused.stdout)["errors"]] == [("/space", 3)]
        assert "line 3, /space" in refused.stderr


def test_the_csv_has_a_row_a_trial_and_a_column_a_value(sweep: Sweep, finished: str) -> None:
    result = sweep("export", finished)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [(row["number"], row["role"], row["searched.alpha"]) for row in rows] == [
        ("0", "search", "1.0"),
        ("1", "search", "2.0"),
        ("2", "baseline", ""),
    ]
    assert [row["objective"] for row in rows] == ["0.6", "0.4", "0.5"]
    assert {row["params.width"] for row in rows} == {"8"}
    assert rows[1]["val/loss/left"] == "0.8"


def test_the_json_is_what_the_api_gives(sweep: Sweep, service: Service, finished: str, tmp_path: Path) -> None:
    path = tmp_path / "trials.json"
    assert sweep("export", finished, "--format", "json", "-o", str(path)).exit_code == 0
    listed = service.http.get(f"/api/v1/sweeps/{finished}/trials").json()["trials"]
    assert json.loads(path.read_text()) == listed
    again = sweep("export", finished, "--format", "json", "-o", str(path))
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_optuna_opens_what_was_exported_for_it(sweep: Sweep, service: Service, tmp_path: Path) -> None:
    conductor = Conductor(service.store, service.submit()["id"])
    conductor.move(SweepState.RUNNING)
    conductor.run(conductor.add_trial(alpha=1.0, weight_lr=0.01), objective=0.6)
    stopped = conductor.add_trial(alpha=0.5, weight_lr=0.02)
    conductor.run(stopped, TrialEnding.PRUNED, objective=0.9)
    conductor.run(conductor.add_trial(alpha=2.5, weight_lr=0.02), TrialEnding.ERROR, objective=math.nan, message="boom")
    conductor.start(conductor.add_trial(alpha=2.5, weight_lr=0.03))
    path = tmp_path / "study.db"
    result = sweep("export", conductor.sweep_id, "--format", "optuna", "--output", str(path))
    assert result.exit_code == 0, result.output
    storage = f"sqlite:///{path}"
    (name,) = optuna.get_all_study_names(storage)
    assert conductor.sweep_id in name
    assert name in result.stderr
    study = optuna.load_study(study_name=name, storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert study.best_params == {"alpha": 1.0, "weight_lr": 0.01}
    assert study.best_value == 0.6
    assert study.trials[1].intermediate_values == {100: 0.9}
    assert study.trials[1].value == 0.9, "Optuna's plots show an early-stopped trial by its last value"
    assert study.trials[1].distributions["weight_lr"] == optuna.distributions.FloatDistribution(1e-4, 0.1, log=True)
    assert study.trials[2].user_attrs["message"] == "boom"
    assert study.trials[0].duration is not None


def test_several_objectives_and_baselines_are_studies_of_their_own(
    sweep: Sweep, service: Service, tmp_path: Path
) -> None:
    conductor = run_front(service.store, service.submit(objectives=BOTH)["id"])
    path = tmp_path / "study.db"
    result = sweep("export", conductor.sweep_id, "--format", "optuna", "--output", str(path))
    assert result.exit_code == 0, result.output
    storage = f"sqlite:///{path}"
    search, baseline = optuna.get_all_study_names(storage)
    assert baseline.endswith("baseline equal)")
    study = optuna.load_study(study_name=search, storage=storage)
    assert sorted(trial.user_attrs["number"] for trial in study.best_trials) == [1, 3]


def test_an_export_for_optuna_needs_a_file(sweep: Sweep, finished: str) -> None:
    result = sweep("export", finished, "--format", "optuna")
    assert result.exit_code == 2
    assert "--output" in result.stderr


def test_what_changes_a_sweep_can_say_it_in_json(sweep: Sweep, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(dict(SPEC)))
    submitted = json.loads(sweep("submit", str(path), "--json").stdout)
    assert submitted["state"] == "queued"
    cancelled = json.loads(sweep("cancel", submitted["id"], "--json").stdout)
    assert (cancelled["id"], cancelled["state"]) == (submitted["id"], "cancelled")
    assert json.loads(sweep("delete", submitted["id"], "--yes", "--json").stdout)["id"] == submitted["id"]
    both = sweep("submit", str(path), "--json", "--watch")
    assert both.exit_code == 2


def completions(words: str, url: str) -> list[str]:
    """What bash would offer after those words."""
    asked = {"_SWEEP_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    script = "import sys; from sweep_service.cli import main; sys.argv = ['sweep']; main()"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, **asked, "SWEEP_URL": url}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_sweeps_and_trainables(service: Service, finished: str) -> None:
    assert "export" in completions("sweep ex", service.url)
    assert finished in completions(f"sweep show {finished[:-2]}", service.url)
    assert "toy" in completions("sweep init t", service.url)
    assert completions("sweep list --state comp", service.url) == ["completed"]


def test_a_service_that_is_away_completes_nothing_and_says_nothing() -> None:
    assert completions("sweep show swp_", "http://127.0.0.1:9") == []
