"""From a spec in a file to a sweep: ``init``, ``validate`` and ``submit``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweep_service.cli.completion import complete_trainable
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
    watch_to_the_end,
)

if TYPE_CHECKING:
    from sweep_service.spec_file import SpecFile

commands = typer.Typer()


@commands.command()
def init(
    trainable: Annotated[
        str,
        typer.Argument(
            metavar="TRAINABLE", help="What to train, as the service lists it.", autocompletion=complete_trainable
        ),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; printed if not given.")] = None,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Write a commented spec to start from."""
    from sweep_service.spec_template import spec_template

    with connected(server, key) as client:
        known = {item["name"]: item for item in client.trainables()}
    if trainable not in known:
        fail(f"There is no trainable {trainable!r}. There are: {', '.join(sorted(known))}.", USAGE)
    text = spec_template(known[trainable])
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:  # never over a spec that somebody has worked on
            file.write(text)
    except FileExistsError:
        fail(f"{output} is there already; remove it, or choose another --output.", USAGE)
    except OSError as error:
        fail(f"{output} cannot be written: {error.strerror}.", USAGE)
    to_fill_in = [parameter["name"] for parameter in known[trainable]["parameters"] if parameter["default"] is None]
    first = f"Fill in {' and '.join(to_fill_in)}, then queue" if to_fill_in else "Queue"
    typer.echo(f"Written. {first} it with: sweep submit {output} --watch", err=True)


@commands.command()
def submit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The spec, YAML or JSON; - reads standard input.")],
    watch: Annotated[bool, typer.Option("--watch", help="Watch the sweep until it has ended.")] = False,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Check a spec and queue its sweep."""
    if watch and as_json:
        fail("--json and --watch exclude each other; `sweep show --json` has what came out.", USAGE)
    spec = read_spec(file)
    with connected(server, key) as client:
        with faults_told(file, spec, as_json=as_json):
            sweep = client.submit(spec.document)
        if as_json:
            print_json(sweep)
        else:
            typer.echo(sweep["id"])
        if watch:
            watch_to_the_end(client, sweep["id"])
        else:
            typer.echo(f"Queued. Watch it with: sweep watch {sweep['id']}", err=True)


@commands.command()
def validate(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The spec, YAML or JSON; - reads standard input.")],
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Check a spec as submit does, queue nothing, and say what would come of it. Exit code 2: it is wrong."""
    spec = read_spec(file)
    with connected(server, key) as client, faults_told(file, spec, as_json=as_json):
        preview = client.preview(spec.document)
    if as_json:
        print_json(preview)
        return
    from sweep_service.rendering import preview_view

    print_view(preview_view(preview))


def read_spec(file: str) -> SpecFile:
    from sweep_service.spec_file import SpecFileError, read_spec_file

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        return read_spec_file(text)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}.", USAGE)
    except UnicodeDecodeError:
        fail(f"{file} is not UTF-8 text.", USAGE)
    except SpecFileError as error:
        fail(f"{file_name(file)}: {error}", USAGE)


@contextmanager
def faults_told(file: str, spec: SpecFile, *, as_json: bool) -> Iterator[None]:
    """Where the service refuses the spec: end the command, every fault told with its line. As JSON: the API's problem
    document, and a ``line`` in each of its errors.
    """
    from sweep_service.client import InvalidRequestError
    from sweep_service.rendering import plain

    try:
        yield
    except InvalidRequestError as error:
        faults = [{**item, "line": spec.line_of(item.get("pointer", ""))} for item in error.errors]
        if as_json:
            print_json({**error.problem, "errors": faults})
        typer.echo(f"Error: {file_name(file)}: {plain(error.problem.get('detail', ''))}", err=True)
        for fault in faults:
            place = "" if fault["line"] is None else f"line {fault['line']}, "
            pointer = plain(fault.get("pointer", "")) or "/"
            typer.echo(f"  {place}{pointer}: {plain(fault.get('detail', ''))}", err=True)
        raise typer.Exit(USAGE) from None


def file_name(file: str) -> str:
    return "standard input" if file == "-" else file
