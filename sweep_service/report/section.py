"""What a report consists of: sections, each a title, a sentence for newcomers, and figures and pieces of HTML."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import plotly.graph_objects as go

from sweep_service.report.material import is_finite


class Html(str):
    """Mark-up that is safe to put into the page: whatever came from outside has been escaped."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A figure with what it shows, in words."""

    figure: go.Figure
    caption: str = ""  # plain text


Part: TypeAlias = Drawing | Html


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page; ``anchor`` is its name in addresses."""

    anchor: str
    title: str
    explanation: str  # plain text, for somebody who sees such a figure for the first time
    parts: Sequence[Part]


def text(value: object) -> Html:
    """Text from outside, as it is."""
    return Html(html.escape(str(value)))


def joined(pieces: Iterable[str]) -> Html:
    """Pieces of safe mark-up, one after the other."""
    return Html("".join(pieces))


def number(value: object, *, sign: bool = False) -> str:
    """Four significant digits; a dash for what is no number."""
    if not is_finite(value):
        return "–"
    if isinstance(value, int) and not sign:
        return str(value)
    return (f"{value:+.4g}" if sign else f"{value:.4g}").replace("-", "−")


def aligned(value: object) -> str:
    """Four significant digits with their zeros, for a column of numbers."""
    return f"{value:#.4g}".replace("-", "−") if isinstance(value, float) and is_finite(value) else number(value)


def shown(value: object) -> str:
    """A parameter's value, as people write it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return number(value)
    return str(value)


def parameters(values: Mapping[str, Any]) -> str:
    """``alpha = 1.2, weight_lr = 0.03``."""
    return ", ".join(f"{name} = {shown(value)}" for name, value in values.items()) or "–"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], *, numeric: Iterable[int] = ()) -> Html:
    """A table of texts; cells that are :class:`Html` already go in as they are. ``numeric`` columns line up right. A
    row that is :class:`Emphasis` stands out.
    """
    right = set(numeric)
    lines = [_line("th", header, right)]
    lines += [_line("td", row, right, emphasis=isinstance(row, Emphasis)) for row in rows]
    return joined(['<div class="scroll"><table>', *lines, "</table></div>"])


class Emphasis(tuple[object, ...]):
    """A row of a table that stands out."""

    __slots__ = ()


def _line(tag: str, cells: Sequence[object], right: set[int], *, emphasis: bool = False) -> str:
    opened = [f'<{tag} class="number">' if index in right else f"<{tag}>" for index in range(len(cells))]
    filled = [cell if isinstance(cell, Html) else text(cell) for cell in cells]
    line = "".join(f"{before}{cell}</{tag}>" for before, cell in zip(opened, filled, strict=True))
    return f'<tr class="emphasis">{line}</tr>' if emphasis else f"<tr>{line}</tr>"
