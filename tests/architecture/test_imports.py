"""The rule of imports, as written down in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_import_contracts_are_kept() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contracts_name_all_that_the_api_must_not_reach() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    strict = [c for c in contracts if c.get("source_modules") == ["api"] and not c.get("allow_indirect_imports")]
    assert [set(contract["forbidden_modules"]) for contract in strict] == [{"ray", "torch", "optuna", "mlflow"}]
