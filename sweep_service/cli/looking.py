"""What there is and how it stands: lists, single sweeps, their trials and events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sweep_service.cli.completion import complete_state
from sweep_service.cli.service import (
    DEFAULT_SERVER,
    FAILED,
    USAGE,
    AsJson,
    Key,
    Server,
    SweepId,
    connected,
    fail,
    print_json,
    print_view,
    resolve,
    watch_to_the_end,
)
from sweep_service.domain.keys import ANONYMOUS

commands = typer.Typer()


@commands.command("list")
def list_sweeps(
    limit: Annotated[int, typer.Option(help="At most so many sweeps.", min=1)] = 50,
    state: Annotated[
        list[str] | None,
        typer.Option(help="Only sweeps in that state; may be repeated.", autocompletion=complete_state),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY:VALUE", help="Only sweeps with that label; may be repeated.")
    ] = None,
    as_json: AsJson = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """List sweeps, newest first."""
    with connected(server, key) as client:
        sweeps = client.list(limit=limit, states=state or (), labels=label or ())
    if as_json:
        print_json(sweeps)
        return
    from sweep_service.rendering import sweeps_table

    if sweeps:
        print_view(sweeps_table(sweeps))
    else:
        typer.echo("No such sweeps." if state or label else "No sweeps yet. Submit one with: sweep submit FILE")


@commands.command()
def show(sweep_id: SweepId, as_json: AsJson = False, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """Show where a sweep stands or how it ended."""
    with connected(server, key) as client:
        sweep = client.get(resolve(client, sweep_id))
    if as_json:
        print_json(sweep)
        return
    from sweep_service.rendering import console_for, live_view, plain, print_results

    typer.echo(sweep["id"])
    if (creator := plain(sweep.get("created_by", ""))) not in ("", ANONYMOUS.name):
        typer.echo(f"submitted by {creator}")
    if sweep.get("results"):
        print_results(console_for(), sweep)
    else:
        print_view(live_view(sweep))


@commands.command()
def watch(sweep_id: SweepId, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """Watch a sweep until it has ended, then print its leaderboard and verdict."""
    with connected(server, key) as client:
        watch_to_the_end(client, resolve(client, sweep_id))


@commands.command()
def trials(sweep_id: SweepId, as_json: AsJson = False, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """List a sweep's trials, whatever became of them."""
    with connected(server, key) as client:
        found = client.trials(resolve(client, sweep_id))
    if as_json:
        print_json(found)
        return
    from sweep_service.rendering import trials_table

    if found:
        print_view(trials_table(found))
    else:
        typer.echo("No trials yet.")


@commands.command()
def best(sweep_id: SweepId, as_json: AsJson = False, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """Show the best trial so far, with its parameters; of several objectives the Pareto front too, of several balancers
    with a search each their ranking. Exit code 1: there is none.
    """
    with connected(server, key) as client:
        found = client.best(resolve(client, sweep_id))
    trial = found["best"]
    if as_json:
        print_json(found)
    elif trial is not None:
        from sweep_service.rendering import front_table, methods_table, number, parameters

        typer.echo(f"trial {trial['number']} ({trial['balancer']}): {number(trial['objective'])}")
        typer.echo(parameters(trial["searched"]))
        if found["front"]:
            print_view(front_table(found["front"]))
        if found.get("methods"):
            print_view(methods_table(found["methods"]))
    else:
        typer.echo(found["reason"], err=True)
    if trial is None:
        raise typer.Exit(FAILED)


@commands.command()
def events(
    sweep_id: SweepId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the sweep has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON document a line.")] = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Print what has happened to a sweep, in order."""
    from sweep_service.rendering import event_line

    with connected(server, key) as client:
        sweep_id = resolve(client, sweep_id)
        for event in client.follow(sweep_id) if follow else client.events(sweep_id):
            typer.echo(json.dumps(event, ensure_ascii=False) if as_json else event_line(event))


@commands.command()
def report(
    sweep_id: SweepId,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; report-<id>.html here if not given.")
    ] = None,
    opens: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Save a sweep's figures and tables as one page of HTML, which needs no service any more."""
    import webbrowser

    with connected(server, key) as client:
        found = resolve(client, sweep_id)
        page = client.report(found)
    path = output or Path(f"report-{found}.html")
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        fail(f"{path} cannot be written: {error.strerror}.", USAGE)
    typer.echo(path)
    if opens and not webbrowser.open(path.resolve().as_uri()):
        typer.echo(f"No browser could be started here; open {path} with one.", err=True)
