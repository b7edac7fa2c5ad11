"""The ``sweep`` command. What is heavy (httpx, rich's tables, the launcher) is imported by the commands that need it.

Exit codes: 0 the sweep completed or was stopped, or the command did its work; 1 it failed or was cancelled, or the
service refused; 2 wrong usage or an invalid spec; 3 the service cannot be reached; 130 interrupted.
"""

from __future__ import annotations

import typer

from sweep_service.cli import control, looking, predict, stack, submitting

app = typer.Typer(
    name="sweep",
    help="Sweeps of multi-task networks trained with GradNorm.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for part in (stack, submitting, looking, control, predict):
    app.add_typer(part.commands)  # without a name of its own: its commands are the program's


def main() -> None:
    """The entry point."""
    app()
