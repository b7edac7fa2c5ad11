"""Shows a sweep while it runs: a live view on a terminal, a line per change where nobody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live

from sweep_service.rendering import live_view, progress_line

_WIDTH_OF_A_PIPE = 160  # a file or a pipe has no width; tables must not be squeezed into eighty columns


def console_for_output() -> Console:
    """The console of standard output."""
    console = Console(soft_wrap=False)
    return console if console.is_terminal else Console(width=max(console.width, _WIDTH_OF_A_PIPE))


@contextmanager
def shown_updates(console: Console) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What shows a sweep each time that it has been looked at."""
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            yield lambda sweep: live.update(live_view(sweep), refresh=True)
        return
    last = ""

    def print_change(sweep: Mapping[str, Any]) -> None:
        nonlocal last
        line = progress_line(sweep)
        if line != last:
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        last = line

    yield print_change
