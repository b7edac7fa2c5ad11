"""What the commands that talk to a service have in common: the way to it, its answers, and how a command fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from sweep_service.cli.completion import complete_sweep

if TYPE_CHECKING:
    from sweep_service.client import SweepClient

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
SURE_LENGTH = 4  # of an id's beginning, for what cannot be undone: a slip of the keyboard must not name a sweep
DEFAULT_SERVER = "http://127.0.0.1:8000"
SERVER_VARIABLES = ("SWEEP_SERVER", "SWEEP_URL")  # the second is the older name
KEY_VARIABLE = "SWEEP_KEY"
POLL_SECONDS = 0.5

Server = Annotated[
    str, typer.Option("--server", "--url", envvar=list(SERVER_VARIABLES), help="Address of the service.")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar=KEY_VARIABLE,
        help="Key of the service, if it requires one. In the variable, other users of the machine do not see it.",
        show_default=False,
    ),
]
SweepId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The sweep's id, or an unambiguous beginning of it.", autocompletion=complete_sweep
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API gives it.")]


@contextmanager
def connected(server: str, key: str | None = None) -> Iterator[SweepClient]:
    """A client whose errors end the command with a sentence and the right exit code."""
    from sweep_service.client import (
        ApiError,
        InvalidRequestError,
        LimitedError,
        MissingError,
        SweepClient,
        UnauthorizedError,
        UnavailableError,
        UnreachableError,
    )

    try:
        client = SweepClient(server, key=key, allow_http=True)
    except ValueError as error:  # of the address or the key
        fail(str(error), USAGE)
    _warn_of_readers(server, key)
    try:
        with client:
            yield client
    except (UnreachableError, UnavailableError, LimitedError) as error:
        fail(str(error), UNREACHABLE)
    except (InvalidRequestError, MissingError, UnauthorizedError) as error:
        fail(str(error), USAGE)
    except ApiError as error:
        fail(str(error), FAILED)


def _warn_of_readers(server: str, key: str | None) -> None:
    """Of a key that anybody on the way could read. It is no reason to refuse: a team's network may be its own."""
    import os

    from sweep_service.client.connection import goes_unencrypted

    if key and goes_unencrypted(server) and not os.environ.get("SWEEP_ALLOW_HTTP"):
        said = "Warning: the key goes over http, where anybody on the way can read it; use https, or set "
        typer.echo(f"{said}SWEEP_ALLOW_HTTP=1 if the network is yours.", err=True)


def fail(message: str, code: int) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(code)


def resolve(client: SweepClient, text: str, *, least: int = 1) -> str:
    """The id of the sweep that the text is the beginning of, with the prefix or without, in letters of either case; the
    text itself where the service is to judge it.
    """
    from sweep_service.domain.ids import IdPrefix, is_id

    prefix = f"{IdPrefix.SWEEP}_"
    given = text.strip().upper().removeprefix(prefix.upper())
    if len(given) < least:
        fail(f"{text!r} is too little of a sweep's id; give more of it, at least {least} after {prefix!r}.", USAGE)
    beginning = prefix + given
    if is_id(beginning, IdPrefix.SWEEP):
        return beginning
    known = (str(sweep.get("id")) for sweep in client.list(limit=500))
    found = [sweep_id for sweep_id in known if sweep_id.startswith(beginning)]
    if len(found) > 1:
        fail(f"{text!r} is the beginning of {len(found)} sweeps' ids; give more of it.", USAGE)
    return found[0] if found else text


def watch_to_the_end(client: SweepClient, sweep_id: str) -> None:
    from sweep_service.rendering import console_for, print_results, shown_updates

    console = console_for()
    try:
        with shown_updates(console) as on_update:
            sweep = client.wait(sweep_id, poll=POLL_SECONDS, on_update=on_update)
    except KeyboardInterrupt:
        typer.echo(f"The sweep goes on. Watch it again with: sweep watch {sweep_id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    print_results(console, sweep)
    if sweep["state"] not in ("completed", "stopped"):
        raise typer.Exit(FAILED)


def print_view(renderable: Any) -> None:
    from sweep_service.rendering import console_for

    console_for().print(renderable)


def print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
