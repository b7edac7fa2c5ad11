"""How figures look: one template, one kind of labels and of axes for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from sweep_service.report.palette import CIVIDIS, COLOURS
from sweep_service.report.series import LINEAR_UP_TO, log_ticks, spans_decades

SYMBOLS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star")
DASHES = ("solid", "dash", "dashdot", "dot")
GREY = "#6b7280"
PALE = "#d7dbe0"
BAND = "rgba(0, 158, 115, 0.13)"

_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_LONGEST = 40  # characters of a label; hovering shows all of it

_AXIS: dict[str, Any] = {
    "gridcolor": "#eceef1",
    "linecolor": "#9aa1ab",
    "showline": True,
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#9aa1ab",
    "ticklen": 4,
    "automargin": True,
    "exponentformat": "power",
    "minexponent": 4,
    "title": {"standoff": 8, "font": {"size": 13}},
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": _FONT, "size": 13, "color": "#1f2933"},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": COLOURS,
        "margin": {"l": 70, "r": 20, "t": 20, "b": 30},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": "white", "bordercolor": "#9aa1ab", "font": {"size": 12}, "align": "left"},
        "legend": {"font": {"size": 12}, "title": {"font": {"size": 12}}},
    }
)


def figure(*, height: int, **layout: Any) -> go.Figure:
    """An empty figure of that height in pixels; it is as wide as its page."""
    return go.Figure(layout={"template": TEMPLATE, "height": height, "showlegend": True, **layout})


def label(text: object, *, longest: int = _LONGEST) -> str:
    """Text from outside for a figure, which would take tags in it for mark-up; a long one is cut."""
    return escaped(shortened(text, longest=longest))


def escaped(text: object) -> str:
    """Text from outside for a figure: as it is, on one line."""
    line = "".join(char if char.isprintable() else " " for char in str(text))
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def shortened(text: object, *, longest: int = _LONGEST) -> str:
    """The text, or its beginning with an ellipsis."""
    whole = str(text)
    return whole if len(whole) <= longest else whole[: longest - 1] + "…"


def line_style(index: int) -> dict[str, Any]:
    """The line of the curve of that index: a colour, and another dash when the colours are used up."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "dash": DASHES[index // len(COLOURS) % len(DASHES)],
        "width": 2,
    }


def colour_scale(direction: str) -> list[str]:
    """Dark is good."""
    return list(CIVIDIS if direction == "minimize" else reversed(CIVIDIS))


def value_axis(
    title: str, values: Sequence[float], *, from_zero: bool = False, log_beyond: float = LINEAR_UP_TO
) -> dict[str, Any]:
    """An axis for these values: logarithmic where the largest is more than so many times the smallest."""
    axis: dict[str, Any] = {"title": {"text": label(title, longest=60)}}
    if not spans_decades(values, beyond=log_beyond):
        return axis | {"rangemode": "tozero" if from_zero else "normal"}
    known = [value for value in values if not math.isnan(value)]
    low, high = min(known), max(known)
    room = 0.04 * math.log10(high / low)
    ticks = log_ticks(low, high)
    # Plotly would write 2 and 5 between the powers, and these larger than other numbers.
    return axis | {
        "type": "log",
        "range": [math.log10(low) - room, math.log10(high) + room],
        "tickvals": ticks,
        "ticktext": [f"{tick:.4g}" for tick in ticks],
    }


def named_axis(names: Sequence[str]) -> dict[str, Any]:
    """An axis with a name at each whole number, the first on top. No axis of categories: two long names may be cut to
    the same one.
    """
    return {
        "tickvals": list(range(len(names))),
        "ticktext": [label(name, longest=44) for name in names],
        "range": [len(names) - 0.4, -0.6],
        "ticks": "",
    }
