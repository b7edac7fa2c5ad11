"""The documentation's commands, run as they stand against a real stack."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stack_control import RunningStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = ["cli.md", "predict.md", "rest.md"]


def commands_of(page: str) -> list[str]:
    """The blocks that the page marks as shell commands."""
    return re.findall(r"^```sh\n(.*?)^```$", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works_in_its_order(page: str, stack: RunningStack, tmp_path: Path) -> None:
    blocks = commands_of(page)
    assert len(blocks) >= 5
    # -e within a pipe and within $(…) too: no command may fail unseen.
    script = "set -euo pipefail\nshopt -s inherit_errexit\n" + "\n".join(blocks)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {
        **os.environ,
        "SWEEP_URL": stack.api_url,
        "SWEEP_HOME": str(stack.home),
        "SWEEP_DATA_ROOTS": str(stack.tables),
        "PYTHONPATH": str(ROOT),
        "PATH": path,
        "COLUMNS": "200",
    }
    ran = subprocess.run(
        ["bash", "-x"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert ran.returncode == 0, f"{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}"


def test_every_page_that_has_commands_is_run() -> None:
    with_commands = {path.name for path in DOCS.glob("*.md") if commands_of(path.name)}
    assert with_commands == set(PAGES)
