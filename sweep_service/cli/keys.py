"""``sweep keys``: who may use a service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep_service.cli.completion import complete_key
from sweep_service.cli.service import (
    DEFAULT_SERVER,
    USAGE,
    AsJson,
    Key,
    Server,
    connected,
    fail,
    print_json,
    print_view,
)
from sweep_service.domain.keys import KeyRole

if TYPE_CHECKING:
    from rich.table import Table

    from sweep_service.client import SweepClient

commands = typer.Typer(help="Make, list and revoke the keys of a service. Needs an admin's.", no_args_is_help=True)


@commands.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for: a-z, 0-9, '.', '_' and '-'.")],
    role: Annotated[
        KeyRole,
        typer.Option(help="viewer: looks; submitter: also submits and changes sweeps; admin: also manages keys."),
    ],
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Make a key and print it, alone on standard output. It is shown this once."""
    with connected(server, key) as client:
        made = client.create_key(name, role)
    if as_json:
        print_json(made)
    else:
        typer.echo(made["key"])
    typer.echo(f"The {made['role']} key {made['name']!r}. It cannot be shown again: keep it now.", err=True)


@commands.command("list")
def list_keys(as_json: AsJson = False, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """List all keys, the revoked ones last."""
    with connected(server, key) as client:
        found = client.list_keys()
    if as_json:
        print_json(found)
    else:
        print_view(_table(found))


@commands.command()
def revoke(
    which: Annotated[
        str, typer.Argument(metavar="ID-OR-NAME", help="The key's id or name.", autocompletion=complete_key)
    ],
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Let a key open nothing any more; asked again, it changes nothing."""
    with connected(server, key) as client:
        revoked = client.revoke_key(_id_of(client, which))
    if as_json:
        print_json(revoked)
    else:
        typer.echo(f"{revoked['id']} ({revoked['name']}) is revoked.")


def _id_of(client: SweepClient, which: str) -> str:
    from sweep_service.domain.ids import IdPrefix, is_id
    from sweep_service.domain.keys import without_keys

    if is_id(which, IdPrefix.KEY):
        return which
    found = [str(key["id"]) for key in client.list_keys() if key["name"] == which and key["revoked_at"] is None]
    if not found:
        shown = without_keys(which)
        fail(f"No key that is not revoked has the name {shown!r}; `sweep keys list` lists them.", USAGE)
    return found[0]


def _table(keys: Sequence[Mapping[str, Any]]) -> Table:
    from rich.table import Table

    from sweep_service.rendering import plain

    table = Table()
    for column in ("name", "role", "id", "made by", "made", "last used", "revoked"):
        table.add_column(column, no_wrap=True)
    for key in keys:
        times = (_day(key[name]) for name in ("created_at", "last_used_at", "revoked_at"))
        table.add_row(*(plain(key[name]) for name in ("name", "role", "id", "created_by")), *times)
    return table


def _day(moment: str | None) -> str:
    return "" if moment is None else moment[:16].replace("T", " ")
