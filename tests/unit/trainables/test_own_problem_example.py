"""The example of docs/own-problem.md, installed and trained as a reader would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "own_problem"

TRAIN = """
import json, sys
from trainables.catalog import load_catalog, load_problem
catalog = load_catalog()
light = "torch" not in sys.modules
from trainables.protocol import Lane
from trainables.training import train
import torch, wine_problem
torch.set_num_threads(1)
reports = []
lane = Lane(key="a", balancer="gradnorm", params={"steps": 200, "batch_size": 32, "lr": 0.003, "weight_lr": 0.1})
train(load_problem("wine", {"width": 16}), [lane], lambda new: reports.extend(new) or ())
last = reports[-1]
print(json.dumps({"light": light, "at": wine_problem.__file__, "ending": last.ending, "metrics": last.metrics,
                  "promised": catalog["wine"].metrics, "message": last.message}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the example in it as pip puts it there, from a copy: a build leaves files beside its sources."""
    source = tmp_path_factory.mktemp("source") / "own_problem"
    target = tmp_path_factory.mktemp("installed")
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return target


def test_the_example_is_found_by_its_entry_point_and_trains(installed):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(installed), str(ROOT)))}
    found = subprocess.run(
        [sys.executable, "-c", TRAIN], capture_output=True, text=True, env=environment, cwd=installed
    )
    assert found.returncode == 0, found.stderr
    answer = json.loads(found.stdout)
    assert answer["light"], "describing the problem imports torch"
    assert Path(answer["at"]).parent == installed
    assert answer["ending"] == "completed", answer["message"]
    assert {key for key in answer["metrics"] if key.startswith("val/")} == set(answer["promised"])
    assert answer["metrics"]["val/normalized_loss"] < 0.8
    assert answer["metrics"]["weight/proline"] < 0.1


def test_the_example_is_as_short_as_the_page_says_and_is_what_the_page_shows():
    source = (EXAMPLE / "wine_problem.py").read_text()
    assert len([line for line in source.splitlines() if line.strip()]) <= 40
    page = (ROOT / "docs" / "own-problem.md").read_text()
    for block in page.split("```python\n")[1:2]:
        assert block.partition("```")[0] in source
    entry_point = page.partition("```toml\n")[2].partition("```")[0]
    assert entry_point in (EXAMPLE / "pyproject.toml").read_text()
