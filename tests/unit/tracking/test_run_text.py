"""What a person reads of a sweep in its run: the text, the CSV, the figure."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sweep_service.domain.spec import SweepSpec
from sweep_service.domain.states import SweepState
from sweep_service.domain.trial import Report, Sweep
from sweep_service.tracking.files import write_results
from sweep_service.tracking.plots import save_weight_curves
from sweep_service.tracking.summary import describe_sweep, front_csv, leaderboard_csv, methods_csv

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def make_row(rank: int, **changes: Any) -> dict[str, Any]:
    return {
        "rank": rank,
        "label": "gradnorm",
        "role": "search",
        "trial_id": f"trl_{rank}",
        "number": 100 + rank,
        "objective": rank / 8,
        "params": {"alpha": rank / 4},
        "tasks": {"income": {"loss": 0.25, "auc": 0.9}},
        "delta_m": None,
    } | changes


def make_sweep(results: dict[str, Any] | None, *, state: SweepState = SweepState.COMPLETED, **changes: Any) -> Sweep:
    spec = {
        "name": "census",
        "trainable": "census_income",
        "space": {"alpha": {"type": "float", "low": 0.0, "high": 3.0}},
        "budget": {"trials": 4},
    }
    return Sweep(
        id="swp_1",
        project="default",
        created_by="ann",
        spec=SweepSpec.model_validate(spec | changes),
        state=state,
        results=results,
        created_at=NOW,
        updated_at=NOW,
    )


def make_results(rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {"leaderboard": rows, "best": rows[0] if rows else None, "baselines": [], "verdict": None} | changes


def test_a_running_sweep_is_described_by_what_it_searches():
    text = describe_sweep(make_sweep(None, state=SweepState.RUNNING))
    assert text == "`swp_1` trains **census_income** for `val/normalized_loss` (minimize)."


def test_the_text_leads_with_the_verdict_and_what_it_covers():
    verdict = {"summary": "GradNorm lost to single_task.", "covers": "Seeds only."}
    text = describe_sweep(make_sweep(make_results([make_row(1)], verdict=verdict)))
    assert text.index("GradNorm lost to single\\_task.") < text.index("Seeds only.") < text.index("### Best: trial 101")


def test_the_best_parameters_are_a_table():
    text = describe_sweep(make_sweep(make_results([make_row(1, params={"alpha": 0.123456789, "lr": 0.001})])))
    assert "| parameter | value |\n| --- | --- |\n| alpha | 0.12346 |\n| lr | 0.001 |" in text


def test_the_table_shows_the_first_ten_and_the_best_of_each_baseline_wherever_it_stands():
    rows = [make_row(rank) for rank in range(1, 31)]
    rows[24] = make_row(25, label="equal", role="baseline", params={})
    text = describe_sweep(make_sweep(make_results(rows, baselines=[rows[24]])))
    shown = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ") and "gradnorm |" in line]
    assert shown == [f"| {rank}" for rank in range(1, 11)]
    assert "| 25 | 125 | equal | 3.125 | – | 0.25 |" in text
    assert "19 more in `leaderboard.csv`." in text


def test_a_name_with_a_bar_in_it_does_not_break_the_table():
    text = describe_sweep(make_sweep(make_results([make_row(1, tasks={"a|b": {"loss": 1.0}})])))
    assert r"a\|b loss" in text


def test_the_text_fits_a_tag_however_many_parameters_there_are():
    rows = [make_row(rank, params={f"parameter_{i}": 0.123456 for i in range(200)}) for rank in range(1, 11)]
    text = describe_sweep(make_sweep(make_results(rows)))
    assert len(text) <= 5000
    assert text.endswith("\n…")


def test_an_ended_sweep_without_a_completed_trial_says_so():
    assert "No trial was completed" in describe_sweep(make_sweep(make_results([])))


def test_a_message_longer_than_a_tag_is_cut_and_no_reason_to_fail() -> None:
    text = describe_sweep(replace(make_sweep(None, state=SweepState.FAILED), message="size mismatch " * 2000))
    assert len(text) <= 5000
    assert text.endswith("…")
    assert "size mismatch" in text


def test_the_csv_has_a_column_for_every_value_and_empty_cells_for_what_a_row_lacks():
    rows = [make_row(1, delta_m=-1.5), make_row(2, label="equal", params={}, tasks={"weeks, worked": {"loss": 9.0}})]
    first, second = csv.DictReader(io.StringIO(leaderboard_csv(rows)))
    assert first["params.alpha"] == "0.25"
    assert first["val/auc/income"] == "0.9"
    assert first["delta_m"] == "-1.5"
    assert first["val/loss/weeks, worked"] == ""
    assert (second["params.alpha"], second["delta_m"], second["val/loss/weeks, worked"]) == ("", "", "9.0")


def test_the_csv_of_nothing_is_a_header():
    assert leaderboard_csv([]) == "rank,label,role,trial_id,number,objective,delta_m\n"


def make_report(step: int, **metrics: float) -> Report:
    return Report(
        sweep_id="s",
        trial_id="t",
        attempt_id="a",
        step=step,
        metrics={key.replace("__", "/"): value for key, value in metrics.items()},
        objective=None,
        reported_at=NOW,
    )


@pytest.mark.parametrize("num_tasks", [1, 3, 40])
def test_the_weight_curves_become_a_png_however_many_tasks_there_are(tmp_path: Path, num_tasks: int):
    reports = [make_report(step, **{f"weight__t{i}": 1.0 + i for i in range(num_tasks)}) for step in (20, 10)]
    path = tmp_path / "weights.png"
    assert save_weight_curves(path, reports, title="Task weights")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_task_whose_name_looks_like_a_formula_is_drawn_too(tmp_path: Path):
    reports = [make_report(step, **{"weight__$x^{": 1.0, "weight__y$": 1.0}) for step in (1, 2)]
    assert save_weight_curves(tmp_path / "weights.png", reports, title="Task weights")


def test_without_weights_there_is_no_figure(tmp_path: Path):
    path = tmp_path / "weights.png"
    assert not save_weight_curves(path, [make_report(10, val__normalized_loss=0.5)], title="Task weights")
    assert not path.exists()


def run(script: str, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DO_NOT_TRACK"))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=kept | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_mlflow_sends_nothing_home_and_does_not_block_for_minutes():
    script = (
        "import sweep_service.tracking.mlflow_tracker, mlflow.environment_variables as v\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "print(is_telemetry_disabled(), v.MLFLOW_HTTP_REQUEST_MAX_RETRIES.get())"
    )
    assert run(script) == "True 1"
    assert run(script, MLFLOW_HTTP_REQUEST_MAX_RETRIES="4") == "True 4"


def test_everything_but_the_mlflow_tracker_does_without_mlflow_matplotlib_plotly_and_torch():
    script = (
        "import sys, sweep_service.tracking.null, sweep_service.tracking.files, sweep_service.services.results\n"
        "print(sorted({'mlflow', 'matplotlib', 'plotly', 'torch', 'scipy'} & set(sys.modules)))"
    )
    assert run(script) == "[]"


BOTH = [{"metric": "val/loss/income"}, {"metric": "val/auc/income", "direction": "maximize"}]


def front_row(number: int, **changes: Any) -> dict[str, Any]:
    return make_row(number, **changes) | {"values": {"val/loss/income": 0.5, "val/auc/income": 0.25}}


def test_several_objectives_are_named_and_their_front_is_shown_in_part() -> None:
    text = describe_sweep(make_sweep(None, state=SweepState.RUNNING, objectives=BOTH))
    assert text.endswith("for `val/loss/income` (minimize), `val/auc/income` (maximize).")
    front = [front_row(number) for number in range(1, 13)]
    text = describe_sweep(make_sweep(make_results(front, front=front), objectives=BOTH))
    number = front[0]["number"]
    assert "### Pareto front" in text
    assert "| trial | val/loss/income | val/auc/income | alpha |" in text
    assert f"| {number} | 0.5 | 0.25 | 0.25 |" in text
    assert "2 more in `front.csv`." in text


def test_the_csv_of_the_front_has_the_values_of_the_objectives_and_the_parameters() -> None:
    (row,) = csv.DictReader(io.StringIO(front_csv([front_row(1)])))
    assert (row["val/loss/income"], row["val/auc/income"], row["params.alpha"]) == ("0.5", "0.25", "0.25")
    assert front_csv([]) == "trial_id,number\n"


def test_only_a_sweep_of_several_objectives_has_a_file_for_its_front(tmp_path: Path) -> None:
    write_results(tmp_path, make_sweep(make_results([], front=None)), [], {})
    assert not (tmp_path / "front.csv").exists()
    write_results(tmp_path, make_sweep(make_results([], front=[front_row(1)])), [], {})
    assert (tmp_path / "front.csv").read_text().startswith("trial_id,number,val/loss/income,val/auc/income,")


def make_method(rank: int | None, balancer: str, **changes: Any) -> dict[str, Any]:
    row = make_row(rank or 9, params={"weight/income": 0.5}, label=balancer)
    return row | {"rank": rank, "balancer": balancer, "trials": 6, "parameters": 1, "confirmed": None} | changes


CONFIRMED = {"metric": "test/normalized_loss", "mean": 0.5, "std": 0.01, "seeds": 5, "diverged": 1, "values": [0.5]}


def test_the_methods_as_csv_have_a_row_each_also_those_without_a_trial() -> None:
    none = {"trial_id": None, "number": None, "objective": None, "params": {}, "trials": 5}
    rows = [make_method(1, "static", confirmed=CONFIRMED), make_method(None, "gradnorm", **none)]
    first, second = csv.DictReader(io.StringIO(methods_csv(rows)))
    assert (first["rank"], first["balancer"], first["trials"], first["parameters"]) == ("1", "static", "6", "1")
    assert (first["confirmed.mean"], first["confirmed.std"], first["confirmed.diverged"]) == ("0.5", "0.01", "1")
    assert first["params.weight/income"] == "0.5"
    assert (second["rank"], second["trial_id"], second["objective"], second["trials"]) == ("", "", "", "5")


def test_the_methods_are_in_the_text_and_a_file_and_old_results_have_none(tmp_path: Path) -> None:
    rows = [make_row(1), make_row(2)]
    methods = [make_method(1, "static", confirmed=CONFIRMED), make_method(2, "equal")]
    sweep = make_sweep(make_results(rows, methods=methods))
    text = describe_sweep(sweep)
    assert "| 1 | static | 6 | 1 | 0.125 | 0.5 | 0.01 | weight/income 0.5 |" in text
    write_results(tmp_path, sweep, (), {})
    assert (tmp_path / "methods.csv").read_text() == methods_csv(methods)
    old = make_sweep(make_results(rows))
    assert "### Methods" not in describe_sweep(old)
    (tmp_path / "old").mkdir()
    write_results(tmp_path / "old", old, (), {})
    assert {"leaderboard.csv"} <= {path.name for path in (tmp_path / "old").iterdir()}
    assert not (tmp_path / "old" / "methods.csv").exists()
