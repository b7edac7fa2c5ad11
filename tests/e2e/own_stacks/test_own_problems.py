"""What a user brings along: a package with a problem, and a table. Both are swept over HTTP by a stack of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from stack_control import START_SECONDS, await_that, end_process, read

from sweep_service.client import SweepClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example package as pip installs it, from a copy."""
    source, target = tmp_path_factory.mktemp("source") / "own", tmp_path_factory.mktemp("installed")
    shutil.copytree(DOCS / "examples" / "own_problem", source)
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(source)], check=True)
    return target


@pytest.fixture(scope="module")
def client(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SweepClient]:
    """Of a stack in whose environment the package is installed, and which may read one folder."""
    home, data = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("data")
    customers().to_csv(data / "customers.csv", index=False)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(installed), str(ROOT))),
        "SWEEP_DATA_ROOTS": str(data),
        "COLUMNS": "200",
    }
    options = ["--cpus", "2", "--port", "0", "--mlflow-port", "0", "--home", str(home)]
    argv = [sys.executable, "-m", "sweep_service.cli", "up", *options]
    out = home / "out.txt"
    with out.open("w") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file, env=environment, start_new_session=True)
    try:
        await_that(lambda: "Submit a sweep" in read(out), within_s=START_SECONDS, what=f"a stack; see {home}")
        url = re.findall(r"API\s+(http://\S+)", read(out))[0]
        with SweepClient(url, timeout=60) as client:
            yield client
    finally:
        left = end_process(process)
    assert not left, f"processes outlived the stack: {left}"


def customers() -> pd.DataFrame:
    """The table of docs/own-data.md."""
    draw, rows = np.random.default_rng(1), 600
    age, city = draw.integers(18, 90, rows), draw.choice(["Bonn", "Ulm"], rows)
    score = (age - 54) / 20 + (city == "Bonn")
    return pd.DataFrame(
        {
            "customer": 1001 + np.arange(rows),
            "age": np.where(draw.random(rows) < 0.05, np.nan, age),
            "city": city,
            "member": draw.random(rows) < 0.5,
            "churned": np.where(score + draw.normal(0, 0.5, rows) > 0.5, "yes", "no"),
            "visits": draw.poisson(np.exp(0.5 * score)),
            "yearly revenue": 40_000 + 20_000 * score + draw.normal(0, 5_000, rows),
            "plan": np.where(score < -0.5, "basic", np.where(score < 0.5, "plus", "pro")),
        }
    )


def ended(client: SweepClient, spec: dict[str, Any]) -> dict[str, Any]:
    return client.wait(client.submit(spec)["id"], timeout=300)


def test_the_problem_of_an_installed_package_is_swept(client: SweepClient) -> None:
    assert "wine" in {trainable["name"] for trainable in client.trainables()}
    spec = {
        "name": "wine",
        "trainable": "wine",
        "params": {"steps": 100, "batch_size": 32, "lr": 0.003},
        "space": {
            "alpha": {"type": "float", "low": 0, "high": 3},
            "width": {"type": "categorical", "choices": [16, 32]},
        },
        "budget": {"trials": 3},
        "baselines": ["equal"],
        "resources": {"parallel": 2},
    }
    sweep = ended(client, spec)
    assert (sweep["state"], sweep["reason"]) == ("completed", "budget_trials"), sweep


def test_a_table_is_swept_as_the_page_says(client: SweepClient) -> None:
    page = (DOCS / "own-data.md").read_text()
    spec = yaml.safe_load(page.partition("```yaml\n")[2].partition("```")[0])
    spec["params"]["steps"] = 100
    sweep = ended(client, {**spec, "budget": {"trials": 4}, "confirm": {"seeds": 2}, "resources": {"parallel": 2}})
    assert (sweep["state"], sweep["reason"]) == ("completed", "budget_trials"), sweep
    for trial in client.trials(sweep["id"]):
        assert trial["state"] == "completed", trial
        assert {f"val/loss/{task}" for task in spec["params"]["tasks"]} < set(trial["metrics"])


def test_a_table_outside_of_the_allowed_folders_ends_the_sweep_with_the_reason(client: SweepClient) -> None:
    spec = {
        "name": "outside",
        "trainable": "tabular",
        "params": {"data": "/etc/passwd", "tasks": {"x": {"kind": "count"}}, "steps": 10},
        "space": {"alpha": {"type": "float", "low": 0, "high": 3}},
        "budget": {"trials": 20},
        "retries": 0,
    }
    sweep = ended(client, spec)
    assert sweep["state"] == "failed", sweep
    assert "outside of SWEEP_DATA_ROOTS" in sweep["message"]
