"""The sweep command without a service: usage, options, speed."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sweep_service.cli import app


@pytest.mark.parametrize(
    "command", ["up", "demo", "submit", "list", "show", "watch", "pause", "resume", "stop", "cancel", "predict"]
)
def test_every_command_explains_itself(command: str) -> None:
    assert command in CliRunner().invoke(app, ["--help"]).stdout
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["submitt"],
        ["submit"],
        ["show"],
        ["list", "--limit", "0"],
        ["up", "--port", "70000"],
        ["up", "--cpus", "0"],
        ["x", "y"],
    ],
)
def test_wrong_usage_exits_with_two(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_the_options_of_the_stack_are_offered() -> None:
    text = CliRunner().invoke(app, ["up", "--help"], env={"COLUMNS": "200"}).stdout
    for option in ("--home", "--port", "--mlflow-port", "--cpus", "--gpus"):
        assert option in text


def test_loading_the_command_loads_nothing_heavy() -> None:
    code = "import sys; import sweep_service.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    assert not modules & {"ray", "torch", "optuna", "mlflow", "httpx", "yaml", "sqlalchemy", "fastapi", "pydantic"}
