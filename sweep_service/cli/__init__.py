"""The ``sweep`` command. What is heavy (httpx, rich's tables, the launcher) is imported where it is needed."""

from __future__ import annotations

import typer

from sweep_service.cli import control, exporting, keys, logs, looking, predict, stack, submitting

EXIT_CODES = (
    "Exit codes: 0 the sweep completed or was stopped, or the command did its work; 1 it failed or was cancelled, or "
    "the service refused; 2 wrong usage, an invalid spec or no valid key; 3 the service cannot be reached; 130 "
    "interrupted."
)

app = typer.Typer(
    name="sweep",
    help="Sweeps of multi-task networks trained with GradNorm.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for part in (stack, submitting, looking, logs, control, exporting, predict):
    app.add_typer(part.commands)  # without a name of its own: its commands are the program's
app.add_typer(keys.commands, name="keys")


def main() -> None:
    """The entry point."""
    app()
