"""Rows as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def csv_text(rows: Sequence[Mapping[str, Any]], *, first: Sequence[str], last: Sequence[str] = ()) -> str:
    """A header and a line for each row.

    Between the ``first`` columns and the ``last`` ones all others come, as they are met; a row that lacks one has an
    empty cell there.
    """
    others = (name for row in rows for name in row if name not in last)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(
        text, fieldnames=list(dict.fromkeys([*first, *others, *last])), restval="", lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
