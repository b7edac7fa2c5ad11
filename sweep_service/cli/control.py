"""Change what runs, or forget it: ``pause``, ``resume``, ``stop``, ``cancel`` and ``delete``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from sweep_service.cli.service import DEFAULT_URL, SURE_LENGTH, AsJson, SweepId, Url, connected, print_json, resolve

commands = typer.Typer()


@commands.command()
def pause(sweep_id: SweepId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Start no new trials; the running ones rest at their next report."""
    with connected(url) as client:
        sweep = client.pause(resolve(client, sweep_id, least=SURE_LENGTH))
    _tell(sweep, as_json=as_json)


@commands.command()
def resume(sweep_id: SweepId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Go on with a paused sweep."""
    with connected(url) as client:
        sweep = client.resume(resolve(client, sweep_id, least=SURE_LENGTH))
    _tell(sweep, as_json=as_json)


@commands.command()
def stop(sweep_id: SweepId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Let the running trials finish and start no new ones."""
    with connected(url) as client:
        sweep = client.stop(resolve(client, sweep_id, least=SURE_LENGTH))
    _tell(sweep, as_json=as_json)


@commands.command()
def cancel(sweep_id: SweepId, as_json: AsJson = False, url: Url = DEFAULT_URL) -> None:
    """Kill the running trials and start no new ones."""
    with connected(url) as client:
        sweep = client.cancel(resolve(client, sweep_id, least=SURE_LENGTH))
    _tell(sweep, as_json=as_json)


@commands.command()
def delete(
    sweep_id: SweepId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Forget a sweep that has ended; its runs and its model in MLflow stay."""
    with connected(url) as client:
        found = resolve(client, sweep_id, least=SURE_LENGTH)
        if not yes:
            typer.confirm(f"Forget {found} with its trials, curves and events?", abort=True, err=True)
        sweep = client.get(found) if as_json else {}
        client.delete(found)
    if as_json:
        print_json(sweep)  # as it was
    else:
        typer.echo(f"{found} is forgotten. Its runs in MLflow stay.")


def _tell(sweep: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(sweep)
    else:
        typer.echo(f"{sweep['id']} is {sweep['state']}.")
