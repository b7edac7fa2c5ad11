"""The ``sweep`` command. What is heavy (httpx, rich's tables, the launcher) is imported by the commands that need it.

Exit codes: 0 the sweep completed or was stopped, or the command did its work; 1 it failed or was cancelled, or the
service refused; 2 wrong usage or an invalid spec; 3 the service cannot be reached; 130 interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from sweep_service.client import ApiError, SweepClient
    from sweep_service.spec_file import SpecFile

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130
_POLL_SECONDS = 0.5
_SURE_LENGTH = 4  # of an id's beginning, for what cannot be undone: a slip of the keyboard must not name a sweep

app = typer.Typer(
    name="sweep",
    help="Sweeps of multi-task networks trained with GradNorm.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Url = Annotated[str, typer.Option("--url", envvar="SWEEP_URL", help="Address of the service.")]
SweepId = Annotated[str, typer.Argument(metavar="ID", help="The sweep's id, or an unambiguous beginning of it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API gives it.")]
Home = Annotated[Path, typer.Option(help="Folder for everything that the stack keeps.")]
_DEFAULT_URL = "http://127.0.0.1:8000"


@app.command()
def up(
    home: Home = Path(".sweep"),
    port: Annotated[int, typer.Option(help="Port of the API.", min=0, max=65535)] = 8000,
    mlflow_port: Annotated[int, typer.Option(help="Port of MLflow's page.", min=0, max=65535)] = 5000,
    cpus: Annotated[int | None, typer.Option(help="CPUs to give to trials; all of them if not given.", min=1)] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs to give to trials; all of them if not given.", min=0)] = None,
) -> None:
    """Start the whole stack on this machine; Ctrl-C ends it."""
    from sweep_service.launcher import LaunchError, StackOptions
    from sweep_service.launcher import up as start
    from sweep_service.supervisor import ChildFailedError

    options = StackOptions(home=home, port=port, mlflow_port=mlflow_port, num_cpus=cpus, num_gpus=gpus)
    try:
        code = start(options)
    except (LaunchError, ChildFailedError) as error:
        _fail(str(error), FAILED)
    raise typer.Exit(code)


@app.command()
def demo(
    home: Home = Path(".sweep-demo"),
    output: Annotated[Path, typer.Option(help="Where to write the results.")] = Path("demo-result.json"),
) -> None:
    """Start a stack, sweep the census data over REST, print and write what came out, end the stack."""
    from sweep_service.demo import run

    raise typer.Exit(run(home=home, output=output))


@app.command()
def submit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The spec, YAML or JSON; - reads standard input.")],
    watch: Annotated[bool, typer.Option("--watch", help="Watch the sweep until it has ended.")] = False,
    url: Url = _DEFAULT_URL,
) -> None:
    """Check a spec and queue its sweep."""
    from sweep_service.client import InvalidRequestError

    spec = _read_spec(file)
    with _client(url) as client:
        try:
            sweep = client.submit(spec.document)
        except InvalidRequestError as error:
            _refuse_spec(file, spec, error)
        if not watch:
            typer.echo(sweep["id"])
            typer.echo(f"Queued. Watch it with: sweep watch {sweep['id']}", err=True)
            return
        typer.echo(sweep["id"])
        _watch(client, sweep["id"])


@app.command("list")
def list_sweeps(
    limit: Annotated[int, typer.Option(help="At most so many sweeps.", min=1)] = 50,
    state: Annotated[list[str] | None, typer.Option(help="Only sweeps in that state; may be repeated.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY:VALUE", help="Only sweeps with that label; may be repeated.")
    ] = None,
    as_json: AsJson = False,
    url: Url = _DEFAULT_URL,
) -> None:
    """List sweeps, newest first."""
    with _client(url) as client:
        sweeps = client.list(limit=limit, states=state or (), labels=label or ())
    if as_json:
        _print_json(sweeps)
        return
    from sweep_service.rendering import sweeps_table

    if sweeps:
        _print(sweeps_table(sweeps))
    else:
        typer.echo("No such sweeps." if state or label else "No sweeps yet. Submit one with: sweep submit FILE")


@app.command()
def show(sweep_id: SweepId, as_json: AsJson = False, url: Url = _DEFAULT_URL) -> None:
    """Show where a sweep stands or how it ended."""
    with _client(url) as client:
        sweep = client.get(_resolve(client, sweep_id))
    if as_json:
        _print_json(sweep)
        return
    from sweep_service.rendering import console_for, live_view, print_results

    typer.echo(sweep["id"])
    if sweep.get("results"):
        print_results(console_for(), sweep)
    else:
        _print(live_view(sweep))


@app.command()
def init(
    trainable: Annotated[str, typer.Argument(metavar="TRAINABLE", help="What to train, as the service lists it.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; printed if not given.")] = None,
    url: Url = _DEFAULT_URL,
) -> None:
    """Write a commented spec to start from."""
    from sweep_service.spec_template import spec_template

    with _client(url) as client:
        known = {item["name"]: item for item in client.trainables()}
    if trainable not in known:
        _fail(f"There is no trainable {trainable!r}. There are: {', '.join(sorted(known))}.", USAGE)
    text = spec_template(known[trainable])
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:  # never over a spec that somebody has worked on
            file.write(text)
    except FileExistsError:
        _fail(f"{output} is there already; remove it, or choose another --output.", USAGE)
    except OSError as error:
        _fail(f"{output} cannot be written: {error.strerror}.", USAGE)
    typer.echo(f"Written. Queue it with: sweep submit {output} --watch", err=True)


@app.command()
def trials(sweep_id: SweepId, as_json: AsJson = False, url: Url = _DEFAULT_URL) -> None:
    """List a sweep's trials, whatever became of them."""
    with _client(url) as client:
        found = client.trials(_resolve(client, sweep_id))
    if as_json:
        _print_json(found)
        return
    from sweep_service.rendering import trials_table

    if found:
        _print(trials_table(found))
    else:
        typer.echo("No trials yet.")


@app.command()
def best(sweep_id: SweepId, as_json: AsJson = False, url: Url = _DEFAULT_URL) -> None:
    """Show the best trial so far and its parameters. Exit code 1: there is none."""
    with _client(url) as client:
        found = client.best(_resolve(client, sweep_id))
    trial = found["best"]
    if as_json:
        _print_json(found)
    elif trial is not None:
        from sweep_service.rendering import number, parameters

        typer.echo(f"trial {trial['number']} ({trial['balancer']}): {number(trial['objective'])}")
        typer.echo(parameters(trial["searched"]))
    else:
        typer.echo(found["reason"], err=True)
    if trial is None:
        raise typer.Exit(FAILED)


@app.command()
def events(
    sweep_id: SweepId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the sweep has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document a line.")] = False,
    url: Url = _DEFAULT_URL,
) -> None:
    """Print what has happened to a sweep, in order."""
    from sweep_service.rendering import event_line

    with _client(url) as client:
        sweep_id = _resolve(client, sweep_id)
        for event in client.follow(sweep_id) if follow else client.events(sweep_id):
            typer.echo(json.dumps(event, ensure_ascii=False) if as_json else event_line(event))


@app.command()
def report(
    sweep_id: SweepId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; report-<id>.html here if not given.")
    ] = None,
    opens: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    url: Url = _DEFAULT_URL,
) -> None:
    """Save a sweep's figures and tables as one page of HTML, which needs no service any more."""
    import webbrowser

    with _client(url) as client:
        found = _resolve(client, sweep_id)
        page = client.report(found)
    path = output or Path(f"report-{found}.html")
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        _fail(f"{path} cannot be written: {error.strerror}.", USAGE)
    typer.echo(path)
    if opens and not webbrowser.open(path.resolve().as_uri()):
        typer.echo(f"No browser could be started here; open {path} with one.", err=True)


@app.command()
def watch(sweep_id: SweepId, url: Url = _DEFAULT_URL) -> None:
    """Watch a sweep until it has ended, then print its leaderboard and verdict."""
    with _client(url) as client:
        _watch(client, _resolve(client, sweep_id))


@app.command()
def stop(sweep_id: SweepId, url: Url = _DEFAULT_URL) -> None:
    """Let the running trials finish and start no new ones."""
    with _client(url) as client:
        sweep = client.stop(_resolve(client, sweep_id, least=_SURE_LENGTH))
    typer.echo(f"{sweep['id']} is {sweep['state']}.")


@app.command()
def cancel(sweep_id: SweepId, url: Url = _DEFAULT_URL) -> None:
    """Kill the running trials and start no new ones."""
    with _client(url) as client:
        sweep = client.cancel(_resolve(client, sweep_id, least=_SURE_LENGTH))
    typer.echo(f"{sweep['id']} is {sweep['state']}.")


@app.command()
def delete(
    sweep_id: SweepId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = _DEFAULT_URL,
) -> None:
    """Forget a sweep that has ended; its runs and its model in MLflow stay."""
    with _client(url) as client:
        found = _resolve(client, sweep_id, least=_SURE_LENGTH)
        if not yes:
            typer.confirm(f"Forget {found} with its trials, curves and events?", abort=True, err=True)
        client.delete(found)
    typer.echo(f"{found} is forgotten. Its runs in MLflow stay.")


def main() -> None:
    """The entry point."""
    app()


@contextmanager
def _client(url: str) -> Iterator[SweepClient]:
    """A client whose errors end the command with a sentence and the right exit code."""
    from sweep_service.client import (
        ApiError,
        InvalidRequestError,
        MissingError,
        SweepClient,
        UnavailableError,
        UnreachableError,
    )

    try:
        client = SweepClient(url)
    except ValueError as error:  # of the address
        _fail(str(error), USAGE)
    try:
        with client:
            yield client
    except (UnreachableError, UnavailableError) as error:
        _fail(str(error), UNREACHABLE)
    except (InvalidRequestError, MissingError) as error:
        _fail(str(error), USAGE)
    except ApiError as error:
        _fail(str(error), FAILED)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"Error: {message}", err=True)
    raise typer.Exit(code)


def _read_spec(file: str) -> SpecFile:
    from sweep_service.spec_file import SpecFileError, read_spec_file

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        return read_spec_file(text)
    except OSError as error:
        _fail(f"{file} cannot be read: {error.strerror}.", USAGE)
    except UnicodeDecodeError:
        _fail(f"{file} is not UTF-8 text.", USAGE)
    except SpecFileError as error:
        _fail(f"{_file_name(file)}: {error}", USAGE)


def _refuse_spec(file: str, spec: SpecFile, error: ApiError) -> NoReturn:
    from sweep_service.rendering import plain

    typer.echo(f"Error: {_file_name(file)}: {plain(error.problem.get('detail', ''))}", err=True)
    for item in error.errors:
        pointer = item.get("pointer", "")
        line = spec.line_of(pointer)
        place = f"line {line}, " if line is not None else ""
        typer.echo(f"  {place}{plain(pointer) or '/'}: {plain(item.get('detail', ''))}", err=True)
    raise typer.Exit(USAGE)


def _file_name(file: str) -> str:
    return "standard input" if file == "-" else file


def _resolve(client: SweepClient, text: str, *, least: int = 1) -> str:
    """The id of the sweep that the text is the beginning of, with the prefix or without, in letters of either case; the
    text itself where the service is to judge it.
    """
    from sweep_service.domain.ids import IdPrefix, is_id

    prefix = f"{IdPrefix.SWEEP}_"
    given = text.strip().upper().removeprefix(prefix.upper())
    if len(given) < least:
        _fail(f"{text!r} is too little of a sweep's id; give more of it, at least {least} after {prefix!r}.", USAGE)
    beginning = prefix + given
    if is_id(beginning, IdPrefix.SWEEP):
        return beginning
    known = (str(sweep.get("id")) for sweep in client.list(limit=500))
    found = [sweep_id for sweep_id in known if sweep_id.startswith(beginning)]
    if len(found) > 1:
        _fail(f"{text!r} is the beginning of {len(found)} sweeps' ids; give more of it.", USAGE)
    return found[0] if found else text


def _watch(client: SweepClient, sweep_id: str) -> None:
    from sweep_service.rendering import console_for, print_results, shown_updates

    console = console_for()
    try:
        with shown_updates(console) as on_update:
            sweep = client.wait(sweep_id, poll=_POLL_SECONDS, on_update=on_update)
    except KeyboardInterrupt:
        typer.echo(f"The sweep goes on. Watch it again with: sweep watch {sweep_id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    print_results(console, sweep)
    if sweep["state"] not in ("completed", "stopped"):
        raise typer.Exit(FAILED)


def _print(renderable: Any) -> None:
    from sweep_service.rendering import console_for

    console_for().print(renderable)


def _print_json(document: Any) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
