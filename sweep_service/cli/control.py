"""Change what runs, or forget it: ``stop``, ``cancel`` and ``delete``."""

from __future__ import annotations

from typing import Annotated

import typer

from sweep_service.cli.service import DEFAULT_URL, SURE_LENGTH, SweepId, Url, connected, resolve

commands = typer.Typer()


@commands.command()
def stop(sweep_id: SweepId, url: Url = DEFAULT_URL) -> None:
    """Let the running trials finish and start no new ones."""
    with connected(url) as client:
        sweep = client.stop(resolve(client, sweep_id, least=SURE_LENGTH))
    typer.echo(f"{sweep['id']} is {sweep['state']}.")


@commands.command()
def cancel(sweep_id: SweepId, url: Url = DEFAULT_URL) -> None:
    """Kill the running trials and start no new ones."""
    with connected(url) as client:
        sweep = client.cancel(resolve(client, sweep_id, least=SURE_LENGTH))
    typer.echo(f"{sweep['id']} is {sweep['state']}.")


@commands.command()
def delete(
    sweep_id: SweepId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Forget a sweep that has ended; its runs and its model in MLflow stay."""
    with connected(url) as client:
        found = resolve(client, sweep_id, least=SURE_LENGTH)
        if not yes:
            typer.confirm(f"Forget {found} with its trials, curves and events?", abort=True, err=True)
        client.delete(found)
    typer.echo(f"{found} is forgotten. Its runs in MLflow stay.")
