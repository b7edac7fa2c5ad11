"""`sweep predict` over a real MLflow of one file, with nothing running."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

from sweep_service.checkpoint_files.folder import FolderFiles
from sweep_service.cli import app
from sweep_service.domain.ids import IdPrefix, new_id
from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepState, TrialState
from sweep_service.domain.trial import Role, Sweep, Trial
from sweep_service.settings import Settings
from sweep_service.tracking.mlflow_tracker import MlflowTracker
from sweep_service.tracking.models import save_model_folder
from trainables.catalog import load_problem
from trainables.checkpoint import Checkpoint
from trainables.export import export_model
from trainables.prediction import PredictionError, Predictor, encoding_hash
from trainables.problems.table_file import DATA_ROOTS
from trainables.problems.tabular import split_rows
from trainables.protocol import Lane, LaneReport, Problem
from trainables.training import train

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TASKS = {"churned": {"kind": "binary", "positive": "yes"}, "plan": {"kind": "multiclass"}, "visits": {"kind": "count"}}
PARAMS: dict[str, Any] = {"data": "t.csv", "tasks": TASKS, "drop": ["customer"], "hidden": [8], "steps": 4}
COLUMNS = ["churned", "churned.p", "plan", "plan.p.basic", "plan.p.pro", "visits"]


def customers() -> pd.DataFrame:
    draw = np.random.default_rng(3)
    age = draw.integers(18, 90, 80)
    return pd.DataFrame(
        {
            "customer": [f"{number:03}" for number in range(80)],
            "age": age,
            "city": draw.choice(["Bonn", "Ulm"], 80),
            "churned": np.where(age > 50, "yes", "no"),
            "plan": np.where(age > 40, "pro", "basic"),
            "visits": draw.poisson(3, 80),
        }
    )


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What two sweeps have left behind: a table's model, registered, and one of digits."""

    home: Path
    sweep: Sweep
    digits: Sweep
    problem: Problem
    checkpoint: Checkpoint


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    customers().to_csv(data / "t.csv", index=False)
    settings = Settings(home=home)
    tracker = MlflowTracker(settings.tracking_uri, files=FolderFiles(), artifact_location=settings.artifact_location)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_ROOTS, str(data))
        sweep, checkpoint, problem = logged(tracker, "tabular", PARAMS, data, number=1)
        ref, trial = tracker.open_sweep(sweep), trial_of(sweep, PARAMS)
        assert tracker.register_model(ref, sweep, trial, "customers") == "1"
        digits, _, _ = logged(tracker, "digits", {"hidden": [8], "steps": 2}, data, number=2)
    return Stored(home=home, sweep=sweep, digits=digits, problem=problem, checkpoint=checkpoint)


def logged(
    tracker: MlflowTracker, trainable: str, params: dict[str, Any], folder: Path, *, number: int
) -> tuple[Sweep, Checkpoint, Problem]:
    """A sweep whose model is in MLflow, trained for a few steps."""
    spec = SweepSpec.model_validate(
        {
            "name": trainable,
            "trainable": trainable,
            "params": params,
            "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
            "budget": {"trials": 1},
        }
    )
    sweep = Sweep(
        id=new_id(IdPrefix.SWEEP, now=NOW.replace(day=number)),
        project="default",
        created_by="ann",
        spec=spec,
        state=SweepState.RUNNING,
        created_at=NOW,
        updated_at=NOW,
    )
    problem, reports = load_problem(trainable, params), list[LaneReport]()
    train(problem, [Lane(key="a", balancer="gradnorm", params=params)], lambda new: reports.extend(new) or ())
    checkpoint = reports[-1].checkpoint
    assert checkpoint is not None
    checkpoint.save(folder / f"{trainable}.pt")
    trial = replace(trial_of(sweep, params), provenance={"encoding_hash": encoding_hash(problem)})
    tracker.log_model(tracker.open_sweep(sweep), sweep, trial, str(folder / f"{trainable}.pt"))
    return sweep, checkpoint, problem


def trial_of(sweep: Sweep, params: dict[str, Any]) -> Trial:
    return Trial(
        id=f"trl_of_{sweep.id}",
        sweep_id=sweep.id,
        number=0,
        role=Role.SEARCH,
        balancer="gradnorm",
        params=params,
        searched={},
        seed=0,
        state=TrialState.COMPLETED,
        created_at=NOW,
    )


@pytest.fixture
def predict(stored: Stored) -> Callable[..., Result]:
    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(app, ["predict", *arguments, "--home", str(stored.home)], **options)

    return run


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """The file that it was trained on."""
    customers().to_csv(tmp_path / "rows.csv", index=False)
    return str(tmp_path / "rows.csv")


def answers_of(result: Result) -> pd.DataFrame:
    assert result.exit_code == 0, result.output
    return pd.read_csv(io.StringIO(result.stdout), dtype={"customer": str})


def test_every_way_to_call_a_model_gives_its_answers(predict, stored: Stored, rows: str) -> None:
    first = answers_of(predict("customers", rows))
    assert list(first.columns) == COLUMNS
    assert len(first) == 80
    for name in ("customers@champion", "customers/1", stored.sweep.id, stored.sweep.id[:16].lower()):
        assert answers_of(predict(name, rows)).equals(first), name


def test_the_answers_are_the_networks_outputs_of_the_test_rows(predict, stored: Stored, tmp_path: Path) -> None:
    test = customers().loc[split_rows(80)[2].tolist()]
    test[["city", "age"]].to_csv(tmp_path / "test.csv", index=False)
    result = predict("customers", str(tmp_path / "test.csv"))
    answers = pd.read_csv(io.StringIO(result.stdout), dtype="float32", usecols=["visits"])
    outputs = export_model(stored.checkpoint, stored.problem)(*stored.problem.test.inputs)
    assert answers["visits"].tolist() == outputs["visits"].exp().tolist()
    labels = pd.read_csv(io.StringIO(result.stdout))
    assert labels["churned"].tolist() == ["yes" if logit > 0 else "no" for logit in outputs["churned"].tolist()]
    assert labels["plan"].tolist() == [("basic", "pro")[k] for k in outputs["plan"].argmax(dim=1).tolist()]


def test_rows_come_in_through_standard_input_and_keep_their_columns(predict, rows: str, tmp_path: Path) -> None:
    text = Path(rows).read_text()
    result = predict("customers", "-", "--keep", "customer", "--keep", "age", "-o", str(tmp_path / "o.csv"), input=text)
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    written = (tmp_path / "o.csv").read_text().splitlines()
    assert written[0] == ",".join(["customer", "age", *COLUMNS])
    assert [line.split(",")[:2] for line in written[1:]] == [line.split(",")[:2] for line in text.splitlines()[1:]]


def test_a_parquet_file_gets_the_answers_of_the_csv(predict, rows: str, tmp_path: Path) -> None:
    customers().to_parquet(tmp_path / "rows.parquet")
    parquet = predict("customers", str(tmp_path / "rows.parquet"), "--keep", "customer")
    assert answers_of(parquet).equals(answers_of(predict("customers", rows, "--keep", "customer")))


def test_a_model_that_is_not_there_is_told_with_those_that_are(predict, stored: Stored, rows: str) -> None:
    for called, said in {
        "customer": "no registered model 'customer'; there are: customers",
        "customers@best": "has no alias 'best'; it has the versions 1 and the aliases champion (version 1)",
        "customers/7": "has no version 7; it has the versions 1",
        "customers/": "'customers/' is no model: give NAME",
        "swp_7ZZZ": "'swp_7ZZZ' is no sweep's id here",
        "swp_0": "is the beginning of 2 sweeps' ids; give more of it",
        stored.digits.id: "cannot be asked: the problem 'digits' cannot predict from a table",
    }.items():
        result = predict(called, rows)
        assert (result.exit_code, result.stdout) == (2, ""), called
        assert said in result.stderr


def test_a_file_that_does_not_fit_is_told_with_its_column_and_row(predict, rows: str, tmp_path: Path) -> None:
    table, wrong = customers(), tmp_path / "wrong.csv"

    def refusal(*arguments: str) -> str:
        result = predict("customers", *(arguments or (str(wrong),)))
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        return result.stderr

    table.drop(columns=["age", "city"]).to_csv(wrong, index=False)
    assert "wrong.csv: no columns 'city', 'age'" in refusal()
    table.assign(age=["old"] * 80).to_csv(wrong, index=False)
    assert "wrong.csv: row 1: age is 'old', not a number." in refusal()
    wrong.write_text('age,city\n1,"Bonn\n')
    assert "wrong.csv: " in refusal()
    wrong.write_bytes(b"age,city\n1,\xff\xfe\n")
    assert "wrong.csv: " in refusal()
    assert "must end in .csv, .csv.gz, .parquet" in refusal("rows.xlsx")
    assert "cannot be read" in refusal(str(tmp_path / "nowhere.csv"))
    assert "--keep customr: there is no such column; did you mean 'customer'" in refusal(rows, "--keep", "customr")
    assert "--keep churned: the answers have a column of that name" in refusal(rows, "--keep", "churned")
    assert "is the file that is read" in refusal(rows, "-o", rows)
    assert "cannot be written" in refusal(rows, "-o", str(tmp_path))


def test_a_home_without_a_database_and_a_server_that_is_down_differ(rows: str, tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["predict", "customers", rows, "--home", str(tmp_path / "nothing")])
    assert run.exit_code == 2
    assert "There is no MLflow database" in run.stderr
    assert not (tmp_path / "nothing").exists()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # nobody listens on it while it is bound
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
        run = CliRunner().invoke(app, ["predict", "customers", rows, "--tracking-uri", uri])
    assert run.exit_code == 3
    assert f"MLflow at {uri}" in run.stderr


def test_the_encoding_of_data_that_has_changed_since_is_not_stored(tmp_path: Path, stored: Stored, monkeypatch) -> None:
    monkeypatch.setenv(DATA_ROOTS, str(tmp_path))
    customers().assign(age=lambda table: table["age"] + 1).to_csv(tmp_path / "t.csv", index=False)
    problem = load_problem("tabular", PARAMS)
    assert problem.data_hash == stored.problem.data_hash  # everybody is a year older: standardised, that is the same
    trial = replace(trial_of(stored.sweep, PARAMS), provenance={"encoding_hash": encoding_hash(stored.problem)})
    save_model_folder(tmp_path / "model", stored.sweep, trial, stored.checkpoint)
    with pytest.raises(PredictionError, match="the data had changed between its training and the end of its sweep"):
        Predictor.load(tmp_path / "model")
