"""How a command ends that cannot do its work: a sentence, and a code that a script can tell from others."""

from __future__ import annotations

from typing import NoReturn

import typer

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130


def fail(message: str, code: int) -> NoReturn:
    """Say what is wrong and end the command."""
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(code)
