"""The page that describes the spec is the one that the code makes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[3] / "docs"


def test_the_reference_of_the_spec_is_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, DOCS / "make_spec_reference.py"],
        capture_output=True,
        text=True,
        check=True,
        cwd=DOCS.parent,
        env={"PYTHONPATH": str(DOCS.parent)},
    )
    assert (DOCS / "spec.md").read_text() == made.stdout, "make docs writes it anew"
