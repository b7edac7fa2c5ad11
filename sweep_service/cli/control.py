"""Change what runs, or has run, or forget it: ``pause``, ``resume``, ``amend``, ``retry``, ``stop``, ``cancel`` and
``delete``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from sweep_service.cli.service import (
    DEFAULT_SERVER,
    SURE_LENGTH,
    USAGE,
    AsJson,
    Key,
    Server,
    SweepId,
    connected,
    fail,
    print_json,
    resolve,
)

commands = typer.Typer()


@commands.command()
def pause(sweep_id: SweepId, as_json: AsJson = False, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """Start no new trials; the running ones rest at their next report."""
    with connected(server, key) as client:
        sweep = client.pause(resolve(client, sweep_id, least=SURE_LENGTH))
    _tell(sweep, as_json=as_json)


@commands.command()
def resume(sweep_id: SweepId, as_json: AsJson = False, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """Go on with a paused sweep."""
    with connected(server, key) as client:
        sweep = client.resume(resolve(client, sweep_id, least=SURE_LENGTH))
    _tell(sweep, as_json=as_json)


@commands.command()
def amend(
    sweep_id: SweepId,
    changes: Annotated[
        list[str],
        typer.Argument(
            metavar="FIELD=VALUE...",
            help="What to change of budget, resources.parallel, early_stopping and priority, such as budget.trials=64; "
            "null removes a field.",
        ),
    ],
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Change a sweep's budget, parallel packs, early stopping or priority; one that has ended goes on."""
    patch = _patch_of(changes)
    with connected(server, key) as client:
        sweep = client.amend(resolve(client, sweep_id, least=SURE_LENGTH), patch)
    _tell(sweep, as_json=as_json)


@commands.command()
def retry(sweep_id: SweepId, as_json: AsJson = False, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """Try the failed trials again; a sweep that has ended goes on."""
    with connected(server, key) as client:
        found = resolve(client, sweep_id, least=SURE_LENGTH)
        revision = client.get(found).get("revision")
        sweep = client.retry(found)
    if not as_json and sweep.get("revision") == revision:
        typer.echo(f"No trial of {found} has failed.", err=True)
    _tell(sweep, as_json=as_json)


@commands.command()
def stop(sweep_id: SweepId, as_json: AsJson = False, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """Let the running trials finish and start no new ones."""
    with connected(server, key) as client:
        sweep = client.stop(resolve(client, sweep_id, least=SURE_LENGTH))
    _tell(sweep, as_json=as_json)


@commands.command()
def cancel(sweep_id: SweepId, as_json: AsJson = False, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """Kill the running trials and start no new ones."""
    with connected(server, key) as client:
        sweep = client.cancel(resolve(client, sweep_id, least=SURE_LENGTH))
    _tell(sweep, as_json=as_json)


@commands.command()
def delete(
    sweep_id: SweepId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Forget a sweep that has ended; its runs and its model in MLflow stay."""
    with connected(server, key) as client:
        found = resolve(client, sweep_id, least=SURE_LENGTH)
        if not yes:
            typer.confirm(f"Forget {found} with its trials, curves and events?", abort=True, err=True)
        sweep = client.get(found) if as_json else {}
        client.delete(found)
    if as_json:
        print_json(sweep)  # as it was
    else:
        typer.echo(f"{found} is forgotten. Its runs in MLflow stay.")


def _patch_of(changes: Sequence[str]) -> dict[str, Any]:
    """The JSON merge patch that the command line says, as in a spec's file: ``budget.wall_time=2h``."""
    from sweep_service.spec_file import SpecFileError, read_value

    patch: dict[str, Any] = {}
    for change in changes:
        path, equals, text = change.partition("=")
        names = path.split(".")
        if not equals or not all(names):
            fail(f"{change!r} is no change; write FIELD=VALUE, such as budget.trials=64.", USAGE)
        try:
            value = read_value(text)
        except SpecFileError as error:
            fail(f"{change!r}: {error}", USAGE)
        place = patch
        for name in names[:-1]:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                fail(f"{change!r} is inside of what another change sets as a whole.", USAGE)
        if names[-1] in place:
            fail(f"{path} is given twice; give it once.", USAGE)
        place[names[-1]] = value
    return patch


def _tell(sweep: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(sweep)
    else:
        typer.echo(f"{sweep['id']} is {sweep['state']}.")
