"""The page: sections put together into one file of HTML that loads nothing and sends nothing.

Names, labels and messages come from users. In the mark-up they are escaped (:func:`section.text`), in figures too
(:func:`theme.escaped`); the figures' JSON cannot end its script element; and a policy in the page lets the browser run
the two scripts that are named by their digests, and no other.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import TypeAlias

from sweep_service.domain.trial import Report, Sweep, Trial
from sweep_service.report import comparison, front, methods, search, tables, training
from sweep_service.report.material import Material
from sweep_service.report.section import Drawing, Part, Section, text

SectionOf: TypeAlias = Callable[[Material], Section | None]

SECTIONS: Sequence[SectionOf] = (
    tables.overview,
    comparison.verdict,
    methods.methods,
    comparison.beside_baselines,
    tables.leaderboard,
    front.pareto_front,
    training.weights,
    training.losses,
    training.rates,
    search.landscape,
    search.parallel,
    search.importance,
    search.history,
    tables.faults,
    tables.spec,
)
"""In the order of the page. One that has nothing to show gives None."""


def render_report(
    sweep: Sweep,
    trials: Sequence[Trial],
    curves: Mapping[str, Sequence[Report]],
    *,
    made_at: datetime | None = None,
) -> str:
    """The whole page. ``sweep.results`` are those of its end, or as they stand; ``curves`` has the reports of the best
    trial of each method, by the trial's id; ``made_at`` is told where given.
    """
    material = Material(sweep=sweep, trials=trials, curves=curves, made_at=made_at)
    return page(sweep.spec.name, [section for make in SECTIONS if (section := make(material)) is not None])


def page(title: str, sections: Sequence[Section]) -> str:
    """The sections as a page of that title."""
    drawings = [part for section in sections for part in section.parts if isinstance(part, Drawing)]
    numbers = iter(range(len(drawings)))
    body = "\n".join(_section(section, numbers) for section in sections)
    contents = "".join(f'<li><a href="#{section.anchor}">{text(section.title)}</a></li>' for section in sections)
    plotly, draw = _script("plotly.min.js"), _script("draw.js")
    figures = json.dumps([json.loads(drawing.figure.to_json() or "{}") for drawing in drawings], separators=(",", ":"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(plotly, draw)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>
{_resource("page.css")}</style>
</head>
<body>
<header><h1>{text(title)}</h1></header>
<nav><ul>{contents}</ul></nav>
<main>
{body}
</main>
<noscript><p class="note">The figures need JavaScript; it is in this page and loads nothing.</p></noscript>
<script type="application/json" id="figures">{_in_script(figures)}</script>
<script>{plotly}</script>
<script>{draw}</script>
</body>
</html>
"""


def _section(section: Section, numbers: Iterable[int]) -> str:
    parts = "\n".join(_part(part, numbers) for part in section.parts)
    return (
        f'<section id="{section.anchor}">\n<h2>{text(section.title)}</h2>\n'
        f'<p class="explanation">{text(section.explanation)}</p>\n{parts}\n</section>'
    )


def _part(part: Part, numbers: Iterable[int]) -> str:
    if not isinstance(part, Drawing):
        return part
    caption = f"<figcaption>{text(part.caption)}</figcaption>" if part.caption else ""
    height = int(part.figure.layout.height)
    return f'<figure>{caption}<div id="figure-{next(iter(numbers))}" style="height:{height}px"></div></figure>'


def _policy(*scripts: str) -> str:
    """Nothing is loaded or sent, and these scripts alone run. plotly.js draws parallel coordinates by code that it
    makes at run time (``unsafe-eval``), and writes styles.
    """
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    rules = (
        "default-src 'none'",
        f"script-src 'unsafe-eval' {digests}",
        "style-src 'unsafe-inline'",
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return "; ".join(rules)


@cache
def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _script(name: str) -> str:
    """A script as it stands in the page. A browser reads no carriage return from there, and would miss it in the
    digest.
    """
    package = "plotly.package_data" if name.startswith("plotly") else __package__
    source = files(package or "").joinpath(name).read_text(encoding="utf-8")
    return source.replace("\r\n", "\n").replace("\r", "\n")


def _resource(name: str) -> str:
    return files(__package__ or "").joinpath(name).read_text(encoding="utf-8")


def _in_script(document: str) -> str:
    """JSON that no browser takes for mark-up: neither the end of its element nor a comment begins in it."""
    return document.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")
